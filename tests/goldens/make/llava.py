"""Goldens of LLaVA-1.5: a tiny checkpoint and all that hangs on it."""

from pathlib import Path

import torch
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

import common
import counts
import llava_common
import prompts
import tiny_llama_tokenizer
from llava_common import MEAN, PATCH, SIDE, STD, TOWER

FAMILY = "llava"
HUB = "../../../shapes/llava-1.5-7b"
TEMPLATE = Path(__file__).with_suffix(".jinja").read_text(encoding="utf-8").rstrip("\n")

# width, height, kind, note
PICTURES = [
    (1, 1, "noise", "one pixel; channels_last given"),
    (1, 40, "smooth", "one pixel wide, most of it cut off"),
    (40, 1, "smooth", "one pixel high; channels_last given"),
    (56, 56, "noise", "nothing to do"),
    (57, 56, "smooth", "one column too many"),
    (56, 59, "noise", "an odd rest: the upper part is the smaller"),
    (112, 56, "noise", "cut, not resized"),
    (55, 56, "smooth", "just too small"),
    (28, 90, "noise", "enlarged"),
    (640, 480, "smooth", "reduced"),
    (480, 641, "smooth", "reduced, an odd side"),
    (33, 301, "smooth", "tall"),
    (299, 31, "noise", "wide"),
    (1000, 3, "smooth", "very wide; channels_last given"),
]


def checkpoint():
    """Second-generation names: what `save_pretrained` writes once its renaming is emptied."""
    place = common.folder(FAMILY, "checkpoint")
    config = LlavaConfig(
        vision_config=dict(TOWER),
        text_config={"model_type": "llama", **llava_common.text()},
        image_token_index=llava_common.image_token_id(),
        image_seq_length=(SIDE // PATCH) ** 2,
    )
    made = LlavaForConditionalGeneration(config)
    model = llava_common.build(made, seed=30, spread=(0.25, 0.25)).to(torch.bfloat16)
    model._checkpoint_conversion_mapping = {}
    model.save_pretrained(place)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": SIDE}, crop_size=SIDE, image_mean=MEAN, image_std=STD
        ),
        tokenizer=tiny_llama_tokenizer.make(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(place)


def preprocessing():
    processor = llava_common.load_processor(FAMILY, "checkpoint")
    tiles = lambda output: output["pixel_values"]
    llava_common.write_pictures(FAMILY, processor, PICTURES, ["480x641"], tiles)
    hub = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 336}, crop_size=336),
        tokenizer=processor.tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    both = [("../checkpoint", processor), (HUB, hub)]
    counts.write(FAMILY, [counts.case(folder, rows_of(one)) for folder, one in both])


def rows_of(processor):
    """Rows of a picture by its height and width."""

    def rows(height, width):
        sizes = [(height, width)]
        return processor._get_num_multimodal_tokens(image_sizes=sizes).num_image_tokens[0]

    return rows


def model():
    loaded = llava_common.load_model(LlavaForConditionalGeneration, FAMILY, "checkpoint")
    processor = llava_common.load_processor(FAMILY, "checkpoint")
    family = llava_common.Llava(loaded, processor, {})
    prompts.write(FAMILY, "index", "checkpoint", family, prompts.PROMPTS)


def template():
    processor = llava_common.load_processor(FAMILY, "checkpoint")
    llava_common.write_templates(FAMILY, "template", processor)


PARTS = {
    "checkpoint": checkpoint,
    "preprocessing": preprocessing,
    "model": model,
    "template": template,
}
