"""The reference side: a model folder in transformers, slow image processor, greedy."""

import io

import torch
import transformers
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.image_utils import load_image
from transformers.modeling_utils import no_init_weights

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


class Reference:
    """A loaded model folder; `answer` and `prepare` take encoded pictures, as the server does."""

    def __init__(self, path, dtype=torch.float32):
        self.model = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype).eval()
        self.processor = AutoProcessor.from_pretrained(path, use_fast=False)
        self.processor.tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True)

    def answer(self, pictures, text, n_tokens_max):
        """The greedy answer, up to an end token."""
        inputs = self.prepare(pictures, text)
        ids = generate(self.model, inputs, n_tokens_max, self.model.generation_config.eos_token_id)
        return self.processor.tokenizer.decode(ids, skip_special_tokens=True)

    def prepare(self, pictures, text):
        """Decoding, preprocessing, template and tokens."""
        images = [load_image(Image.open(io.BytesIO(data))) for data in pictures]
        parts = [{"type": "image"} for _ in images] + [{"type": "text", "text": text}]
        prompt = self.processor.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True
        )
        return self.processor(text=[prompt], images=images or None, return_tensors="pt")


def generate(model, inputs, n_tokens_max, end=None):
    """New token ids; without `end` always `n_tokens_max` of them."""
    # Where no end is given the model's own would count, unless this many tokens must come.
    n_tokens_min = n_tokens_max if end is None else 0
    settings = GenerationConfig(
        do_sample=False,
        min_new_tokens=n_tokens_min,
        max_new_tokens=n_tokens_max,
        eos_token_id=end,
        pad_token_id=0,
    )
    with torch.inference_mode():
        out = model.generate(**inputs, generation_config=settings)
    return out[0, inputs["input_ids"].shape[1] :].tolist()


def random_model(path, dtype):
    """A model of a config's shapes with small random weights, made in its dtype at once."""
    config = AutoConfig.from_pretrained(path)
    with no_init_weights():
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1e-3, 1e-3, generator=generator)
    model.tie_weights()
    return model.eval()
