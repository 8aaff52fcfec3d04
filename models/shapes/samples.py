"""Draws the sample pictures of this folder; what they show is written here and never changes.

`python samples.py` writes two-shapes.png, four-shapes.jpg and forty-two.png to samples/, drawn
with Pillow and the font DejaVu Sans (Debian: fonts-dejavu-core), and samples.json with
questions about them and the right answers.
"""

import json
import math
import subprocess
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from evaluation_pictures import SUPERSAMPLING, corners
from scenes import Shape

FOLDER = Path(__file__).parent / "samples"
TURN = math.radians(8)
# name, size, background, shapes
SHAPES = (
    ("two-shapes.png", (224, 224), (255, 255, 255), (
        Shape("circle", "red", (220, 40, 40), 64, 140, 84, 0.0, 1.0),
        Shape("square", "blue", (40, 90, 220), 160, 84, 76, TURN, 1.0),
    )),
    ("four-shapes.jpg", (448, 320), (238, 244, 250), (
        Shape("star", "yellow", (250, 205, 30), 70, 90, 110, -TURN, 0.382),
        Shape("triangle", "green", (40, 160, 70), 176, 226, 120, TURN, 0.866),
        Shape("circle", "orange", (255, 140, 0), 290, 100, 96, 0.0, 1.0),
        Shape("square", "black", (20, 20, 20), 382, 224, 88, -TURN, 1.0),
    )),
)
NUMBER = ("forty-two.png", (168, 112), (244, 240, 230), "42", 56)
QUESTIONS = (
    (["two-shapes.png"], "What is in the picture?",
     "From left to right: a red circle, a blue square."),
    (["two-shapes.png"], "How many shapes are there?", "2"),
    (["four-shapes.jpg"], "What is in the picture?",
     "From left to right: a yellow star, a green triangle, an orange circle, a black square."),
    (["four-shapes.jpg"], "What colour is the triangle?", "Green."),
    (["four-shapes.jpg"], "Is there a green star?", "No."),
    (["four-shapes.jpg"], "Which shape is furthest left?", "A yellow star."),
    (["forty-two.png"], "What number is written?", "42"),
    (["two-shapes.png", "four-shapes.jpg"], "Which picture has more shapes?", "The second."),
    ([], "Hello!",
     "Hello! Send me a picture and I can name its shapes, count them, or read a number."),
)


def draw_shapes(size, background, shapes):
    """Filled shapes, supersampled."""
    scale = SUPERSAMPLING
    canvas = Image.new("RGB", (size[0] * scale, size[1] * scale), background)
    pen = ImageDraw.Draw(canvas)
    for shape in shapes:
        half = shape.size / 2
        if shape.kind == "circle":
            edges = (shape.x - half, shape.y - half, shape.x + half, shape.y + half)
            pen.ellipse([edge * scale for edge in edges], fill=shape.rgb)
        else:
            pen.polygon(corners(shape, scale), fill=shape.rgb)
    return canvas.resize(size, Image.LANCZOS)


def draw_digits(size, background, number, height):
    """A number in the middle of the picture."""
    found = subprocess.run(["fc-match", "-f", "%{file}", "DejaVu Sans"], check=True,
                           capture_output=True, text=True).stdout
    font = ImageFont.truetype(found, height / 0.73)
    canvas = Image.new("RGB", size, background)
    ImageDraw.Draw(canvas).text((size[0] / 2, size[1] / 2), number, (25, 25, 40), font, anchor="mm")
    return canvas


def main():
    """Write the pictures and samples.json."""
    FOLDER.mkdir(exist_ok=True)
    for name, size, background, shapes in SHAPES:
        draw_shapes(size, background, shapes).save(FOLDER / name, quality=90)
    name, *described = NUMBER
    draw_digits(*described).save(FOLDER / name)
    listing = [{"pictures": names, "question": question, "answer": answer}
               for names, question, answer in QUESTIONS]
    (FOLDER / "samples.json").write_text(json.dumps(listing, indent=2) + "\n")


if __name__ == "__main__":
    main()
