"""The law of the pictures: what is drawn where, in numbers, before any pixel exists.

Knows nothing of renderers: the GPU renderer of training and the one of evaluation both draw
what this module decides. Lengths are in pixels of the original picture, y grows downwards.
"""

import colorsys
import math
from dataclasses import dataclass, field

from questions import COLOURS, KINDS

SIDE_MIN, SIDE_MAX = 112, 448
ASPECT_MAX = 2.0
MAX_ATTEMPTS = 40

# Hue in degrees, saturation and value ranges that people call by these names.
COLOUR_RANGES = {
    "red": ((-13, 8), (0.74, 1.0), (0.68, 1.0)),
    "green": ((88, 152), (0.5, 1.0), (0.42, 1.0)),
    "blue": ((202, 243), (0.58, 1.0), (0.5, 1.0)),
    "yellow": ((47.5, 61), (0.72, 1.0), (0.88, 1.0)),
    "purple": ((266, 304), (0.42, 1.0), (0.42, 0.95)),
    "orange": ((19.5, 40), (0.78, 1.0), (0.88, 1.0)),
}
# What drawing programs, CSS and plotting libraries draw under these names.
USUAL_SHADES = {
    "red": ((255, 0, 0), (220, 20, 60), (214, 39, 40), (244, 67, 54), (229, 57, 53), (200, 30, 30),
            (220, 40, 40)),
    "green": ((0, 128, 0), (0, 255, 0), (34, 139, 34), (44, 160, 44), (76, 175, 80), (46, 204, 113),
              (0, 160, 60), (40, 160, 60)),
    "blue": ((0, 0, 255), (31, 119, 180), (65, 105, 225), (30, 144, 255), (33, 150, 243),
             (37, 99, 235), (0, 0, 139), (40, 80, 220)),
    "yellow": ((255, 255, 0), (255, 215, 0), (255, 235, 59), (250, 204, 21), (241, 196, 15),
               (240, 210, 40)),
    "purple": ((128, 0, 128), (148, 103, 189), (156, 39, 176), (102, 51, 153), (148, 0, 211),
               (147, 51, 234), (130, 50, 180)),
    "orange": ((255, 165, 0), (255, 127, 14), (255, 140, 0), (249, 115, 22), (255, 152, 0),
               (240, 140, 30)),
    "black": ((0, 0, 0), (20, 20, 20), (33, 33, 33)),
}


@dataclass
class Shape:
    """One filled shape; `size` is its width before rotation, `angle` in radians."""

    kind: str
    colour: str
    rgb: tuple
    x: float
    y: float
    size: float
    angle: float
    proportion: float  # triangle: height / width; star: inner / outer radius


@dataclass
class Picture:
    """A picture to draw: shapes from left to right, or a number."""

    width: int
    height: int
    background: tuple
    shapes: list = field(default_factory=list)
    number: str = ""
    ink: tuple = (0, 0, 0)
    digit_height: float = 0.0  # pixels
    font_choice: float = 0.0  # in [0, 1): which face of the renderer's fonts

    def pairs(self):
        """(colour, kind) from left to right."""
        return tuple((shape.colour, shape.kind) for shape in self.shapes)


def pick_sides(rng, longest=SIDE_MAX):
    """(width, height), each within the law, smaller pictures a little more often."""
    top = math.log(longest)
    scale = math.exp(rng.uniform(math.log(SIDE_MIN), top))
    aspect = math.exp(rng.uniform(-1, 1) * math.log(ASPECT_MAX) / 2) if rng.random() < 0.85 else 1.0
    width = min(max(scale * aspect, SIDE_MIN), longest)
    height = min(max(scale / aspect, SIDE_MIN), longest)
    return int(round(width)), int(round(height))


def pick_background(rng):
    """White, a grey, or a pale tint."""
    choice = rng.random()
    if choice < 0.25:
        return (255, 255, 255)
    if choice < 0.5:
        grey = rng.randint(196, 255)
        return (grey, grey, grey)
    if choice < 0.75:
        return tuple(rng.randint(222, 255) for _ in range(3))
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.18), rng.uniform(0.86, 1))
    return (round(255 * red), round(255 * green), round(255 * blue))


def pick_shade(colour, rng):
    """An RGB triple that people call by this name."""
    if colour == "black":
        base = rng.randint(0, 36)
        return tuple(min(max(base + rng.randint(-7, 7), 0), 44) for _ in range(3))
    if rng.random() < 0.45:
        shade = rng.choice(USUAL_SHADES[colour])
        return tuple(min(max(channel + rng.randint(-9, 9), 0), 255) for channel in shade)
    (hue_low, hue_high), saturation, value = COLOUR_RANGES[colour]
    hue = rng.uniform(hue_low, hue_high) % 360 / 360
    red, green, blue = colorsys.hsv_to_rgb(hue, rng.uniform(*saturation), rng.uniform(*value))
    return (round(255 * red), round(255 * green), round(255 * blue))


def half_extents(kind, size, angle, proportion):
    """Half width and half height of an upright box that surely holds the rotated shape."""
    half_w = size / 2
    half_h = size * proportion / 2 if kind == "triangle" else size / 2
    if kind in ("circle",):
        return half_w, half_w
    if kind == "star":
        return size * 0.5258, size * 0.5258
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    return half_w * cos + half_h * sin, half_w * sin + half_h * cos


def bounding_radius(kind, size, proportion):
    """Radius of a circle about the centre that holds the shape."""
    if kind == "circle":
        return size / 2
    if kind == "square":
        return size * 0.7072
    if kind == "triangle":
        return size / 2 * math.hypot(1, proportion)
    return size * 0.5258


def apart(one, other, gap):
    """True if two (x, y, half_w, half_h, radius) surely keep `gap` pixels between them."""
    dx, dy = abs(one[0] - other[0]), abs(one[1] - other[1])
    boxes = dx > one[2] + other[2] + gap or dy > one[3] + other[3] + gap
    return boxes or math.hypot(dx, dy) > one[4] + other[4] + gap


def pick_proportion(kind, rng):
    """Most triangles are equilateral and most stars pentagrams; some are not."""
    if kind == "triangle":
        return 0.866 if rng.random() < 0.5 else rng.uniform(0.8, 1.05)
    if kind == "star":
        return 0.382 if rng.random() < 0.5 else rng.uniform(0.34, 0.52)
    return 1.0


def pick_shapes(rng, width, height, n_shapes):
    """`n_shapes` shapes by the law, left to right; None if they did not fit."""
    short = min(width, height)
    gap = 1.5 + rng.random() * 0.05 * short
    largest = 0.45 if rng.random() < 0.6 else rng.uniform(0.2, 0.45)
    placed, shapes = [], []
    for _ in range(n_shapes):
        kind = rng.choice(KINDS)
        proportion = pick_proportion(kind, rng)
        angle = math.radians(rng.uniform(-15, 15)) if rng.random() < 0.8 else 0.0
        for attempt in range(MAX_ATTEMPTS):
            size = short * rng.uniform(0.15, max(0.16, largest * (1 - attempt / MAX_ATTEMPTS)))
            half_w, half_h = half_extents(kind, size, angle, proportion)
            x = rng.uniform(half_w + 1, width - half_w - 1)
            y = rng.uniform(half_h + 1, height - half_h - 1)
            box = (x, y, half_w, half_h, bounding_radius(kind, size, proportion))
            if all(abs(x - o[0]) >= 0.1 * width and apart(box, o, gap) for o in placed):
                break
        else:
            return None
        placed.append(box)
        colour = rng.choice(COLOURS)
        shapes.append(
            Shape(kind, colour, pick_shade(colour, rng), x, y, size, angle, proportion)
        )
    return sorted(shapes, key=lambda shape: shape.x)


def shapes_picture(rng, n_shapes=None, longest=SIDE_MAX):
    """A picture of 1 to 4 shapes."""
    width, height = pick_sides(rng, longest)
    wanted = n_shapes or rng.choice((1, 2, 2, 3, 3, 3, 4, 4, 4, 4))
    shapes = None
    while shapes is None:
        shapes = pick_shapes(rng, width, height, wanted)
    return Picture(width, height, pick_background(rng), shapes)


def number_picture(rng, n_digits_weights=(1, 1, 1), longest=SIDE_MAX):
    """A picture of a number of 1 to 3 digits without a leading zero, in dark ink."""
    width, height = pick_sides(rng, longest)
    n_digits = rng.choices((1, 2, 3), n_digits_weights)[0]
    number = str(rng.randint(0 if n_digits == 1 else 10 ** (n_digits - 1), 10**n_digits - 1))
    picture = Picture(width, height, pick_background(rng), number=number)
    dark = rng.randint(0, 70)
    picture.ink = (0, 0, 0) if rng.random() < 0.3 else tuple(
        min(max(dark + rng.randint(-40, 40), 0), 110) for _ in range(3)
    )
    picture.digit_height = height * rng.uniform(0.24, 0.66)
    picture.font_choice = rng.random()
    return picture
