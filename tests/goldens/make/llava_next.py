"""Goldens of LLaVA-NeXT: two tiny checkpoints, of Mistral and of Vicuna, and what hangs on them."""

from pathlib import Path

import torch
from transformers import (
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
)
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

import common
import counts
import llava
import llava_common
import prompts
import tiny_llama_tokenizer
from llava_common import MEAN, PATCH, SIDE, STD, TOWER

FAMILY = "llava_next"
HUB = "../../../shapes/llava-v1.6-mistral-7b"
HERE = Path(__file__).parent
# The published models' choice, in tiles: high, wide.
GRIDS = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]

# Rows of pictures outnumber words here: with smaller embeddings the model would answer with one
# token for ever, and with a smaller head its margins would be too narrow.
SPREAD = (1.0, 0.4)
MISTRAL = {
    "model_type": "mistral",
    **llava_common.text(num_key_value_heads=1, rope_theta=1e6, sliding_window=None),
}
VICUNA = {
    "model_type": "llama",
    **llava_common.text(hidden_size=128, num_hidden_layers=1),
}

SLIM = common.noise(24, 170, 8)
FLAT = common.smooth(400, 36, [[1, 3, 30], [2, 1, 90], [1, 5, 200]])
PROMPTS = [
    *prompts.named("text_only", "long_text", "one_image"),
    ("unpadded", [prompts.user(SLIM, "The first picture{}", FLAT, "?")], [SLIM, FLAT]),
    ("smallest_image", [prompts.user("Look: ", prompts.TINY, " {}")], [prompts.TINY]),
    (
        "in_turns",
        [
            prompts.turn("system", "Answer in one word{}"),
            prompts.user(prompts.WIDE, "Which is larger?"),
            prompts.turn("assistant", "The first."),
            prompts.user("And this one?", prompts.TALL),
        ],
        [prompts.WIDE, prompts.TALL],
    ),
]
FEW = [prompt for prompt in PROMPTS if prompt[0] in ("text_only", "unpadded")]

# width, height, kind, note
PICTURES = [
    (1, 1, "noise", "one pixel; channels_last given"),
    (1, 90, "smooth", "one pixel wide, all columns but the newline's unpadded"),
    (90, 1, "smooth", "one pixel high; channels_last given"),
    (112, 112, "noise", "four tiles, nothing to resize"),
    (56, 112, "noise", "two tiles, nothing to resize"),
    (113, 55, "smooth", "resized, rows padded unevenly"),
    (60, 60, "smooth", "enlarged to four tiles"),
    (640, 480, "smooth", "reduced, padded"),
    (481, 640, "smooth", "reduced, padded, an odd side"),
    (400, 36, "smooth", "wide: three tiles, unpadded"),
    (24, 170, "smooth", "tall: three tiles, unpadded"),
    (168, 50, "noise", "rows padded by three on either side, none unpadded"),
    (300, 300, "smooth", "reduced to four tiles"),
    (9, 7, "noise", "enlarged"),
]


class LlavaNext(llava_common.Llava):
    whole = ["text_only", "unpadded"]
    steps = ["text_only", "in_turns"]
    pixels = []

    def tiles(self, inputs):
        pinpoints = self.model.config.image_grid_pinpoints
        sizes = inputs["image_sizes"]
        return [image_size_to_num_patches(size, pinpoints, SIDE) for size in sizes]

    def encode(self, inputs):
        with torch.no_grad():
            features = self.model.model.get_image_features(
                inputs["pixel_values"], inputs["image_sizes"]
            )
        return list(features)


class Vicuna(LlavaNext):
    whole = ["text_only"]
    steps = []


def pinpoints(side):
    return [[high * side, wide * side] for high, wide in GRIDS]


def checkpoints():
    """First-generation names, as the hub has them; the second folder in f16 and in shards."""
    mistral = write("checkpoint", MISTRAL, 40, torch.bfloat16, "5GB")
    vicuna = write("checkpoint_vicuna", VICUNA, 41, torch.float16, "400KB")
    for place, name in [(mistral, "mistral"), (vicuna, "vicuna")]:
        (place / "chat_template.jinja").unlink()
        llava_common.dump(place / "chat_template.json", {"chat_template": template_of(name)})


def write(folder, text, seed, dtype, shard):
    place = common.folder(FAMILY, folder)
    config = LlavaNextConfig(
        vision_config=dict(TOWER),
        text_config=dict(text),
        image_token_index=llava_common.image_token_id(),
        image_grid_pinpoints=pinpoints(SIDE),
    )
    made = llava_common.build(LlavaNextForConditionalGeneration(config), seed, SPREAD).to(dtype)
    made.save_pretrained(place, max_shard_size=shard)
    processor_of(SIDE, template_of("mistral")).save_pretrained(place)
    return place


def template_of(name):
    return (HERE / f"llava_next_{name}.jinja").read_text(encoding="utf-8").rstrip("\n")


def processor_of(side, template):
    return LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": side},
            crop_size=side,
            image_grid_pinpoints=pinpoints(side),
            image_mean=MEAN,
            image_std=STD,
        ),
        tokenizer=tiny_llama_tokenizer.make(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def preprocessing():
    processor = llava_common.load_processor(FAMILY, "checkpoint")
    tiles = lambda output: output["pixel_values"][0]
    llava_common.write_pictures(FAMILY, processor, PICTURES, ["113x55"], tiles)
    hub = processor_of(336, None)
    both = [("../checkpoint", processor), ("../checkpoint_vicuna", processor), (HUB, hub)]
    counts.write(FAMILY, [counts.case(folder, llava.rows_of(one)) for folder, one in both])


def model():
    for index, name, kind, chosen in [
        ("index", "checkpoint", LlavaNext, PROMPTS),
        ("index_vicuna", "checkpoint_vicuna", Vicuna, FEW),
    ]:
        loaded = llava_common.load_model(LlavaNextForConditionalGeneration, FAMILY, name)
        family = kind(loaded, llava_common.load_processor(FAMILY, name), {})
        prompts.write(FAMILY, index, name, family, chosen)


def template():
    for folder, name in [("template", "checkpoint"), ("template_vicuna", "checkpoint_vicuna")]:
        processor = llava_common.load_processor(FAMILY, name)
        llava_common.write_templates(FAMILY, folder, processor)


PARTS = {
    "checkpoint": checkpoints,
    "preprocessing": preprocessing,
    "model": model,
    "template": template,
}
