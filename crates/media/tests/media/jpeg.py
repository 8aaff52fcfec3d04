"""Makes jpeg/: JPEGs of the kinds that Pillow cannot write, and PNGs of what Pillow decodes from them.
Needs cjpeg of libjpeg-turbo 2.1.5 on the path, pillow==11.3.0 and numpy==2.3.3."""

import io
import pathlib
import subprocess

import numpy as np
from PIL import Image

PLACE = pathlib.Path(__file__).with_name("jpeg")

# name, width, height, sampling factors, further options
SAMPLED = [
    ("halved_down", 21, 19, "1x2", []),
    ("halved_down_progressive", 21, 19, "1x2", ["-progressive"]),
    ("quartered_across", 37, 9, "4x1", []),
    ("quartered_down", 9, 37, "1x4", []),
    ("three_across", 29, 7, "3x1", []),
    ("mixed", 21, 19, "2x2,1x2,2x1", []),
    ("mixed_restart", 37, 21, "2x2,2x1,1x2", ["-restart", "1"]),
    ("luma_smaller", 21, 19, "1x1,2x2,2x2", []),
    ("one_chroma_column", 2, 3, "2x1", []),
    ("two_chroma_columns", 4, 5, "2x2", []),
    ("three_chroma_columns", 5, 4, "2x2", []),
]


def scene(width, height):
    """Slopes, an edge and grain."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 9, y * 11 + x * 3, 255 - x * 5 - y * 2], 2) % 256
    rgb[(x > width // 2) & (y > height // 3)] = (230, 20, 40)
    grain = np.random.RandomState(1).randint(-9, 10, rgb.shape)
    return Image.fromarray(np.clip(rgb + grain, 0, 255).astype(np.uint8))


def sampled(image, factors, options):
    pixels = io.BytesIO()
    image.save(pixels, "PPM")
    command = ["cjpeg", "-quality", "80", "-sample", factors, *options]
    return subprocess.run(command, input=pixels.getvalue(), capture_output=True, check=True).stdout


def encoded(image, **options):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80, **options)
    return out.getvalue()


def adobe(data):
    """Where the payload of Adobe's marker is."""
    return data.index(b"Adobe")


def unmarked(data):
    """The same without Adobe's marker."""
    at = adobe(data)
    return data[: at - 4] + data[at + 12 :]


def files():
    for name, width, height, factors, options in SAMPLED:
        yield name, sampled(scene(width, height), factors, options)
    image = scene(19, 17)
    inks = encoded(image.convert("CMYK"), subsampling="4:2:0")
    at = adobe(inks) + 11
    yield "ycck", inks[:at] + b"\2" + inks[at + 1 :]
    yield "cmyk_unmarked", unmarked(inks)
    yield "rgb_by_names", unmarked(encoded(image, keep_rgb=True))
    plain = encoded(image)
    yield "ycbcr_unmarked", plain[:2] + plain[20:]  # without JFIF's marker


PLACE.mkdir(exist_ok=True)
for name, data in files():
    (PLACE / f"{name}.jpg").write_bytes(data)
    decoded = Image.open(io.BytesIO(data)).convert("RGB")
    decoded.save(PLACE / f"{name}.png", optimize=True)
