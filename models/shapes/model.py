"""Qwen2-VL's architecture at the demo's size, over packed batches of constant shape.

Only what training needs: no cache, no padding. Weight names differ from Hugging Face's by the
table in export.py. One frame of each patch is embedded: the two frames that the image processor
repeats are folded into one weight, and split again on export.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from packing import PATCHES_A_PICTURE_MAX, TOKENS_A_CHAT_MAX

HEAD = 64
PATCH_PIXELS = 3 * 14 * 14


@dataclass(frozen=True)
class Sizes:
    """The demo model's sizes; head size is 64 everywhere."""

    vocabulary: int = 640
    text_width: int = 256
    text_layers: int = 4
    text_heads: int = 4
    text_kv_heads: int = 2
    text_hidden: int = 512
    rope_theta: float = 32.0
    mrope_section: tuple = (8, 12, 12)
    tower_width: int = 128
    tower_layers: int = 4
    tower_heads: int = 2
    tower_ratio: int = 4


def attend(query, key, value, ends, longest, causal):
    """Attention inside each packed sequence; query [n, heads, HEAD]."""
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        window = (-1, 0) if causal else (-1, -1)
        return varlen_attn(query, key, value, ends, ends, longest, longest, window_size=window)
    sequence = torch.bucketize(torch.arange(query.shape[0]), ends[1:].long(), right=True)
    mask = sequence[:, None] == sequence[None, :]
    if causal:
        mask = mask & torch.ones_like(mask).tril()
    heads_first = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
    return F.scaled_dot_product_attention(*heads_first, attn_mask=mask)[0].transpose(0, 1)


def rotate(x, cos, sin):
    """Rotary embedding of [n, heads, HEAD] by [n, HEAD / 2] cosines and sines."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


class Linear(nn.Linear):
    """Weights are float32, the product is taken in the input's type."""

    def forward(self, x):
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class LayerNorm(nn.Module):
    """In float32."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return F.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, 1e-6).to(x.dtype)


class RmsNorm(nn.Module):
    """In float32."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x.float(), self.weight.shape, self.weight, 1e-6).to(x.dtype)


class TowerBlock(nn.Module):
    """One pre-norm block of the vision tower."""

    def __init__(self, sizes):
        super().__init__()
        width, self.heads = sizes.tower_width, sizes.tower_heads
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.qkv, self.proj = Linear(width, 3 * width), Linear(width, width)
        self.fc1 = Linear(width, sizes.tower_ratio * width)
        self.fc2 = Linear(sizes.tower_ratio * width, width)

    def forward(self, x, cos, sin, ends):
        n = x.shape[0]
        query, key, value = self.qkv(self.norm1(x)).view(n, 3, self.heads, HEAD).unbind(1)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        mixed = attend(query, key, value.contiguous(), ends, PATCHES_A_PICTURE_MAX, causal=False)
        x = x + self.proj(mixed.reshape(n, -1))
        hidden = self.fc1(self.norm2(x))
        return x + self.fc2(hidden * torch.sigmoid(1.702 * hidden))


class Tower(nn.Module):
    """Patches of one frame [n, 588] to one vector per 2x2 patches."""

    def __init__(self, sizes):
        super().__init__()
        width = sizes.tower_width
        self.patch = Linear(PATCH_PIXELS, width, bias=False)
        self.blocks = nn.ModuleList(TowerBlock(sizes) for _ in range(sizes.tower_layers))
        self.norm = LayerNorm(width)
        self.merge1, self.merge2 = Linear(4 * width, 4 * width), Linear(4 * width, sizes.text_width)

    def forward(self, patches, y, x, ends):
        frequencies = 10000.0 ** (-torch.arange(16, device=patches.device) / 16)
        angles = torch.cat([y.float()[:, None] * frequencies, x.float()[:, None] * frequencies], 1)
        cos, sin = angles.cos(), angles.sin()
        hidden = self.patch(patches)
        for block in self.blocks:
            hidden = block(hidden, cos, sin, ends)
        merged = self.norm(hidden).view(-1, self.merge1.in_features)
        return self.merge2(F.gelu(self.merge1(merged)))


class TextBlock(nn.Module):
    """One Qwen2 decoder layer."""

    def __init__(self, sizes):
        super().__init__()
        width, self.heads, self.kv_heads = sizes.text_width, sizes.text_heads, sizes.text_kv_heads
        self.norm1, self.norm2 = RmsNorm(width), RmsNorm(width)
        self.q = Linear(width, self.heads * HEAD)
        self.k = Linear(width, self.kv_heads * HEAD)
        self.v = Linear(width, self.kv_heads * HEAD)
        self.o = Linear(self.heads * HEAD, width, bias=False)
        self.gate = Linear(width, sizes.text_hidden, bias=False)
        self.up = Linear(width, sizes.text_hidden, bias=False)
        self.down = Linear(sizes.text_hidden, width, bias=False)

    def forward(self, x, cos, sin, ends):
        n, normed = x.shape[0], self.norm1(x)
        query = rotate(self.q(normed).view(n, self.heads, HEAD), cos, sin)
        key = rotate(self.k(normed).view(n, self.kv_heads, HEAD), cos, sin)
        value = self.v(normed).view(n, self.kv_heads, HEAD)
        shared = self.heads // self.kv_heads
        key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
        mixed = attend(query, key, value, ends, TOKENS_A_CHAT_MAX, causal=True)
        x = x + self.o(mixed.reshape(n, -1))
        normed = self.norm2(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class Model(nn.Module):
    """Patches and packed chats to the logits of the asked positions."""

    def __init__(self, sizes=Sizes()):
        super().__init__()
        self.sizes = sizes
        self.tower = Tower(sizes)
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.text_width)
        self.layers = nn.ModuleList(TextBlock(sizes) for _ in range(sizes.text_layers))
        self.norm = RmsNorm(sizes.text_width)
        rows = [row for row, n in enumerate(sizes.mrope_section) for _ in range(n)]
        self.register_buffer("rope_rows", torch.tensor(rows), persistent=False)
        self.apply(initialise)
        self.soften_residuals()

    def soften_residuals(self):
        """What is added to the residual stream starts small."""
        for block in self.tower.blocks:
            for linear in (block.proj, block.fc2):
                linear.weight.data.div_(math.sqrt(2 * len(self.tower.blocks)))
        for layer in self.layers:
            for linear in (layer.o, layer.down):
                linear.weight.data.div_(math.sqrt(2 * len(self.layers)))

    def forward(self, batch, patches):
        seen = self.tower(patches, batch["patch_y"], batch["patch_x"], batch["picture_ends"])
        words = self.embedding(batch["ids"].int()).to(seen.dtype)
        is_seen = batch["vision"] >= 0
        looked_up = seen.float()[batch["vision"].clamp(min=0)].to(seen.dtype)  # float32 gradients
        hidden = torch.where(is_seen[:, None], looked_up, words)
        frequencies = self.sizes.rope_theta ** (-torch.arange(32, device=hidden.device) / 32)
        angles = batch["places"].float()[self.rope_rows].T * frequencies
        cos, sin = angles.cos(), angles.sin()
        for layer in self.layers:
            hidden = layer(hidden, cos, sin, batch["chat_ends"])
        asked = self.norm(hidden[batch["label_at"]])
        return F.linear(asked, self.embedding.weight.to(asked.dtype)).float()


def initialise(module):
    """Normal weights by fan-in; biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.8 / math.sqrt(module.in_features))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.04)


def loss_and_hits(model, batch, patches):
    """Mean cross entropy over the answers' tokens, and which of them were predicted."""
    logits = model(batch, patches)
    labels = batch["label"].long()
    loss = F.cross_entropy(logits, labels, ignore_index=-100)
    return loss, logits.argmax(-1) == labels
