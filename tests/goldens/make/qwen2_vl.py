"""Goldens of Qwen2-VL: two tiny checkpoints and all that hangs on them."""

import json
import math
from pathlib import Path

import torch
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

import common
import counts
import pictures
import prompts
import strings
import templates
import tiny_tokenizer

FAMILY = "qwen2_vl"
TEMPLATE = Path(__file__).with_suffix(".jinja").read_text(encoding="utf-8").rstrip("\n")
MIN_PIXELS, MAX_PIXELS = 28 * 28 * 4, 28 * 28 * 16

TEXT = {
    "vocab_size": 384,
    "hidden_size": 256,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 16.0,  # small: height and width must matter on small grids
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": True,
    "bos_token_id": 346,
    "eos_token_id": 348,
}
TOWER = {"depth": 2, "embed_dim": 160, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 256}

OLD_TEXT = {
    **TEXT,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
    "tie_word_embeddings": False,
}
OLD_TOWER = {"depth": 1, "embed_dim": 64, "num_heads": 1, "mlp_ratio": 2, "hidden_size": 256}


def checkpoints():
    """The two model folders."""
    write_new(common.folder(FAMILY, "checkpoint"))
    write_old(common.folder(FAMILY, "checkpoint_old"))


def preprocessing():
    pictures.write_resize_table(FAMILY, "transformers.models.qwen2_vl.image_processing_qwen2_vl")
    pictures.write_cases(FAMILY, load_processor("checkpoint").image_processor)
    hub = {"min_pixels": 3136, "max_pixels": 12845056}
    small = {"min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS}
    cases = [counts.case("../checkpoint", rows_of(limits), limits) for limits in (small, hub)]
    counts.write(FAMILY, cases)


def rows_of(limits):
    """Rows of a picture by its height and width, under these limits."""

    def rows(height, width):
        high, wide = smart_resize(height, width, factor=28, **limits)
        return high * wide // 28**2

    return rows


def model():
    for index, name in [("index", "checkpoint"), ("index_old", "checkpoint_old")]:
        loaded = load_model(name)
        is_new = name == "checkpoint"
        hooks = inside_hooks(loaded) if is_new else {}
        chosen = prompts.PROMPTS if is_new else prompts.named(*prompts.FEW)
        family = Qwen2VL(loaded, load_processor(name), hooks)
        prompts.write(FAMILY, index, name, family, chosen)


def template():
    templates.write(FAMILY, load_processor("checkpoint"))


def tokenizer():
    strings.write(FAMILY, load_processor("checkpoint").tokenizer, tiny_tokenizer.SPECIAL)


PARTS = {
    "checkpoint": checkpoints,
    "preprocessing": preprocessing,
    "model": model,
    "template": template,
    "tokenizer": tokenizer,
}


class Qwen2VL(prompts.Family):
    def positions(self, inputs):
        grid = inputs.get("image_grid_thw")
        positions, delta = self.model.model.get_rope_index(inputs["input_ids"], grid)
        self.forget()
        return positions[:, 0], delta

    def grids(self, inputs):
        return inputs["image_grid_thw"].tolist()

    def pixel_rows(self, inputs):
        return inputs["pixel_values"]

    def encode(self, inputs):
        with torch.no_grad():
            pixels, grid = inputs["pixel_values"], inputs["image_grid_thw"]
            return list(self.model.get_image_features(pixels, grid))

    def forget(self):
        self.model.model.rope_deltas = None


def write_new(place):
    """Second-generation names: what `save_pretrained` writes once its renaming is emptied."""
    model = build(TEXT, TOWER, seed=20).to(torch.bfloat16)
    model._checkpoint_conversion_mapping = {}
    model.save_pretrained(place)
    save_processor(place)


def write_old(place):
    """What older hubs hold: first-generation names, shards, a flat config, a JSON template."""
    model = build(OLD_TEXT, OLD_TOWER, seed=21).to(torch.float16)
    model.save_pretrained(place, max_shard_size="1200KB")
    save_processor(place)
    (place / "chat_template.jinja").unlink()
    (place / "video_preprocessor_config.json").unlink()
    dump(place / "chat_template.json", {"chat_template": TEMPLATE})
    dump(place / "config.json", flat_config(OLD_TEXT, OLD_TOWER))
    dump(place / "preprocessor_config.json", hub_preprocessor())


def build(text, tower, seed):
    ids = tiny_tokenizer.ids(tiny_tokenizer.make())
    config = Qwen2VLConfig(
        text_config=json.loads(json.dumps(text)),
        vision_config=dict(tower),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=text["tie_word_embeddings"],
    )
    model = Qwen2VLForConditionalGeneration(config)
    common.fill(model, seed, scales)
    head = model.lm_head.weight
    with torch.no_grad():
        # Special and padding tokens are never the best answer of a random model.
        head[tiny_tokenizer.N_PLAIN :] *= 0.15
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.01,
        top_k=1,
        top_p=0.001,
        bos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]],
    )
    return model


def scales(name, shape):
    """Mean and standard deviation of a parameter.

    Logits get a spread of about 4. The final norm's weights have mean 0: with mean 1 a tied head
    would make the model repeat its last token. In the tower the patches outweigh what is the same
    for all of them (biases, averages over attention), so that rows differ.
    """
    if name == "model.language_model.norm.weight":
        return 0.0, 1.0
    if "embed_tokens" in name or "lm_head" in name:
        return 0.0, 0.25
    tower = name.startswith("model.visual")
    if len(shape) == 1:
        is_norm_weight = name.endswith("weight")
        return (1.0, 0.2) if is_norm_weight else (0.0, 0.05 if tower else 0.2)
    return 0.0, gain(name, tower) / math.sqrt(math.prod(shape[1:]))


def gain(name, tower):
    """How much a product multiplies the standard deviation of what enters it."""
    if any(key in name for key in ["q_proj", "k_proj", "qkv"]):
        return 1.6 if tower else 1.0
    if "patch_embed" in name:
        return 4.0
    if tower and ("attn.proj" in name or "fc2" in name):
        return 0.8
    return 1.2


def save_processor(place):
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS),
        tokenizer=tiny_tokenizer.make(),
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(place)


def flat_config(text, tower):
    """The config layout of the first hub checkpoints, which 4.57.1 still reads."""
    saved = json.loads((common.GOLDENS / FAMILY / "checkpoint" / "config.json").read_text())
    ids = {key: saved[key] for key in sorted(saved) if key.endswith("_token_id")}
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        **text,
        **ids,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "max_window_layers": text["num_hidden_layers"],
        "sliding_window": 4096,
        "use_sliding_window": False,
        "use_cache": True,
        "torch_dtype": "float16",
        "transformers_version": "4.41.2",
        "vision_config": {
            **tower,
            "model_type": "qwen2_vl",
            "in_chans": 3,
            "patch_size": 14,
            "spatial_patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


def hub_preprocessor():
    return {
        "min_pixels": MIN_PIXELS,
        "max_pixels": MAX_PIXELS,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
    }


def dump(path, content):
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_model(name):
    return Qwen2VLForConditionalGeneration.from_pretrained(
        common.GOLDENS / FAMILY / name, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def load_processor(name):
    """The slow image processor with the fast tokenizer, the one of `tokenizer.json`."""
    place = common.GOLDENS / FAMILY / name
    processor = AutoProcessor.from_pretrained(place, use_fast=False)
    processor.tokenizer = AutoTokenizer.from_pretrained(place, use_fast=True)
    return processor


def inside_hooks(model):
    """Name -> module whose output is stored for one prompt."""
    tower, text = model.model.visual, model.model.language_model
    blocks = {f"tower_block_{index}": block for index, block in enumerate(tower.blocks)}
    layers = {f"text_layer_{index}": layer for index, layer in enumerate(text.layers)}
    return {"patch_embed": tower.patch_embed, **blocks, **layers, "final_norm": text.norm}
