"""Preprocessing goldens of the dynamic-resolution processors: sizes, resized pixels, grids."""

import importlib
import json
import random

import numpy as np
from PIL import Image

import common

N_RANDOM_SIZES = 500
N_RANDOM_CASES = 20
FACTOR = 28
LIMITS = [(28 * 28 * 4, 28 * 28 * 16), (28 * 28, 28 * 28 * 8), (28 * 28 * 9, 28 * 28 * 12)]

# width, height, limits (index), kind, note
CHOSEN = [
    (1, 1, 0, "noise", "one pixel; channels_last given"),
    (1, 2, 0, "noise", ""),
    (2, 1, 0, "noise", "channels_last given"),
    (5, 3, 0, "noise", "channels_last given"),
    (3, 5, 0, "noise", ""),
    (1, 40, 0, "smooth", "one pixel wide"),
    (40, 1, 0, "smooth", "one pixel high; channels_last given"),
    (1, 200, 0, "smooth", "the largest aspect"),
    (200, 1, 0, "smooth", "the largest aspect; channels_last given"),
    (400, 2, 0, "smooth", "aspect 200"),
    (2, 399, 1, "smooth", "aspect 199.5, over max_pixels"),
    (56, 56, 0, "noise", "exactly min_pixels, nothing to resize"),
    (112, 112, 0, "noise", "exactly max_pixels, nothing to resize"),
    (112, 113, 0, "smooth", "one row over max_pixels before rounding"),
    (84, 56, 0, "noise", "exact multiples, nothing to resize"),
    (28, 28, 0, "noise", "under min_pixels"),
    (55, 56, 0, "noise", "rounds to min_pixels"),
    (42, 70, 0, "noise", "half of the factor: 42 rounds to 56, 70 to 56 (half to even)"),
    (14, 300, 1, "smooth", "14 rounds to 0 (half to even)"),
    (98, 126, 1, "smooth", "half of the factor: 98 rounds to 112, 126 to 112"),
    (640, 480, 0, "smooth", "down by 6"),
    (480, 640, 1, "smooth", "down by 8"),
    (1000, 31, 2, "smooth", "wide, down"),
    (257, 509, 2, "noise", "noise, down"),
]
WHOLE = {"chosen_5x3", "chosen_257x509"}  # with pixel_values
MISREAD = [(1, 1), (40, 1), (200, 1), (5, 3), (40, 3), (600, 3)]
# What a preprocessor_config.json may say about the limits.
CONFIGS = [
    {},
    {"min_pixels": 3136, "max_pixels": 12845056},
    {"min_pixels": 3136},
    {"max_pixels": 12544},
    {"size": {"shortest_edge": 6272, "longest_edge": 12544}},
    {"size": {"shortest_edge": 6272, "longest_edge": 12544}, "max_pixels": 9408},
    {"size": {"shortest_edge": 6272, "longest_edge": 12544}, "min_pixels": 784, "max_pixels": 9408},
]
REFUSED = [(1, 201), (201, 1), (2, 401), (402, 2), (5000, 24), (3, 601)]


def write_resize_table(family, module):
    """`smart_resize.json`: the size rule alone, over random and chosen sizes."""
    rule = importlib.import_module(module).smart_resize
    rows, refused = [], []
    for height, width, least, most in sizes():
        try:
            new = rule(height, width, factor=FACTOR, min_pixels=least, max_pixels=most)
            rows.append([height, width, least, most, *new])
        except (ValueError, ZeroDivisionError) as error:
            refused.append([height, width, least, most, str(error)])
    content = {"factor": FACTOR, "rows": rows, "refused": refused}
    common.write_json(common.folder(family, "preprocessing") / "smart_resize.json", content)


def write_cases(family, processor):
    """`index.json`, the resized pictures and a few whole outputs."""
    place = common.folder(family, "preprocessing")
    common.folder(family, "preprocessing", "resized")
    tensors, cases = {}, []
    for name, picture, limits, note in [*chosen(), *drawn()]:
        case = {"name": name, "picture": picture, "min_pixels": limits[0], "max_pixels": limits[1]}
        cases.append({**case, **outcome(processor, case, place, tensors), "note": note})
    common.write_tensors(place / "pixel_values.safetensors", tensors)
    content = {
        "tensors_file": "pixel_values.safetensors",
        "patch_size": processor.patch_size,
        "temporal_patch_size": processor.temporal_patch_size,
        "merge_size": processor.merge_size,
        "cases": cases,
        "refused": [refusal(processor, width, height) for width, height in REFUSED],
        "limits": [limits_of(processor, config) for config in CONFIGS],
        "misread": [misreading(processor, width, height) for width, height in MISREAD],
    }
    common.write_json(place / "index.json", content)


def sizes():
    """(height, width, min_pixels, max_pixels): chosen edges, then random ones."""
    hub, small = (3136, 12845056), (28 * 28 * 4, 28 * 28 * 16)
    for height in [1, 2, 13, 14, 15, 27, 28, 29, 41, 42, 43, 69, 70, 71, 98, 126, 154, 3584, 3585]:
        for width in [1, 14, 42, 56, 70, 200, 1000, 3584]:
            yield (height, width, *hub)
            yield (height, width, *small)
    random_ = random.Random(1)
    for _ in range(N_RANDOM_SIZES):
        height = int(2 ** random_.uniform(0, 13))
        width = max(1, int(height * 2 ** random_.uniform(-7.8, 7.8)))
        least = FACTOR**2 * random_.randint(1, 64)
        yield height, width, least, least * random_.randint(1, 64) + random_.randint(0, 783)


def chosen():
    for index, (width, height, limits, kind, note) in enumerate(CHOSEN):
        name = f"chosen_{width}x{height}"
        yield name, picture(kind, width, height, 100 + index), LIMITS[limits], note


def drawn():
    """Random sizes: a fifth of them noise, small enough that the results stay small."""
    random_ = random.Random(2)
    for index in range(N_RANDOM_CASES):
        width = int(2 ** random_.uniform(0, 8.5))
        height = int(2 ** random_.uniform(0, 8.5))
        if max(width, height) > 200 * min(width, height):
            width = height
        kind = "noise" if index % 5 == 0 else "smooth"
        note = "channels_last given" if height in (1, 3) else ""
        limits = LIMITS[random_.randrange(len(LIMITS))]
        yield f"random_{index}", picture(kind, width, height, 200 + index), limits, note


def picture(kind, width, height, seed):
    if kind == "noise":
        return common.noise(width, height, seed)
    random_ = random.Random(seed)
    # Steeper for smaller pictures, so that each has some edges.
    steep = max(2, 2000 // max(width, height))
    slope, phase = lambda: random_.randint(0, steep), lambda: random_.randint(0, 511)
    waves = [[slope(), slope(), phase()] for _ in "RGB"]
    return common.smooth(width, height, waves)


def outcome(processor, case, place, tensors):
    """Grid, resized picture and, for a few, the whole output of a case."""
    image = Image.fromarray(common.draw(case["picture"], None), "RGB")
    given = {"input_data_format": "channels_last"} if image.height in (1, 3) else {}
    limits = {"min_pixels": case["min_pixels"], "max_pixels": case["max_pixels"]}
    bare = processor(
        image, do_rescale=False, do_normalize=False, return_tensors="np", **limits, **given
    )
    grid = bare["image_grid_thw"][0].tolist()
    resized = unpatch(bare["pixel_values"], grid, processor)
    common.save_png(resized, place / "resized" / f"{case['name']}.png")
    key = None
    if case["name"] in WHOLE:
        key = case["name"]
        tensors[key] = processor(image, return_tensors="pt", **limits, **given)["pixel_values"]
    return {
        "grid_thw": grid,
        "n_tokens": grid[0] * grid[1] * grid[2] // processor.merge_size**2,
        "resized": f"resized/{case['name']}.png",
        "pixel_values": key,
    }


def unpatch(rows, grid, processor):
    """The picture [H, W, 3] whose patches, in merge order and doubled in time, the rows are."""
    size, merge, times = processor.patch_size, processor.merge_size, processor.temporal_patch_size
    _, high, wide = grid
    rows = rows.reshape(high // merge, wide // merge, merge, merge, 3, times, size, size)
    frames = rows.transpose(5, 0, 2, 6, 1, 3, 7, 4).reshape(times, high * size, wide * size, 3)
    assert (frames[0] == frames[1]).all() and (frames[0] == frames[0].astype(np.uint8)).all()
    return frames[0].astype(np.uint8)


def refusal(processor, width, height):
    try:
        processor(Image.new("RGB", (width, height)), input_data_format="channels_last")
    except ValueError as error:
        return {"width": width, "height": height, "error": str(error)}
    raise SystemExit(f"{width}x{height} was not refused")


def limits_of(processor, config):
    """Which limits a folder's preprocessor config leads to, told by the constructor."""
    made = type(processor)(**json.loads(json.dumps(config)))
    return {"config": config, "min_pixels": made.min_pixels, "max_pixels": made.max_pixels}


def misreading(processor, width, height):
    """What becomes of heights 1 and 3 when the processor guesses where the channels are."""
    image = Image.fromarray(common.draw(common.noise(width, height, 1), None), "RGB")
    told = processor(image, input_data_format="channels_last")["pixel_values"]
    try:
        guessed = processor(image)["pixel_values"]
    except ValueError as error:
        return {"width": width, "height": height, "error": str(error)}
    assert not np.array_equal(np.array(told), np.array(guessed))
    return {"width": width, "height": height, "error": None}
