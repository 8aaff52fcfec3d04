"""Writes a checkpoint as a Hugging Face folder: config, bf16 weights, processor files.

`python export.py run.pt FOLDER` needs only torch and safetensors. The tokenizer and the chat
template are already in the folder (make_tokenizer.py).
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from draw import MEAN, STD
from model import HEAD, Model, Sizes
from packing import Words

TOWER_NAMES = {
    "norm1": "norm1", "norm2": "norm2", "qkv": "attn.qkv", "proj": "attn.proj",
    "fc1": "mlp.fc1", "fc2": "mlp.fc2",
}
TEXT_NAMES = {
    "norm1": "input_layernorm", "norm2": "post_attention_layernorm", "q": "self_attn.q_proj",
    "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}
OTHER_NAMES = {
    "tower.norm.weight": "visual.merger.ln_q.weight",
    "tower.norm.bias": "visual.merger.ln_q.bias",
    "tower.merge1.weight": "visual.merger.mlp.0.weight",
    "tower.merge1.bias": "visual.merger.mlp.0.bias",
    "tower.merge2.weight": "visual.merger.mlp.2.weight",
    "tower.merge2.bias": "visual.merger.mlp.2.bias",
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
}


def hf_name(name):
    """Hugging Face's name of one of our weights."""
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    parts = name.split(".")
    if parts[0] == "layers":
        return f"model.layers.{parts[1]}.{TEXT_NAMES[parts[2]]}.{parts[3]}"
    return f"visual.blocks.{parts[2]}.{TOWER_NAMES[parts[3]]}.{parts[4]}"


def hf_weights(state):
    """All weights in bf16 under Hugging Face's names."""
    weights = {}
    for name, tensor in state.items():
        if name == "tower.patch.weight":
            frame = (tensor.float() / 2).view(-1, 3, 1, 14, 14)  # each of two equal frames
            weights["visual.patch_embed.proj.weight"] = frame.expand(-1, -1, 2, -1, -1)
        else:
            weights[hf_name(name)] = tensor
    return {name: tensor.to(torch.bfloat16).contiguous().cpu() for name, tensor in weights.items()}


def hf_config(sizes, words):
    """config.json, flat as Qwen2-VL's published checkpoints have it."""
    token = words.tokenizer.token_to_id
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": token("<|endoftext|>"),
        "eos_token_id": words.end,
        "hidden_act": "silu",
        "hidden_size": sizes.text_width,
        "image_token_id": words.image,
        "initializer_range": 0.02,
        "intermediate_size": sizes.text_hidden,
        "max_position_embeddings": 2048,
        "max_window_layers": sizes.text_layers,
        "model_type": "qwen2_vl",
        "num_attention_heads": sizes.text_heads,
        "num_hidden_layers": sizes.text_layers,
        "num_key_value_heads": sizes.text_kv_heads,
        "pad_token_id": token("<|endoftext|>"),
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"type": "mrope", "mrope_section": list(sizes.mrope_section)},
        "rope_theta": sizes.rope_theta,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.57.1",
        "use_cache": True,
        "use_sliding_window": False,
        "video_token_id": token("<|video_pad|>"),
        "vision_config": {
            "depth": sizes.tower_layers,
            "embed_dim": sizes.tower_width,
            "hidden_act": "quick_gelu",
            "hidden_size": sizes.text_width,
            "in_channels": 3,
            "in_chans": 3,
            "mlp_ratio": sizes.tower_ratio,
            "model_type": "qwen2_vl",
            "num_heads": sizes.tower_width // HEAD,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
        "vision_end_token_id": token("<|vision_end|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_token_id": token("<|vision_pad|>"),
        "vocab_size": sizes.vocabulary,
    }


PREPROCESSOR = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(MEAN),
    "image_processor_type": "Qwen2VLImageProcessor",
    "image_std": list(STD),
    "max_pixels": 448 * 448,
    "merge_size": 2,
    "min_pixels": 112 * 112,
    "patch_size": 14,
    "processor_class": "Qwen2VLProcessor",
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"longest_edge": 448 * 448, "shortest_edge": 112 * 112},
    "temporal_patch_size": 2,
}


def write_json(path, content):
    """Indented, with a final newline."""
    path.write_text(json.dumps(content, indent=2) + "\n")


def export(checkpoint, folder):
    """Write weights, config.json, generation_config.json and preprocessor_config.json."""
    folder = Path(folder)
    sizes, words = Sizes(), Words(folder)
    model = Model(sizes)
    if checkpoint != "random":
        model.load_state_dict(torch.load(checkpoint, map_location="cpu")["model"])
    save_file(hf_weights(model.state_dict()), folder / "model.safetensors", {"format": "pt"})
    write_json(folder / "config.json", hf_config(sizes, words))
    write_json(folder / "preprocessor_config.json", PREPROCESSOR)
    end_of_text = words.tokenizer.token_to_id("<|endoftext|>")
    write_json(folder / "generation_config.json", {
        "bos_token_id": end_of_text,
        "do_sample": False,
        "eos_token_id": [words.end, end_of_text],
        "max_new_tokens": 64,
        "pad_token_id": end_of_text,
        "transformers_version": "4.57.1",
    })


if __name__ == "__main__":
    export(sys.argv[1], sys.argv[2])
