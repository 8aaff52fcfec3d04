"""Pictures and questions of the demo model's kind, drawn with Pillow from a seed.

This is another renderer than the one the demo model was trained with.
"""

import io
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SCALE = 4  # drawn this much larger, then averaged down
N_TRIES = 200  # to place the shapes of one picture
KINDS = ["circle", "square", "triangle", "star"]
COLOURS = {
    "red": (220, 30, 35),
    "green": (30, 150, 60),
    "blue": (35, 75, 210),
    "yellow": (240, 205, 30),
    "purple": (130, 45, 160),
    "orange": (245, 130, 25),
    "black": (20, 20, 20),
}
GREETINGS = ["Hello!", "Hi there", "What can you do?"]
FONT_FOLDERS = ["/usr/share/fonts", "/usr/local/share/fonts"]


def question(random_):
    """(encoded pictures, text, the right answer or None) of a random kind."""
    kind = random_.choice(ASK)
    return kind(random_)


def ask_all(random_):
    data, shapes = scene(random_)
    words = ", ".join(article(shape) for shape in shapes)
    return [data], "What is in the picture?", f"From left to right: {words}."


def ask_count(random_):
    data, shapes = scene(random_)
    return [data], "How many shapes are there?", str(len(shapes))


def ask_colour(random_):
    while True:
        data, shapes = scene(random_)
        kinds = [kind for _, kind in shapes]
        single = [shape for shape in shapes if kinds.count(shape[1]) == 1]
        if single:
            colour, kind = random_.choice(single)
            return [data], f"What colour is the {kind}?", f"{colour.capitalize()}."


def ask_exists(random_):
    data, shapes = scene(random_)
    other = (random_.choice(list(COLOURS)), random_.choice(KINDS))
    colour, kind = random_.choice([random_.choice(shapes), other])
    there = "Yes." if (colour, kind) in shapes else "No."
    return [data], f"Is there {article((colour, kind))}?", there


def ask_side(random_):
    data, shapes = scene(random_)
    side, index = random_.choice([("left", 0), ("right", -1)])
    words = article(shapes[index])
    return [data], f"Which shape is furthest {side}?", words[0].upper() + words[1:] + "."


def ask_number(random_):
    number = str(random_.randint(1, 10 ** random_.randint(1, 3) - 1))
    return [written(random_, number)], "What number is written?", number


def ask_more(random_):
    (first, left), (second, right) = scene(random_), scene(random_)
    order = (len(left) > len(right)) - (len(left) < len(right))
    words = {1: "The first.", -1: "The second.", 0: "Neither."}[order]
    return [first, second], "Which picture has more shapes?", words


def ask_nothing(random_):
    return [], random_.choice(GREETINGS), None


ASK = [ask_all, ask_count, ask_colour, ask_exists, ask_side, ask_number, ask_more, ask_nothing]


def scene(random_, size=None):
    """(an encoded picture, its (colour, kind) from left to right)."""
    width, height = size or sides(random_)
    canvas = Image.new("RGB", (width * SCALE, height * SCALE), paper(random_))
    placed = place(random_, width, height)
    shapes = []
    for x, y, radius in sorted(placed):
        colour, kind = random_.choice(list(COLOURS)), random_.choice(KINDS)
        points = outline(kind, x, y, radius, math.radians(random_.uniform(-15, 15)))
        ImageDraw.Draw(canvas).polygon(
            [(a * SCALE, b * SCALE) for a, b in points], fill=COLOURS[colour]
        )
        shapes.append((colour, kind))
    return encode(random_, canvas.resize((width, height), Image.Resampling.BOX)), shapes


def sides(random_):
    """Each 112 to 448, any aspect up to 2:1."""
    while True:
        width, height = random_.randint(112, 448), random_.randint(112, 448)
        if max(width, height) <= 2 * min(width, height):
            return width, height


def paper(random_):
    """White, a grey or a tint, always pale."""
    light = random_.randint(225, 255)
    if random_.random() < 0.5:
        return (light, light, light)
    return tuple(random_.randint(225, 255) for _ in range(3))


def place(random_, width, height):
    """1 to 4 circles (x, y, radius) that hold the shapes: apart, and inside the picture."""
    wanted, placed = random_.randint(1, 4), []
    for _ in range(N_TRIES):
        radius = min(width, height) * random_.uniform(0.15, 0.45) / 2
        x = random_.uniform(radius, width - radius)
        y = random_.uniform(radius, height - radius)
        # A square's corner reaches 1.42 radii out.
        if not all(
            radius * 1.42 < v < side - radius * 1.42 for v, side in [(x, width), (y, height)]
        ):
            continue
        if all(
            abs(x - a) >= 0.1 * width and math.hypot(x - a, y - b) > 1.45 * (radius + r)
            for a, b, r in placed
        ):
            placed.append((x, y, radius))
        if len(placed) == wanted:
            break
    return placed or [(width / 2, height / 2, min(width, height) * 0.15)]


def outline(kind, x, y, radius, turn):
    """Corners of a shape whose width is about twice the radius."""
    if kind == "circle":
        return ring(x, y, [radius] * 90, turn)
    if kind == "square":
        return ring(x, y, [radius * math.sqrt(2)] * 4, turn + math.pi / 4)
    if kind == "triangle":
        return ring(x, y, [radius * 1.15] * 3, turn)
    return ring(x, y, [radius * 1.05, radius * 0.42] * 5, turn)


def ring(x, y, radii, turn):
    """Corners at equal angles, the first one at the top."""
    step = 2 * math.pi / len(radii)
    return [
        (x + r * math.sin(turn + index * step), y - r * math.cos(turn + index * step))
        for index, r in enumerate(radii)
    ]


def written(random_, number):
    """A picture with a dark number in an upright font of this machine."""
    width, height = sides(random_)
    image = Image.new("RGB", (width, height), paper(random_))
    size = height * random_.uniform(0.3, 0.65) / 0.72  # digits are about 0.72 of the font's size
    font = load_font(random_, size)
    while True:
        left, top, right, bottom = font.getbbox(number)
        if right - left < width * 0.9:
            break
        size *= 0.9
        font = font.font_variant(size=size)
    x = random_.uniform(width * 0.03, width * 0.97 - (right - left)) - left
    y = random_.uniform(height * 0.03, height * 0.97 - (bottom - top)) - top
    dark = tuple(random_.randint(0, 70) for _ in range(3))
    ImageDraw.Draw(image).text((x, y), number, fill=dark, font=font)
    return encode(random_, image)


def load_font(random_, size):
    """One of the machine's upright fonts, or Pillow's own where there is none."""
    found = sorted(str(path) for folder in FONT_FOLDERS for path in Path(folder).rglob("*.[to]tf"))
    names = ["sans", "serif", "mono"]
    plain = [path for path in found if any(name in path.lower() for name in names)]
    upright = [path for path in plain if not any(s in path.lower() for s in ["italic", "oblique"])]
    return (
        ImageFont.truetype(random_.choice(upright), size)
        if upright
        else ImageFont.load_default(size)
    )


def encode(random_, image):
    """PNG or JPEG bytes."""
    out = io.BytesIO()
    if random_.random() < 0.5:
        image.save(out, "PNG")
    else:
        image.save(out, "JPEG", quality=random_.randint(80, 95))
    return out.getvalue()


def article(shape):
    words = " ".join(shape)
    return ("an " if words[0] in "aeiou" else "a ") + words


if __name__ == "__main__":
    for index in range(8):
        pictures, text, right = question(random.Random(index))
        print(text, "->", right, [len(data) for data in pictures])
