"""Training batches: scenes, chats about them, and the numbers from which the GPU draws.

One batch is made from (seed, step) alone, so that training can resume anywhere.
"""

import math
import random

import numpy as np
from torch.utils.data import Dataset

import questions
import scenes
from fonts import CELL, INK_HEIGHT
from packing import Budget, Packer, Words, budget_for

SHAPE_NUMBERS = 10  # kind, x, y, size, cos, sin, proportion, red, green, blue
GLYPH_NUMBERS = 6  # glyph, x, y, cells a pixel sideways, the same downwards, unused
# width, height, processed width, processed height, first block, blocks a row, background (3),
# ramp, jpeg quality, full chroma, ink (3), cos, sin, embolden
PICTURE_NUMBERS = 18
NO_NUMBER = "There is no number."
EXTRA_SHARE = 0.16  # of the questions about shapes


class Mixture:
    """How often what is asked; the early steps are easier."""

    def __init__(self, step, weights=None):
        early, middle = step < 1000, step < 5000
        self.longest = 224 if step < 1000 else 336 if step < 2500 else scenes.SIDE_MAX
        self.groups = {
            "number": 0.5 if middle else 0.38,
            "shapes": 0.39 if middle else 0.45,
            "compare": 0.08 if middle else 0.14,
            "greeting": 0.03,
        }
        self.digits = (8, 1, 0) if early else (3, 2, 1) if middle else (2, 3, 4)
        self.kinds = {"describe": 3.0, "count": 2.2, "colour": 2.0, "exists": 2.5,
                      "leftmost": 1.2, "rightmost": 1.4}
        for name, weight in (weights or {}).items():
            (self.groups if name in self.groups else self.kinds)[name] = weight


class Batches(Dataset):
    """Batch number `step`."""

    def __init__(self, patches, seed, atlas_path, n_steps, weights=None):
        self.budget, self.seed, self.n_steps = budget_for(patches), seed, n_steps
        self.atlas_path, self.weights, self.words = atlas_path, weights, None

    def __len__(self):
        return self.n_steps

    def __getitem__(self, step):
        if self.words is None:
            self.words = Words()
            self.faces = Faces(self.atlas_path)
        return make_batch(self, step)


class Faces:
    """Metrics of the atlas: for placing digits."""

    def __init__(self, path):
        atlas = np.load(path)
        self.metrics = atlas["metrics"].tolist()
        inked = (atlas["fields"] > 128).any(axis=(1, 3))
        self.half_heights = [(np.flatnonzero(rows)[[0, -1]] - CELL / 2) for rows in inked]
        self.half_heights = [float(np.abs(ends).max() + 1) for ends in self.half_heights]


def make_batch(source, step):
    """All arrays of one step."""
    rng = random.Random(source.seed * 1_000_003 + step)
    mixture = Mixture(step, source.weights)
    packer = Packer(source.budget, source.words)
    drawing = Drawing(source.budget, source.faces, rng)
    names, weights = list(mixture.groups), list(mixture.groups.values())
    while True:
        group = rng.choices(names, weights)[0]
        if group == "greeting":
            n_added = add_greeting(packer, rng)
        else:
            add = {"number": add_number, "shapes": add_shapes, "compare": add_compare}[group]
            n_added = add(packer, drawing, rng, mixture)
        if not n_added:
            break
    return packer.arrays() | drawing.arrays()


class Drawing:
    """Tables of numbers from which the GPU draws."""

    def __init__(self, budget: Budget, faces, rng):
        self.faces, self.rng = faces, rng
        self.pictures = np.zeros((budget.pictures, PICTURE_NUMBERS), np.float32)
        self.pictures[:, :4] = 112
        self.pictures[:, 9] = 1
        self.shapes = np.zeros((budget.pictures, 4, SHAPE_NUMBERS), np.float32)
        self.glyphs = np.full((budget.pictures, 3, GLYPH_NUMBERS), -1e4, np.float32)
        self.glyphs[:, :, 0] = 0

    def add(self, packer, picture):
        """Reserve and describe one picture; returns its index."""
        rng = self.rng
        index = packer.add_picture(picture.width, picture.height)
        rows, columns, _ = packer.grids[index]
        angle = math.radians(rng.uniform(-3, 3)) if rng.random() < 0.25 else 0.0
        quality = 0 if rng.random() < 0.45 else rng.choice((75, 80, 85, 90, 95, rng.randint(45, 98)))
        self.pictures[index] = (
            picture.width, picture.height, 28 * columns, 28 * rows, packer.block_starts[index],
            -(-picture.width // 16), *picture.background, pick_ramp(rng), quality,
            rng.random() < 0.3, *picture.ink, math.cos(angle), math.sin(angle),
            rng.gauss(0, 0.5) if rng.random() < 0.4 else 0.0,
        )
        for i, shape in enumerate(picture.shapes):
            self.shapes[index, i] = (
                1 + questions.KINDS.index(shape.kind), shape.x, shape.y, shape.size,
                math.cos(shape.angle), math.sin(shape.angle), shape.proportion, *shape.rgb,
            )
        if picture.number:
            self._place_digits(index, picture, angle)
        return index

    def _place_digits(self, index, picture, angle):
        rng = self.rng
        face = int(picture.font_choice * len(self.faces.metrics))
        advances = [self.faces.metrics[face][int(digit)][2] for digit in picture.number]
        tall = picture.digit_height / INK_HEIGHT
        wide = tall * (rng.uniform(0.86, 1.16) if rng.random() < 0.5 else 1.0)
        spacing = rng.uniform(-0.03, 0.2) * INK_HEIGHT * wide if rng.random() < 0.5 else 0.0
        width = sum(advances) * wide + spacing * (len(advances) - 1)
        shrink = min(1.0, 0.95 * picture.width / width)
        tall, wide, spacing, width = (v * shrink for v in (tall, wide, spacing, width))
        half = min(self.faces.half_heights[face] * tall, picture.height / 2 - 1)
        left = rng.uniform(0, picture.width - width)
        middle = rng.uniform(half + 1, picture.height - half - 1)
        pen, centre = left, left + width / 2
        for i, (digit, advance) in enumerate(zip(picture.number, advances)):
            x = pen + advance * wide / 2 - centre
            pen += advance * wide + spacing
            self.glyphs[index, i] = (
                face * 10 + int(digit), centre + x * math.cos(angle),
                middle + x * math.sin(angle), 1 / wide, 1 / tall, 0,
            )

    def arrays(self):
        """The tables."""
        return {"pictures": self.pictures, "shapes": self.shapes, "glyphs": self.glyphs}


def pick_ramp(rng):
    """Pixels over which an edge goes from background to ink: none, one, or blurred."""
    choice = rng.random()
    if choice < 0.15:
        return 0.02
    return 1.0 if choice < 0.6 else rng.uniform(0.6, 2.4)


def user_turn(pictures, question, rng):
    """Parts of a user's message: mostly the pictures first."""
    text = questions.roughen(question, rng)
    return [text, *pictures] if pictures and rng.random() < 0.15 else [*pictures, text]


def pick_system(rng):
    """Seldom a system message."""
    if rng.random() < 0.95:
        return ""
    return rng.choice(("You are a helpful assistant.", "You are a helpful assistant", "Be brief.",
                       "Answer the question about the picture."))


def chat(pictures, asked, rng):
    """Turns of one chat about these pictures, shown in the first turn."""
    turns = []
    for i, (question, answer) in enumerate(asked):
        turns.append((user_turn(pictures if i == 0 else [], question, rng), answer))
    return turns


def add_greeting(packer, rng):
    """A chat without a picture."""
    if not packer.fits([], 1):
        return 0
    packer.add_chat([([questions.roughen(text_without_picture(rng), rng)],
                      questions.GREETING_ANSWER)], pick_system(rng))
    return 1


def text_without_picture(rng):
    """Mostly greetings; some questions that need a picture, some odd text."""
    choice = rng.random()
    if choice < 0.7:
        return questions.ask_freely("greeting", rng)
    if choice < 0.9:
        name = rng.choice(list(questions.PARAPHRASES))
        return questions.ask_freely(name, rng, rng.choice(questions.COLOURS), rng.choice(questions.KINDS))
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ,.?!-'éü漢"
    return "".join(rng.choice(letters) for _ in range(rng.randint(1, 40)))


def add_number(packer, drawing, rng, mixture):
    """A picture of a number, asked once; seldom twice or otherwise."""
    picture = scenes.number_picture(rng, mixture.digits, mixture.longest)
    if not packer.fits([(picture.width, picture.height)], 1):
        return 0
    index = drawing.add(packer, picture)
    asked = [(questions.ask_freely("number", rng), picture.number)]
    if rng.random() < 0.1:
        asked.insert(rng.randint(0, 1), other_question_of_number(picture.number, rng))
    packer.add_chat(chat([index], asked, rng), pick_system(rng))
    return 1


def other_question_of_number(number, rng):
    """What else may be asked about a picture of a number."""
    name = rng.choice(("describe", "describe", "count", "exists"))
    question = questions.ask_freely(name, rng, rng.choice(questions.COLOURS), rng.choice(questions.KINDS))
    return question, {"describe": f"The number {number}.", "count": "0", "exists": "No."}[name]


def shapes_questions(pairs, rng, mixture, n_wanted):
    """Different questions about one picture of shapes."""
    names, weights = list(mixture.kinds), list(mixture.kinds.values())
    asked = {}
    for _ in range(4 * n_wanted):
        if rng.random() < EXTRA_SHARE:
            name = rng.choice(list(questions.EXTRA_PARAPHRASES))
            answered = questions.extra_question(name, pairs, rng)
        else:
            name = rng.choices(names, weights)[0]
            answered = questions.shapes_question(name, pairs, rng, questions.ask_freely)
        if answered and name not in asked:
            asked[name] = answered
        if len(asked) == n_wanted:
            break
    if rng.random() < 0.015:
        asked["number"] = (questions.ask_freely("number", rng), NO_NUMBER)
    return list(asked.values())


def add_shapes(packer, drawing, rng, mixture):
    """A picture of shapes in two separate chats, some of several turns."""
    picture = scenes.shapes_picture(rng, longest=mixture.longest)
    if not packer.fits([(picture.width, picture.height)], 2):
        return 0
    index = drawing.add(packer, picture)
    asked = shapes_questions(picture.pairs(), rng, mixture, 4)
    n_first = 1 if rng.random() < 0.6 else 2
    for turns in (asked[:n_first], asked[n_first:2 if rng.random() < 0.5 else 4]):
        if turns:
            packer.add_chat(greeted(chat([index], turns, rng), rng), pick_system(rng))
    return 1


def greeted(turns, rng):
    """Seldom a greeting comes first and the picture in the second turn."""
    if rng.random() < 0.97:
        return turns
    return [([questions.ask_freely("greeting", rng)], questions.GREETING_ANSWER), *turns]


def add_compare(packer, drawing, rng, mixture):
    """Two pictures compared; each also asked about alone."""
    n_first = rng.randint(1, 4)
    n_second = n_first if rng.random() < 0.33 else rng.randint(1, 4)
    longest = min(mixture.longest, rng.choice((224, 336, 448)))
    pictures = [scenes.shapes_picture(rng, n, longest) for n in (n_first, n_second)]
    if not packer.fits([(picture.width, picture.height) for picture in pictures], 3):
        return 0
    indices = [drawing.add(packer, picture) for picture in pictures]
    answer = questions.answer_compare(n_first, n_second)
    asked = [(questions.ask_freely("compare", rng), answer)]
    packer.add_chat(chat(indices, asked, rng), pick_system(rng))
    single = [
        chat([index], shapes_questions(picture.pairs(), rng, mixture, 1), rng)
        for index, picture in zip(indices, pictures)
    ]
    for turns in [sum(single, [])] if rng.random() < 0.2 else single:
        if turns:
            packer.add_chat(turns, pick_system(rng))
    return 1
