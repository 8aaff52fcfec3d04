"""Accuracy of the exported folder under stock transformers, greedy, in float32 on the CPU.

    python evaluation_pictures.py evaluation.jsonl 500 7
    python evaluate.py FOLDER evaluation.jsonl

Prints a table by kind and up to MISTAKES_SHOWN wrong answers.
"""

import base64
import io
import json
import sys
import time
from collections import defaultdict

import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

MISTAKES_SHOWN = 20


def load(folder):
    """(processor, model)."""
    processor = AutoProcessor.from_pretrained(folder, use_fast=False)
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return processor, model.eval()


def answer(processor, model, case):
    """The greedy answer to one question."""
    images = [Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))).convert("RGB")
              for url in case["pictures"]]
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": case["question"]}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}],
                                           add_generation_prompt=True)
    inputs = processor(text=[prompt], images=images or None, return_tensors="pt")
    with torch.no_grad():
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=64)
    new = ids[0, inputs["input_ids"].shape[1]:]
    return processor.tokenizer.decode(new, skip_special_tokens=True)


def main(folder, path):
    """Print the table."""
    torch.set_num_threads(2)
    processor, model = load(folder)
    right, mistakes, started = defaultdict(list), [], time.time()
    for line in open(path):
        case = json.loads(line)
        given = answer(processor, model, case)
        right[case["kind"]].append(given == case["answer"])
        if given != case["answer"]:
            mistakes.append((case["kind"], case["question"], case["answer"], given))
    for kind, values in right.items():
        print(f"{kind:10} {100 * sum(values) / len(values):6.1f} %  of {len(values)}")
    for mistake in mistakes[:MISTAKES_SHOWN]:
        print("wrong:", *mistake, sep=" | ")
    print(f"{time.time() - started:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
