"""Packs pictures and chats of any size into arrays of fixed size, ready for the GPU.

A step's batch has constant shapes whatever it holds, so nothing is compiled twice and the GPU
never waits for the host. Knows tokens and grids; knows neither pixels nor questions.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

PATCH = 14
MERGE = 2
UNIT = PATCH * MERGE  # pixels a side of one merged token
PATCHES_A_PICTURE_MAX = 1024
TOKENS_A_CHAT_MAX = 1024
CACHED_TEXTS_MAX = 200_000


@dataclass(frozen=True)
class Budget:
    """Sizes of one batch."""

    patches: int
    pictures: int
    blocks: int  # 16x16 pixel blocks of the originals
    tokens: int
    chats: int
    labels: int


def budget_for(patches):
    """Proportions that fit the mixture of training."""
    return Budget(patches, max(24, patches // 96), patches, patches * 3 // 4 + 1024,
                  max(32, patches // 32), patches // 4 + 512)


@lru_cache(maxsize=None)
def patch_places(rows, columns):
    """Row and column of each patch in merge order, for a grid of merged tokens."""
    y, x = np.mgrid[0:rows, 0:columns]
    dy, dx = np.mgrid[0:MERGE, 0:MERGE]
    patch_y = (y.reshape(-1, 1) * MERGE + dy.reshape(1, -1)).reshape(-1)
    patch_x = (x.reshape(-1, 1) * MERGE + dx.reshape(1, -1)).reshape(-1)
    return patch_y.astype(np.uint8), patch_x.astype(np.uint8)


@lru_cache(maxsize=None)
def token_places(rows, columns):
    """(t, h, w) of each merged token, relative to the picture's first position."""
    y, x = np.mgrid[0:rows, 0:columns]
    return np.stack([np.zeros(rows * columns, int), y.reshape(-1), x.reshape(-1)]).astype(np.int16)


@lru_cache(maxsize=None)
def block_places(rows, columns):
    """Row and column of each 16x16 block, row by row."""
    y, x = np.mgrid[0:rows, 0:columns]
    return y.reshape(-1).astype(np.uint8), x.reshape(-1).astype(np.uint8)


class Words:
    """Token ids of texts, remembered."""

    def __init__(self, folder=Path(__file__).parent):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.known = {}
        self.image = self.tokenizer.token_to_id("<|image_pad|>")
        self.end = self.tokenizer.token_to_id("<|im_end|>")

    def __call__(self, text):
        ids = self.known.get(text)
        if ids is None:
            ids = self.tokenizer.encode(text).ids
            if len(self.known) < CACHED_TEXTS_MAX:
                self.known[text] = ids
        return ids


class Packer:
    """Fills one batch. `arrays()` closes it."""

    def __init__(self, budget, words):
        self.budget, self.words = budget, words
        self.n_patches = self.n_blocks = self.n_tokens = self.n_labels = self.position = 0
        self.picture_ends, self.chat_ends, self.grids, self.block_starts = [0], [0], [], []
        self.patch_picture = np.zeros(budget.patches, np.int16)
        self.patch_y = np.zeros(budget.patches, np.uint8)
        self.patch_x = np.zeros(budget.patches, np.uint8)
        self.block_picture = np.zeros(budget.blocks, np.int16)
        self.block_y = np.zeros(budget.blocks, np.uint8)
        self.block_x = np.zeros(budget.blocks, np.uint8)
        self.ids = np.zeros(budget.tokens, np.int16)
        self.vision = np.full(budget.tokens, -1, np.int32)
        self.places = np.zeros((3, budget.tokens), np.int16)
        self.label_at = np.zeros(budget.labels, np.int32)
        self.label = np.full(budget.labels, -100, np.int16)
        self.label_chat = np.full(budget.labels, -1, np.int32)

    def fits(self, sizes, n_chats, extra_tokens=200):
        """True if pictures of these (width, height) and so many chats about them surely fit."""
        grids = [grid_of(*size) for size in sizes]
        merged = sum(rows * columns for rows, columns in grids)
        blocks = sum(-(-width // 16) * -(-height // 16) for width, height in sizes)
        chat = merged + extra_tokens
        return (
            self.n_patches + 4 * merged <= self.budget.patches
            and self.n_blocks + blocks <= self.budget.blocks
            and len(self.grids) + len(sizes) <= self.budget.pictures - 4
            and self.n_tokens + n_chats * chat <= self.budget.tokens
            and self.n_labels + n_chats * 80 <= self.budget.labels
            and len(self.chat_ends) + n_chats <= self.budget.chats - 32
        )

    def add_picture(self, width, height):
        """Reserve a picture's patches and blocks; returns its index."""
        rows, columns = grid_of(width, height)
        index, n = len(self.grids), rows * columns * MERGE * MERGE
        span = slice(self.n_patches, self.n_patches + n)
        self.patch_picture[span] = index
        self.patch_y[span], self.patch_x[span] = patch_places(rows, columns)
        self.n_patches += n
        self.picture_ends.append(self.n_patches)
        self.grids.append((rows, columns, (self.n_patches - n) // (MERGE * MERGE)))
        block_rows, block_columns = -(-height // 16), -(-width // 16)
        span = slice(self.n_blocks, self.n_blocks + block_rows * block_columns)
        self.block_starts.append(self.n_blocks)
        self.block_picture[span] = index
        self.block_y[span], self.block_x[span] = block_places(block_rows, block_columns)
        self.n_blocks = span.stop
        return index

    def add_chat(self, turns, system=""):
        """One chat. A turn is (parts, answer); a part is a text or a picture's index."""
        self.position = 0
        if system:
            self._text("<|im_start|>system\n" + system + "<|im_end|>\n")
        for parts, answer in turns:
            self._user(parts)
            self._answer(answer)
            self._text("\n")
        self.chat_ends.append(self.n_tokens)

    def _user(self, parts):
        text = "<|im_start|>user\n"
        for part in parts:
            if isinstance(part, str):
                text += part
                continue
            self._text(text + "<|vision_start|>")
            self._picture(part)
            text = "<|vision_end|>"
        self._text(text + "<|im_end|>\n<|im_start|>assistant\n")

    def _text(self, text):
        self._ids(self.words(text))

    def _ids(self, ids):
        span = slice(self.n_tokens, self.n_tokens + len(ids))
        self.ids[span] = ids
        self.places[:, span] = np.arange(self.position, self.position + len(ids))
        self.n_tokens, self.position = span.stop, self.position + len(ids)

    def _picture(self, index):
        rows, columns, start = self.grids[index]
        n = rows * columns
        span = slice(self.n_tokens, self.n_tokens + n)
        self.ids[span] = self.words.image
        self.vision[span] = np.arange(start, start + n)
        self.places[:, span] = token_places(rows, columns) + self.position
        self.n_tokens, self.position = span.stop, self.position + max(rows, columns)

    def _answer(self, answer):
        ids = self.words(answer) + [self.words.end]
        span = slice(self.n_labels, self.n_labels + len(ids))
        self.label_at[span] = np.arange(self.n_tokens - 1, self.n_tokens - 1 + len(ids))
        self.label[span] = ids
        self.label_chat[span] = len(self.chat_ends) - 1
        self.n_labels = span.stop
        self._ids(ids)

    def arrays(self):
        """The batch as a dict of arrays; what is left over becomes pictures and chats of zeros."""
        return {
            "patch_picture": self.patch_picture, "patch_y": self.patch_y, "patch_x": self.patch_x,
            "block_picture": self.block_picture, "block_y": self.block_y, "block_x": self.block_x,
            "ids": self.ids, "vision": self.vision, "places": self.places,
            "label_at": self.label_at, "label": self.label, "label_chat": self.label_chat,
            "picture_ends": filled(self.picture_ends, self.budget.patches,
                                   PATCHES_A_PICTURE_MAX, self.budget.pictures),
            "chat_ends": filled(self.chat_ends, self.budget.tokens,
                                TOKENS_A_CHAT_MAX, self.budget.chats),
        }


def filled(ends, total, longest, count):
    """Cumulative ends padded to `count` + 1 entries that cover `total` in steps of `longest`."""
    ends = list(ends)
    while ends[-1] < total and len(ends) <= count:
        ends.append(min(total, ends[-1] + longest))
    if ends[-1] < total:
        raise ValueError("the budget has too few pictures or chats for what is left over")
    return np.array(ends + [total] * (count + 1 - len(ends)), np.int32)


def grid_of(width, height):
    """(rows, columns) of merged tokens; sides in the law's range need no pixel limits."""
    return max(4, round(height / UNIT)), max(4, round(width / UNIT))
