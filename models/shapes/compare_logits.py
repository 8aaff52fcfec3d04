"""Compares the training implementation with transformers on evaluation pictures, in float32.

`python compare_logits.py FOLDER CHECKPOINT EVALUATION.jsonl N`: same weights (rounded to bf16),
same pictures; prints the largest difference of logits at the answers' positions and how many
greedy tokens differ.
"""

import base64
import io
import json
import sys

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

import draw
from model import Model
from packing import Packer, Words, budget_for
from train import as_tensors, picture_patches


def ours(model, words, case):
    """Logits [n, vocabulary] of the answer's tokens by the training implementation."""
    pictures = [picture_patches(url) for url in case["pictures"]]
    n = sum(len(patches) for *_, patches in pictures)
    packer = Packer(budget_for(max(n, 512)), words)
    pixels = torch.zeros(packer.budget.patches, 588)
    indices = []
    for width, height, patches in pictures:
        channels = torch.from_numpy(patches).float().view(-1, 3, 196)
        mean, std = (torch.tensor(v)[:, None] for v in (draw.MEAN, draw.STD))
        normal = ((channels / 255 - mean) / std).reshape(-1, 588)
        pixels[packer.n_patches : packer.n_patches + len(patches)] = normal
        indices.append(packer.add_picture(width, height))
    packer.add_chat([([*indices, case["question"]], case["answer"])])
    with torch.no_grad():
        return model(as_tensors(packer.arrays()), pixels)[: packer.n_labels]


def theirs(model, processor, case):
    """The same by transformers."""
    images = [Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))).convert("RGB")
              for url in case["pictures"]]
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": case["question"]}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}],
                                           add_generation_prompt=True)
    text = prompt + case["answer"] + "<|im_end|>"
    inputs = processor(text=[text], images=images or None, return_tensors="pt")
    n_answer = len(processor.tokenizer(case["answer"] + "<|im_end|>").input_ids)
    with torch.no_grad():
        return model(**inputs).logits[0, -n_answer - 1 : -1]


def main(folder, checkpoint, cases, n_cases):
    """Print the comparison."""
    model = Model()
    if checkpoint != "random":
        state = torch.load(checkpoint, map_location="cpu")["model"]
        model.load_state_dict({k: v.bfloat16().float() for k, v in state.items()})
    processor = AutoProcessor.from_pretrained(folder, use_fast=False)
    reference = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    words = Words()
    if checkpoint == "random":
        model.load_state_dict(random_state(reference, model))
    lines = [json.loads(line) for line in open(cases)]
    lines = [lines[i] for i in np.linspace(0, len(lines) - 1, int(n_cases)).astype(int)]
    largest, n_tokens, n_different = 0.0, 0, 0
    for case in lines:
        one, other = ours(model, words, case), theirs(reference, processor, case)
        largest = max(largest, (one - other).abs().max().item())
        n_tokens += len(one)
        n_different += int((one.argmax(-1) != other.argmax(-1)).sum())
    print(f"{len(lines)} cases, {n_tokens} answer tokens: largest difference of logits "
          f"{largest:.2e}, {n_different} greedy tokens differ")


def random_state(reference, model):
    """The weights of an exported folder under our names (for untrained folders)."""
    from export import hf_name

    theirs_by_name = {}
    for name, tensor in reference.state_dict().items():
        name = name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
        theirs_by_name[name] = tensor
    state = {}
    for name in model.state_dict():
        if name == "tower.patch.weight":
            frames = theirs_by_name["visual.patch_embed.proj.weight"]
            state[name] = frames.sum(2).reshape(frames.shape[0], -1)
        else:
            state[name] = theirs_by_name[hf_name(name)]
    return state


if __name__ == "__main__":
    main(*sys.argv[1:])
