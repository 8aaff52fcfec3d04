"""What LLaVA-1.5 and LLaVA-NeXT share: random weights, templates, tiles, and their goldens."""

import json
import math

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, GenerationConfig

import common
import prompts
import templates
import tiny_llama_tokenizer

SIDE = 56  # of a tile: 4 by 4 patches
PATCH = 14
VOCABULARY = 448
TOWER = {
    "model_type": "clip_vision_model",
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,  # of which two are run
    "image_size": SIDE,
    "patch_size": PATCH,
    "projection_dim": 32,
    "hidden_act": "quick_gelu",
}
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]


class Llava(prompts.Family):
    """One picture, one tile."""

    def messages(self, messages):
        """This template knows parts only; text alone is a part too."""
        return [typed(message) for message in messages]

    def grids(self, inputs):
        side = SIDE // PATCH
        return [[n, side, side] for n in self.tiles(inputs)]

    def tiles(self, inputs):
        return [1] * len(inputs["pixel_values"])

    def pixel_rows(self, inputs):
        return patch_rows(inputs["pixel_values"])

    def encode(self, inputs):
        with torch.no_grad():
            return list(self.model.model.get_image_features(inputs["pixel_values"]))


def typed(message):
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {**message, "content": parts}


def patch_rows(tiles):
    """Rows `[tiles · h · w, 3 · P · P]` of pixel values `[tiles, 3, H, W]`."""
    tiles = torch.as_tensor(np.asarray(tiles))
    n, channels, height, width = tiles.shape
    cut = tiles.reshape(n, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels * PATCH * PATCH)


def build(model, seed, spread):
    """Fills a model; its special and padding tokens are never its best answer.

    `spread` is the standard deviation of the embedding and of the head.
    """
    common.fill(model, seed, lambda name, shape: scales(name, shape, spread))
    ids = tiny_llama_tokenizer.ids(tiny_llama_tokenizer.make())
    with torch.no_grad():
        model.lm_head.weight[: tiny_llama_tokenizer.N_FIRST] *= 0.15
        model.lm_head.weight[tiny_llama_tokenizer.N_PLAIN :] *= 0.15
    model.generation_config = GenerationConfig(
        bos_token_id=ids["<s>"], eos_token_id=ids["</s>"], pad_token_id=ids["<pad>"]
    )
    return model


def scales(name, shape, spread):
    """Mean and standard deviation of a parameter, chosen as for Qwen2-VL."""
    if name == "model.language_model.norm.weight":
        return 0.0, 1.0
    if "embed_tokens" in name or "lm_head" in name:
        return 0.0, spread["lm_head" in name]
    if "class_embedding" in name or "image_newline" in name:
        return 0.0, 0.5
    if "position_embedding" in name:
        return 0.0, 0.3
    tower = "vision_tower" in name
    if len(shape) == 1:
        is_norm_weight = name.endswith("weight")
        return (1.0, 0.2) if is_norm_weight else (0.0, 0.05 if tower else 0.2)
    return 0.0, gain(name, tower) / math.sqrt(math.prod(shape[1:]))


def gain(name, tower):
    """How much a product multiplies the standard deviation of what enters it."""
    if any(key in name for key in ["q_proj", "k_proj"]):
        return 1.6 if tower else 1.0
    if "patch_embedding" in name:
        return 4.0
    if tower and ("out_proj" in name or "fc2" in name):
        return 0.8
    return 1.2


def text(**changes):
    """A tiny Llama or Mistral."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        **changes,
    }


def image_token_id():
    return tiny_llama_tokenizer.ids(tiny_llama_tokenizer.make())["<image>"]


def dump(path, content):
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_model(kind, family, name):
    return kind.from_pretrained(
        common.GOLDENS / family / name, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def load_processor(family, name):
    """The slow image processor with the fast tokenizer, the one of `tokenizer.json`."""
    place = common.GOLDENS / family / name
    processor = AutoProcessor.from_pretrained(place, use_fast=False)
    processor.tokenizer = AutoTokenizer.from_pretrained(place, use_fast=True)
    return processor


def write_templates(family, folder, processor):
    """Message lists that this family's templates take, and what they make of them."""
    place = common.folder(family, folder)
    cases = []
    for name, messages, kwargs in templates.CASES:
        given = [typed(message) for message in messages]
        for add in (False, True):
            try:
                text = processor.apply_chat_template(given, add_generation_prompt=add, **kwargs)
            except Exception:  # the template's own refusal
                continue
            case = {"name": name, "messages": messages, "add_generation_prompt": add}
            cases.append({**case, "kwargs": kwargs, "text": text})
    places = templates.write_places(place, processor.chat_template)
    content = {"template": "chat_template.jinja", "places": places, "cases": cases}
    common.write_json(place / "index.json", content)


def write_pictures(family, processor, chosen, whole, tiles_of):
    """`index.json`, the tiles of each picture one below the other, and a few whole outputs.

    `tiles_of(output)` gives the tiles `[n, 3, H, W]` of the processor's one picture.
    """
    place = common.folder(family, "preprocessing")
    common.folder(family, "preprocessing", "resized")
    tensors, cases = {}, []
    for width, height, kind, note in chosen:
        name = f"{width}x{height}"
        case = {"name": name, "picture": picture(kind, width, height)}
        image = Image.fromarray(common.draw(case["picture"], None), "RGB")
        given = {"input_data_format": "channels_last"} if height in (1, 3) else {}
        image_processor = processor.image_processor
        bare = image_processor(
            image, do_rescale=False, do_normalize=False, return_tensors="np", **given
        )
        tiles = tiles_of(bare)
        save_tiles(tiles, place / "resized" / f"{name}.png")
        if name in whole:
            full = tiles_of(image_processor(image, return_tensors="np", **given))
            tensors[name] = patch_rows(full)
        counted = processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
        cases.append(
            {
                **case,
                "grid_thw": [len(tiles), SIDE // PATCH, SIDE // PATCH],
                "n_tokens": counted.num_image_tokens[0],
                "resized": f"resized/{name}.png",
                "pixel_values": name if name in whole else None,
                "note": note,
            }
        )
    common.write_tensors(place / "pixel_values.safetensors", tensors)
    content = {
        "tensors_file": "pixel_values.safetensors",
        "patch_size": PATCH,
        "temporal_patch_size": 1,
        "merge_size": 1,
        "cases": cases,
        "refused": [],
    }
    common.write_json(place / "index.json", content)


def picture(kind, width, height):
    if kind == "noise":
        return common.noise(width, height, width * 10_000 + height)
    steep = max(2, 1500 // max(width, height))
    waves = [[1 + (width + c) % steep, (height + 2 * c) % steep, 90 * c] for c in range(3)]
    return common.smooth(width, height, waves)


def save_tiles(tiles, path):
    tiles = np.asarray(tiles)
    assert (tiles == tiles.astype(np.uint8)).all()
    rows = tiles.astype(np.uint8).transpose(0, 2, 3, 1).reshape(-1, tiles.shape[3], 3)
    common.save_png(np.ascontiguousarray(rows), path)
