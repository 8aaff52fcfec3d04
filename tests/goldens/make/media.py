"""Goldens of picture decoding: files of every format and what Pillow makes of them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageDraw, ImageOps, features

import common

WIDTH, HEIGHT = 61, 45  # odd, so that chroma and blocks end inside
ORIENTATION = 0x0112


def scene(width=WIDTH, height=HEIGHT):
    """Gradients, hard edges and a little grain: what a decoder can get wrong."""
    waves = [[3, 1, 20], [1, 5, 200], [2, 2, 400]]
    image = Image.fromarray(common.draw(common.smooth(width, height, waves), None), "RGB")
    pen = ImageDraw.Draw(image)
    pen.ellipse([width * 0.1, height * 0.2, width * 0.5, height * 0.8], fill=(220, 30, 40))
    pen.rectangle([width * 0.6, height * 0.3, width * 0.9, height * 0.7], fill=(10, 40, 200))
    grain = common.draw(common.noise(width, height, 9), None).astype(int) // 16
    return Image.fromarray(np.clip(np.asarray(image) + grain - 8, 0, 255).astype(np.uint8), "RGB")


def write():
    place = common.folder("media")
    for name in ["jpeg", "formats", "refused", "decoded"]:
        common.folder("media", name)
    content = {
        "jpeg_library": f"libjpeg-turbo {features.version('libjpeg_turbo')}",
        "jpeg": [entry(place, "jpeg", *case) for case in jpegs()],
        "formats": [entry(place, "formats", *case) for case in formats()],
        "refused": [refusal(place, *case) for case in broken()],
    }
    common.write_json(place / "index.json", content)


PARTS = {"write": write}


def jpegs():
    """(file name, bytes, exact, note)."""
    image = scene()

    def jpeg(name, note, picture=image, **options):
        return f"{name}.jpg", encoded(picture, "JPEG", **{"quality": 85, **options}), False, note

    yield jpeg("444", "no chroma subsampling", subsampling="4:4:4")
    yield jpeg("422", "chroma halved sideways", subsampling="4:2:2")
    yield jpeg("420", "chroma halved both ways, the usual", subsampling="4:2:0")
    yield jpeg("411", "chroma quartered sideways", subsampling="4:1:1")
    yield jpeg("420_low_quality", "large quantisation steps", quality=20)
    yield jpeg("444_high_quality", "steps of 1", quality=100, subsampling="4:4:4")
    yield jpeg("420_progressive", "several scans", progressive=True)
    yield jpeg("444_progressive", "several scans", progressive=True, subsampling="4:4:4")
    yield jpeg("420_restart", "restart markers", restart_marker_blocks=2)
    yield jpeg("420_optimized", "own Huffman tables", optimize=True)
    yield jpeg("grey", "one component", image.convert("L"))
    yield jpeg("grey_progressive", "one component", image.convert("L"), progressive=True)
    yield jpeg(
        "cmyk", "four components, stored inverted with an Adobe marker", image.convert("CMYK")
    )
    yield jpeg("rgb_adobe", "components are RGB, not YCbCr", keep_rgb=True)
    yield jpeg("one_pixel", "1x1", scene(1, 1))
    yield jpeg("16x16", "one 4:2:0 unit", scene(16, 16))
    yield jpeg("17x9", "one column over a unit", scene(17, 9))
    yield jpeg("comment_and_icc", "an ICC profile and a comment, both ignored", comment=b"hello",
               icc_profile=bytes(range(200)))  # fmt: skip
    small = scene(24, 16)
    for value in range(1, 9):
        yield jpeg(f"orientation_{value}", f"EXIF orientation {value}", small, exif=turned(value))
    yield jpeg("orientation_0", "EXIF orientation 0 is none", small, exif=turned(0))
    yield jpeg("orientation_9", "EXIF orientation 9 is none", small, exif=turned(9))


def formats():
    """(file name, bytes, exact, note)."""
    image = scene(29, 23)
    alpha = Image.fromarray(np.asarray(image.convert("L")).T.copy()).resize(image.size)
    rgba, grey = image.copy(), image.convert("L")
    rgba.putalpha(alpha)
    yield from pngs(image, rgba, grey, alpha)
    yield from raw_pngs(image)
    yield "gif.gif", encoded(image, "GIF"), True, "256 colours"
    yield "gif_transparent.gif", transparent_gif(image), True, "a transparent colour keeps its own"
    yield "gif_animated.gif", animated(image, "GIF"), True, "first frame only"
    yield "gif_offset_frame.gif", offset_gif(), True, "the first frame covers part of the screen"
    yield "webp_lossless.webp", encoded(image, "WEBP", lossless=True), True, ""
    yield "webp_lossy.webp", encoded(image, "WEBP", quality=80), False, ""
    yield "webp_alpha.webp", encoded(rgba, "WEBP", lossless=True, exact=True), True, "alpha dropped"
    yield "webp_lossy_alpha.webp", encoded(rgba, "WEBP", quality=80), False, "alpha dropped"
    yield "webp_animated.webp", animated(image, "WEBP", lossless=True), True, "first frame only"
    yield (
        "webp_orientation_6.webp",
        encoded(image, "WEBP", lossless=True, exif=turned(6)),
        True,
        "EXIF orientation is applied",
    )
    yield "bmp.bmp", encoded(image, "BMP"), True, ""


def pngs(image, rgba, grey, alpha):
    """PNGs as Pillow writes them."""
    palette = image.quantize(64)
    see_through = bytes(range(0, 256, 4))
    yield "rgb.png", encoded(image, "PNG"), True, ""
    yield "rgba.png", encoded(rgba, "PNG"), True, "alpha dropped, not blended"
    yield "grey.png", encoded(grey, "PNG"), True, ""
    yield "grey_alpha.png", encoded(Image.merge("LA", [grey, alpha]), "PNG"), True, "alpha dropped"
    yield "bits.png", encoded(image.convert("1"), "PNG"), True, "1 bit grey"
    yield "palette.png", encoded(palette, "PNG"), True, ""
    yield "palette_16.png", encoded(image.quantize(16), "PNG", bits=4), True, "4 bits a pixel"
    yield (
        "palette_alpha.png",
        encoded(palette, "PNG", transparency=see_through),
        True,
        "alpha dropped: the palette's colours",
    )
    yield "orientation_6.png", encoded(image, "PNG", exif=turned(6)), True, "EXIF in eXIf"
    yield "animated.png", animated(image, "PNG"), True, "APNG, first frame only"


def raw_pngs(image):
    """PNGs that Pillow cannot write: 16 bits, few bits, interlaced, with colour chunks."""
    width, height = image.size
    deep = np.asarray(image).astype(np.uint32) * 257 + 5  # low bytes differ from high ones
    deep = np.minimum(deep, 65535)
    alpha = np.full((height, width, 1), 1000)
    low = np.tile(np.arange(width) * 20, (height, 1))[..., None]  # crosses 255
    few = (np.asarray(image.convert("L")) // 64)[..., None]
    yield "rgb16.png", png(deep, 16, 2), True, "16 bits: the high byte"
    yield "rgba16.png", png(np.concatenate([deep, alpha], 2), 16, 6), True, "16 bits, alpha dropped"
    note = "16-bit grey is clipped at 255, not scaled: Pillow's conversion"
    yield "grey16.png", png(deep[..., :1], 16, 0), True, note
    yield "grey16_dark.png", png(low, 16, 0), True, note
    both = np.concatenate([deep[..., :1], alpha], 2)
    yield "grey_alpha16.png", png(both, 16, 4), True, "16 bits: the high byte, alpha dropped"
    yield "grey2.png", png(few, 2, 0), True, "2 bits, scaled to 0..255"
    yield "grey4.png", png(few * 5, 4, 0), True, "4 bits, scaled to 0..255"
    plain = np.asarray(image)
    yield "interlaced.png", png(plain, 8, 2, interlaced=True), True, "Adam7"
    gamma = [(b"gAMA", struct.pack(">I", 100000)), (b"tRNS", struct.pack(">3H", 10, 20, 30))]
    yield "gamma_and_trns.png", png(plain, 8, 2, chunks=gamma), True, "both chunks ignored"


def broken():
    """(file name, bytes): what must be refused."""
    jpeg, whole = encoded(scene(), "JPEG"), encoded(scene(), "PNG")
    yield "empty.jpg", b""
    yield "text.png", b"this is not a picture at all, whatever its name says\n"
    yield "truncated.jpg", jpeg[:-200]
    yield "truncated_header.jpg", jpeg[:20]
    yield "truncated.png", whole[: len(whole) // 2]
    yield "wrong_checksum.png", whole[:30] + bytes([whole[30] ^ 255]) + whole[31:]
    yield "truncated.webp", encoded(scene(), "WEBP")[:100]
    yield "truncated.gif", encoded(scene(), "GIF")[:20]


def entry(place, group, file_name, data, exact, note):
    """Stores a file and its decoding."""
    (place / group / file_name).write_bytes(data)
    image = Image.open(io.BytesIO(data))
    mode, orientation = image.mode, image.getexif().get(ORIENTATION)
    decoded = ImageOps.exif_transpose(image).convert("RGB")
    name = file_name.replace(".", "_")
    common.save_png(np.asarray(decoded), place / "decoded" / f"{group}_{name}.png")
    return {
        "name": name,
        "path": f"{group}/{file_name}",
        "mode": mode,
        "orientation": orientation,
        "width": decoded.width,
        "height": decoded.height,
        "decoded": f"decoded/{group}_{name}.png",
        "exact": exact,
        "note": note,
    }


def refusal(place, file_name, data):
    (place / "refused" / file_name).write_bytes(data)
    try:
        Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError) as error:
        words = str(error).split("<")[0].strip()  # without the object's address
        return {"name": file_name, "path": f"refused/{file_name}", "error": words}
    raise SystemExit(f"{file_name} was not refused")


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def turned(value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


def animated(image, kind, **options):
    """Three frames; the later ones must not show."""
    others = [ImageOps.invert(image), ImageOps.mirror(image)]
    return encoded(image, kind, save_all=True, append_images=others, duration=100, **options)


def transparent_gif(image):
    return encoded(image.quantize(32), "GIF", transparency=3)


def offset_gif():
    """A GIF by hand: screen 6x4 with background colour 1, the frame 2x2 at (3, 1)."""
    colours = bytes([0, 0, 0, 200, 100, 50, 0, 255, 0, 0, 0, 255])
    screen = b"GIF89a" + struct.pack("<HHBBB", 6, 4, 0b1000_0001, 1, 0) + colours
    frame = b"," + struct.pack("<HHHHB", 3, 1, 2, 2, 0)
    return screen + frame + bytes([2]) + lzw([2, 3, 3, 2]) + b"\0;"


def lzw(pixels):
    """One sub-block: each pixel after a clear code, so that codes stay 3 bits wide."""
    codes = [code for pixel in pixels for code in (4, pixel)] + [5]
    bits = sum(code << (3 * index) for index, code in enumerate(codes))
    data = bits.to_bytes((3 * len(codes) + 7) // 8, "little")
    return bytes([len(data)]) + data


def png(pixels, depth, colour, chunks=(), interlaced=False):
    """A PNG of samples [H, W, channels]; colour types as in the standard; no filtering."""
    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    rows = b"".join(
        b"\0" + packed(row, depth)
        for x, y, step_x, step_y in passes
        for row in pixels[y::step_y, x::step_x]
        if row.size
    )
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in body)


ADAM7 = [
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
]  # fmt: skip


def packed(row, depth):
    """One row's samples at 16, 8 or fewer bits."""
    if depth == 16:
        return row.astype(">u2").tobytes()
    if depth == 8:
        return row.astype(np.uint8).tobytes()
    bits = "".join(f"{int(sample):0{depth}b}" for sample in row.ravel())
    return bytes(int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
