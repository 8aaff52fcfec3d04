"""Evaluation questions about pictures of another renderer than the training one.

`python evaluation_pictures.py OUT.jsonl N SEED` writes N questions of each kind, one JSON object
a line: kind, pictures (data URLs), question, answer. Pictures are drawn by Pillow or aggdraw
with fonts that training never saw.
"""

import base64
import io
import json
import math
import random
import sys

import aggdraw
from PIL import Image, ImageColor, ImageDraw, ImageFont

import fonts
import questions
import scenes

SUPERSAMPLING = 4
NAMES = {
    "red": ("red", "crimson", "firebrick", "#d62728", "#e53935", "#ef4444", "#dc2626"),
    "green": ("green", "lime", "forestgreen", "limegreen", "#2ca02c", "#22c55e", "#43a047"),
    "blue": ("blue", "royalblue", "dodgerblue", "mediumblue", "#1f77b4", "#3b82f6", "#1e88e5"),
    "yellow": ("yellow", "gold", "#facc15", "#fdd835", "#ffeb3b"),
    "purple": ("purple", "darkviolet", "rebeccapurple", "#9467bd", "#8e24aa", "#9333ea"),
    "orange": ("orange", "darkorange", "#ff7f0e", "#f97316", "#fb8c00"),
    "black": ("black", "#111111", "#1f1f1f"),
}


def corners(shape, scale):
    """Polygon of a square, triangle or star, in supersampled pixels."""
    half = shape.size / 2
    if shape.kind == "square":
        points = [(-half, -half), (half, -half), (half, half), (-half, half)]
    elif shape.kind == "triangle":
        tall = half * shape.proportion
        points = [(0, -tall), (half, tall), (-half, tall)]
    else:
        outer = half / math.sin(math.radians(72))
        radii = (outer, outer * shape.proportion) * 5
        points = [(radius * math.sin(math.pi * i / 5), -radius * math.cos(math.pi * i / 5))
                  for i, radius in enumerate(radii)]
    cos, sin = math.cos(shape.angle), math.sin(shape.angle)
    return [((shape.x + x * cos - y * sin) * scale, (shape.y + x * sin + y * cos) * scale)
            for x, y in points]


def draw_with_pillow(picture, rng):
    """Supersampled polygons, reduced by a filter of Pillow."""
    scale = SUPERSAMPLING
    canvas = Image.new("RGB", (picture.width * scale, picture.height * scale), picture.background)
    pen = ImageDraw.Draw(canvas)
    for shape in picture.shapes:
        if shape.kind == "circle":
            half = shape.size / 2
            box = [(shape.x - half) * scale, (shape.y - half) * scale,
                   (shape.x + half) * scale, (shape.y + half) * scale]
            pen.ellipse(box, fill=shape.rgb)
        else:
            pen.polygon(corners(shape, scale), fill=shape.rgb)
    kernel = rng.choice((Image.LANCZOS, Image.BOX, Image.BICUBIC))
    return canvas.resize((picture.width, picture.height), kernel)


def draw_with_aggdraw(picture, _rng):
    """Anti-aliased polygons of the AGG library."""
    canvas = aggdraw.Draw("RGB", (picture.width, picture.height), picture.background)
    for shape in picture.shapes:
        brush = aggdraw.Brush(shape.rgb)
        if shape.kind == "circle":
            half = shape.size / 2
            canvas.ellipse((shape.x - half, shape.y - half, shape.x + half, shape.y + half), brush)
        else:
            canvas.polygon([value for point in corners(shape, 1) for value in point], brush)
    canvas.flush()
    return Image.frombytes("RGB", (picture.width, picture.height), canvas.tobytes())


def draw_number(picture, rng, faces):
    """The number by FreeType, at its own size or reduced from a larger one."""
    scale = rng.choice((1, SUPERSAMPLING))
    face = faces[int(picture.font_choice * len(faces))]
    probe = ImageFont.truetype(face, 200)
    left, top, right, bottom = probe.getbbox("0", anchor="ls")
    size = picture.digit_height / (bottom - top) * 200
    box = probe.getbbox(picture.number, anchor="ls")
    size = min(size, 0.94 * picture.width / (box[2] - box[0]) * 200)
    size = min(size, 0.94 * picture.height / (box[3] - box[1]) * 200)
    font = ImageFont.truetype(face, size * scale)
    box = font.getbbox(picture.number, anchor="ls")
    width, height = picture.width * scale, picture.height * scale
    x = rng.uniform(1, width - (box[2] - box[0]) - 1) - box[0]
    y = rng.uniform(1, height - (box[3] - box[1]) - 1) - box[1]
    canvas = Image.new("RGB", (width, height), picture.background)
    ImageDraw.Draw(canvas).text((x, y), picture.number, picture.ink, font=font, anchor="ls")
    return canvas.resize((picture.width, picture.height), Image.LANCZOS) if scale > 1 else canvas


def recolour(picture, rng):
    """Colours by name, as CSS, plotting and drawing programs have them."""
    for shape in picture.shapes:
        base = ImageColor.getrgb(rng.choice(NAMES[shape.colour]))
        shape.rgb = tuple(min(max(channel + rng.randint(-5, 5), 0), 255) for channel in base)


def draw(picture, rng, faces):
    """The picture by one of the renderers."""
    if picture.number:
        return draw_number(picture, rng, faces)
    recolour(picture, rng)
    return rng.choice((draw_with_pillow, draw_with_aggdraw))(picture, rng)


def data_url(image, rng):
    """PNG or JPEG."""
    stored = io.BytesIO()
    kind = rng.choice(("png", "jpeg"))
    options = {"quality": rng.choice((75, 85, 92))} if kind == "jpeg" else {}
    image.save(stored, kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(stored.getvalue()).decode()


def number_case(rng):
    """A number in any of the law's sizes."""
    picture = scenes.number_picture(rng)
    picture.digit_height = picture.height * rng.uniform(0.25, 0.65)
    return [picture], questions.ask("number", rng, canonical_share=0.4), picture.number


def case(kind, rng):
    """(pictures, question, answer) of one kind."""
    if kind == "number":
        return number_case(rng)
    if kind == "greeting":
        return [], questions.ask(kind, rng), questions.GREETING_ANSWER
    if kind == "compare":
        counts = rng.choice([(a, b) for a in range(1, 5) for b in range(1, 5) if a != b]
                            + [(a, a) for a in range(1, 5)] * 2)
        pictures = [scenes.shapes_picture(rng, n) for n in counts]
        return pictures, questions.ask(kind, rng), questions.answer_compare(*counts)
    while True:
        picture = scenes.shapes_picture(rng, rng.randint(1, 4))
        asked = questions.shapes_question(kind, picture.pairs(), rng)
        if asked:
            return [picture], *asked


def main(path, n_cases, seed):
    """Write the file."""
    faces = fonts.installed_faces(fonts.EVALUATION_FAMILIES)
    with open(path, "w") as out:
        for kind in questions.PARAPHRASES:
            rng = random.Random(f"{seed} {kind}")
            for _ in range(n_cases):
                pictures, question, answer = case(kind, rng)
                urls = [data_url(draw(picture, rng, faces), rng) for picture in pictures]
                line = {"kind": kind, "pictures": urls, "question": question, "answer": answer}
                out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
