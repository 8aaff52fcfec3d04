"""What every maker shares: paths, versions, JSON and tensor files, drawn pictures, greedy runs."""

import json
import zlib
from pathlib import Path

import numpy as np
import PIL
import safetensors.torch
import tokenizers
import torch
import transformers
from PIL import Image

GOLDENS = Path(__file__).resolve().parent.parent
N_STEPS = 24  # greedy tokens per prompt

MADE_WITH = {
    "transformers": transformers.__version__,
    "torch": torch.__version__.split("+")[0],
    "tokenizers": tokenizers.__version__,
    "pillow": PIL.__version__,
    "numpy": np.__version__,
}


def settle():
    """One thread and deterministic kernels: the same bytes on each run."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def folder(*parts):
    """A folder under the goldens, made if missing."""
    path = GOLDENS.joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_json(path, content):
    """An index: schema and versions first; one line per element of its longer lists."""
    content = {"schema": 1, "made_with": MADE_WITH, **content}
    lines = [f"  {_dump(key)}: {_value(value)}" for key, value in content.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def write_tensors(path, tensors):
    """Float32 tensors, contiguous, in one safetensors file."""
    ready = {key: tensor.detach().to(torch.float32).contiguous() for key, tensor in tensors.items()}
    safetensors.torch.save_file(ready, str(path))


def save_png(array, path):
    """An RGB uint8 array [H, W, 3] as a small PNG."""
    Image.fromarray(array, "RGB").save(path, optimize=True)


def noise(width, height, seed):
    """A picture of bytes from a 64-bit linear congruential generator."""
    return _with_crc({"kind": "noise", "width": width, "height": height, "seed": seed})


def smooth(width, height, waves):
    """A picture of three triangle waves."""
    return _with_crc({"kind": "smooth", "width": width, "height": height, "waves": waves})


def stored(path):
    return {"kind": "file", "path": path}


def draw(picture, base):
    """The RGB uint8 array [H, W, 3] of a picture object; `base` is the folder of its index."""
    if picture["kind"] == "noise":
        return _draw_noise(picture["width"], picture["height"], picture["seed"])
    if picture["kind"] == "smooth":
        return _draw_smooth(picture["width"], picture["height"], picture["waves"])
    return np.asarray(Image.open(base / picture["path"]).convert("RGB"))


def fill(model, seed, scales):
    """Random values for every parameter: `scales(name, shape) -> (mean, std)`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            mean, std = scales(name, tuple(parameter.shape))
            parameter.copy_(mean + std * torch.randn(parameter.shape, generator=generator))


def greedy(model, inputs):
    """(tokens [N_STEPS], logits [N_STEPS, vocab]) of `generate`, which no end token stops."""
    settings = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=N_STEPS, pad_token_id=0, eos_token_id=None
    )
    result = model.generate(
        **inputs, generation_config=settings, output_logits=True, return_dict_in_generate=True
    )
    tokens = result.sequences[0, inputs["input_ids"].shape[1] :]
    return tokens, torch.stack([step[0] for step in result.logits]).float()


def margins(logits):
    """Best minus second of each row."""
    best = logits.topk(2, dim=-1).values
    return (best[:, 0] - best[:, 1]).tolist()


def _dump(value):
    return json.dumps(value, ensure_ascii=False)


def _value(value):
    if isinstance(value, list) and len(_dump(value)) > 100:
        return "[\n    " + ",\n    ".join(_dump(item) for item in value) + "\n  ]"
    return _dump(value)


def _with_crc(picture):
    return {**picture, "crc32": zlib.crc32(draw(picture, None).tobytes())}


def _draw_noise(width, height, seed):
    state, count = seed, width * height * 3
    out = bytearray(count)
    for index in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) & 0xFFFF_FFFF_FFFF_FFFF
        out[index] = state >> 56
    return np.frombuffer(bytes(out), np.uint8).reshape(height, width, 3)


def _draw_smooth(width, height, waves):
    y, x = np.mgrid[0:height, 0:width]
    channels = []
    for a, b, p in waves:
        t = (a * x + b * y + p) % 512
        channels.append(np.where(t < 256, t, 511 - t))
    return np.stack(channels, axis=-1).astype(np.uint8)
