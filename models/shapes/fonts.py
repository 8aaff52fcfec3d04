"""Digits of installed fonts: which faces train, which are kept for evaluation, and their atlas.

`python fonts.py atlas.npz` writes signed distance fields of the ten digits of every training
face; the GPU renderer samples them at any size. Evaluation faces never enter the atlas.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

CELL = 80  # atlas cell, pixels
INK_HEIGHT = 54.0  # height of a face's tallest digit in the cell
FINE = 6  # fields are measured at this many times the cell's resolution
SPREAD = 8.0  # distances are clipped to this many cell pixels

# Families kept for evaluation, by Debian package. Families with the same outlines
# (Arimo, Tinos and Cousine; Hack; Droid) are kept out of training too.
EVALUATION_FAMILIES = {
    "fonts-dejavu-core": ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono"),
    "fonts-liberation": ("Liberation Sans", "Liberation Serif", "Liberation Mono"),
    "fonts-lato": ("Lato",),
    "fonts-open-sans": ("Open Sans",),
    "fonts-cantarell": ("Cantarell",),
    "fonts-crosextra-carlito": ("Carlito",),
    "fonts-crosextra-caladea": ("Caladea",),
    "fonts-firacode": ("Fira Code",),
    "fonts-paratype": ("PT Serif", "PT Sans"),
    "fonts-go": ("Go",),
    "fonts-ebgaramond": ("EB Garamond",),
}
HELD_OUT_TOO = ("Arimo", "Tinos", "Cousine", "Hack", "Droid Sans Fallback", "Liberation Sans Narrow")

TRAINING_FAMILIES = {
    "fonts-adf-accanthis": ("Accanthis ADF Std",),
    "fonts-adf-baskervald": ("Baskervald ADF Std",),
    "fonts-adf-berenis": ("Berenis ADF Pro",),
    "fonts-adf-gillius": ("Gillius ADF",),
    "fonts-adf-switzera": ("Switzera ADF",),
    "fonts-adf-tribun": ("Tribun ADF Std",),
    "fonts-adf-universalis": ("Universalis ADF Std",),
    "fonts-adf-verana": ("Verana Sans", "Verana"),
    "fonts-agave": ("Agave",),
    "fonts-anonymous-pro": ("Anonymous Pro",),
    "fonts-averia-sans-gwf": ("Averia Sans GWF",),
    "fonts-averia-serif-gwf": ("Averia Serif GWF",),
    "fonts-b612": ("B612", "B612 Mono"),
    "fonts-beteckna": ("Beteckna",),
    "fonts-cabin": ("Cabin",),
    "fonts-century-catalogue": ("Century Catalogue",),
    "fonts-clear-sans": ("Clear Sans",),
    "fonts-cmu": ("CMU Serif", "CMU Sans Serif", "CMU Typewriter Text", "CMU Concrete", "CMU Bright"),
    "fonts-comfortaa": ("Comfortaa",),
    "fonts-comic-neue": ("Comic Neue",),
    "fonts-courier-prime": ("Courier Prime", "Courier Prime Sans"),
    "fonts-dosis": ("Dosis",),
    "fonts-fantasque-sans": ("Fantasque Sans Mono",),
    "fonts-freefont-ttf": ("FreeSans", "FreeSerif", "FreeMono"),
    "fonts-gfs-artemisia": ("GFS Artemisia",),
    "fonts-gfs-didot": ("GFS Didot",),
    "fonts-gfs-neohellenic": ("GFS Neohellenic",),
    "fonts-inconsolata": ("Inconsolata",),
    "fonts-inter": ("Inter", "Inter Display"),
    "fonts-jetbrains-mono": ("JetBrains Mono",),
    "fonts-junction": ("Junction",),
    "fonts-jura": ("Jura",),
    "fonts-karla": ("Karla",),
    "fonts-league-mono": ("League Mono",),
    "fonts-linuxlibertine": ("Linux Libertine O", "Linux Biolinum O"),
    "fonts-manrope": ("Manrope",),
    "fonts-mononoki": ("mononoki",),
    "fonts-national-park": ("National Park",),
    "fonts-noto-mono": ("Noto Mono", "Noto Sans Mono"),
    "fonts-oldstandard": ("Old Standard TT",),
    "fonts-opendin": ("OSP-DIN",),
    "fonts-osifont": ("osifont",),
    "fonts-oxygen": ("Oxygen-Sans", "Oxygen Mono"),
    "fonts-play": ("Play",),
    "fonts-quattrocento": ("Quattrocento",),
    "fonts-quicksand": ("Quicksand",),
    "fonts-roboto-slab": ("Roboto Slab",),
    "fonts-roboto-unhinted": ("Roboto", "Roboto Condensed"),
    "fonts-routed-gothic": ("Routed Gothic", "Routed Gothic Wide"),
    "fonts-sil-andika": ("Andika",),
    "fonts-sil-charis": ("Charis SIL",),
    "fonts-sil-gentium": ("Gentium",),
    "fonts-sora": ("Sora",),
    "fonts-stix": ("STIX",),
    "fonts-texgyre": ("TeX Gyre Adventor", "TeX Gyre Bonum", "TeX Gyre Heros", "TeX Gyre Heros Cn"),
    "fonts-tlwg-garuda-ttf": ("Garuda",),
    "fonts-tlwg-kinnari-ttf": ("Kinnari",),
    "fonts-tlwg-loma-ttf": ("Loma",),
    "fonts-tlwg-norasi-ttf": ("Norasi",),
    "fonts-tuffy": ("Tuffy",),
    "fonts-urw-base35": ("C059", "P052", "Nimbus Sans", "Nimbus Roman", "Nimbus Mono PS", "URW Gothic"),
    "fonts-vollkorn": ("Vollkorn",),
    "fonts-yanone-kaffeesatz": ("Yanone Kaffeesatz",),
}
UNWANTED_STYLES = ("italic", "oblique", "slanted", "thin", "hairline", "extralight", "ultralight",
                   "condlight", "outline", "inclined", "cmunb", "cmuno")
FACES_A_FAMILY_MAX = 8


def installed_faces(families):
    """Sorted paths of the upright faces of these families, one per outline."""
    wanted = {name for names in families.values() for name in names}
    listing = subprocess.run(
        ["fc-list", "--format", "%{file}|%{family}|%{style}\n"],
        check=True, capture_output=True, text=True,
    ).stdout
    faces = {name: set() for name in wanted}
    rows = (line.split("|") for line in listing.splitlines())
    for path, family, style in (row for row in rows if len(row) == 3):
        described = (Path(path).name + style.split(",")[0]).lower().replace(" ", "")
        upright = not any(word in described for word in UNWANTED_STYLES)
        for name in wanted & set(family.replace("\\", "").split(",")):
            if upright and Path(path).suffix in (".ttf", ".otf"):
                faces[name].add(path)
    return sorted({path for paths in faces.values() for path in thinned(sorted(paths))})


def thinned(paths):
    """At most FACES_A_FAMILY_MAX of them, evenly spread."""
    step = max(1.0, len(paths) / FACES_A_FAMILY_MAX)
    return [paths[int(i * step)] for i in range(min(len(paths), FACES_A_FAMILY_MAX))]


def digit_boxes(font):
    """Ink boxes (left, top, right, bottom) of the ten digits, origin on the baseline."""
    return [font.getbbox(str(digit), anchor="ls") for digit in range(10)]


def measure_face(path):
    """(fields [10, CELL, CELL] uint8, metrics [10, 3] float32) of one face, or None.

    Metrics in cell pixels: left and right edge of the ink from the cell's centre, advance.
    A field holds 128 + distance / SPREAD * 127, positive inside the ink.
    """
    from PIL import Image, ImageDraw, ImageFont
    from scipy.ndimage import distance_transform_edt

    font = ImageFont.truetype(path, 400)
    boxes = digit_boxes(font)
    tallest = max(bottom - top for _, top, _, bottom in boxes)
    widest = max(right - left for left, _, right, _ in boxes)
    top, bottom = min(box[1] for box in boxes), max(box[3] for box in boxes)
    if tallest <= 0 or widest <= 0 or widest > 1.5 * tallest:
        return None
    scale = min(INK_HEIGHT / tallest, (CELL - 6) / (bottom - top), (CELL - 6) / widest)
    font = ImageFont.truetype(path, 400 * scale * FINE)
    fields, metrics = [], []
    for digit in range(10):
        box = font.getbbox(str(digit), anchor="ls")
        canvas = Image.new("L", (CELL * FINE, CELL * FINE))
        middle = (box[0] + box[2]) / 2
        origin = (CELL * FINE / 2 - middle, CELL * FINE / 2 - (top + bottom) / 2 * scale * FINE)
        ImageDraw.Draw(canvas).text(origin, str(digit), 255, font=font, anchor="ls")
        ink = np.asarray(canvas) > 127
        if not ink.any():
            return None
        distance = (distance_transform_edt(ink) - distance_transform_edt(~ink)) / FINE
        fine = distance.reshape(CELL, FINE, CELL, FINE)
        half = FINE // 2
        centre = fine[:, half - 1 : half + 1, :, half - 1 : half + 1].mean(axis=(1, 3))
        fields.append(np.clip(128 + centre / SPREAD * 127, 0, 255).round().astype(np.uint8))
        width = (box[2] - box[0]) / FINE
        metrics.append((-width / 2, width / 2, font.getlength(str(digit)) / FINE))
    return np.stack(fields), np.array(metrics, np.float32)


def write_atlas(path):
    """Measure every training face and store the atlas."""
    fields, metrics, names = [], [], []
    for face in installed_faces(TRAINING_FAMILIES):
        measured = measure_face(face)
        if measured is not None:
            fields.append(measured[0])
            metrics.append(measured[1])
            names.append(Path(face).name)
    np.savez_compressed(path, fields=np.stack(fields), metrics=np.stack(metrics), names=names)
    print(f"{len(names)} faces of {len(TRAINING_FAMILIES)} packages -> {path}")


if __name__ == "__main__":
    write_atlas(sys.argv[1])
