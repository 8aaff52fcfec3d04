"""Draws a packed batch of pictures on the GPU, from tables of numbers to normalised patches.

Edges come from signed distances; pictures may then pass through a simulated JPEG, and are
resized with an antialiased bicubic filter as the image processor does. Shapes are constant and
nothing is read back by the host. Pixels live in 16x16 blocks [n_blocks, 256], so that JPEG's
8x8 transforms are plain matrix products.
"""

import math

import torch

from fonts import CELL, SPREAD

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
TAPS = 6  # bicubic, scaled down by at most 1.13
LUMA_TABLE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113,
    92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)
CHROMA_TABLE = tuple(
    {0: 17, 1: 18, 2: 24, 3: 47}.get(max(row, column), 99) if row + column < 5 else 99
    for row in range(8) for column in range(8)
)


def shape_distance(table, x, y):
    """Signed distance (inside positive) of pixels [n, 256] to one shape a row: [n, 10]."""
    column = lambda i: table[:, i : i + 1]  # noqa: E731
    dx, dy = x - column(1), y - column(2)
    local_x = dx * column(4) + dy * column(5)
    local_y = dy * column(4) - dx * column(5)
    half = column(3) / 2
    radius = torch.sqrt(local_x * local_x + local_y * local_y)
    circle = half - radius
    square = half - torch.maximum(local_x.abs(), local_y.abs())
    tall = half * column(6)
    slope = torch.sqrt(half * half + 4 * tall * tall) + 1e-6
    side = (half * (local_y + tall) - 2 * tall * local_x.abs()) / slope
    triangle = torch.minimum(tall - local_y, side)
    star = star_distance(local_x, local_y, radius, half / 0.95106, column(6))
    kind = column(0)
    distance = torch.where(kind == 1, circle, torch.where(kind == 2, square, star))
    distance = torch.where(kind == 3, triangle, distance)
    return torch.where(kind == 0, torch.full_like(distance, -1e4), distance)


def star_distance(x, y, radius, outer, proportion):
    """Signed distance to a five-pointed star, one tip up, folded into one half of a tip."""
    along = -y
    for k in range(1, 5):
        turn = 2 * math.pi * k / 5
        along = torch.maximum(along, x * math.sin(turn) - y * math.cos(turn))
    across = torch.sqrt(torch.clamp(radius * radius - along * along, min=0))
    inner_along = outer * proportion * math.cos(math.pi / 5)
    inner_across = outer * proportion * math.sin(math.pi / 5)
    length = torch.sqrt((outer - inner_along) ** 2 + inner_across**2) + 1e-6
    return (inner_across * (outer - along) - (outer - inner_along) * across) / length


def glyph_distance(glyph, picture, fields, x, y):
    """Signed distance in pixels of pixels [n, 256] to one digit a row: [n, 6]."""
    column = lambda i: glyph[:, i : i + 1]  # noqa: E731
    dx, dy = x - column(1), y - column(2)
    cos, sin = picture[:, 15:16], picture[:, 16:17]
    u = (dx * cos + dy * sin) * column(3) + (CELL / 2 - 0.5)
    v = (dy * cos - dx * sin) * column(4) + (CELL / 2 - 0.5)
    inside = (u > 0) & (u < CELL - 1) & (v > 0) & (v < CELL - 1)
    u, v = u.clamp(0, CELL - 1.001), v.clamp(0, CELL - 1.001)
    left, top = u.floor(), v.floor()
    first = (column(0) * (CELL * CELL) + top * CELL + left).to(torch.int32)
    weight_x, weight_y = u - left, v - top
    value = lambda offset: fields[first + offset].float()  # noqa: E731
    upper = value(0) * (1 - weight_x) + value(1) * weight_x
    lower = value(CELL) * (1 - weight_x) + value(CELL + 1) * weight_x
    cells = (upper * (1 - weight_y) + lower * weight_y - 128) * (SPREAD / 127)
    distance = (cells + picture[:, 17:18]) / column(4)
    return torch.where(inside, distance, torch.full_like(distance, -1e4))


def draw_blocks(batch, fields):
    """Red, green and blue of all blocks, each [n_blocks, 256], whole numbers 0 to 255."""
    index = batch["block_picture"].long()
    picture = batch["pictures"][index]
    shapes, glyphs = batch["shapes"][index], batch["glyphs"][index]
    inner = torch.arange(256, device=index.device)
    x = batch["block_x"].float()[:, None] * 16 + (inner % 16).float()
    y = batch["block_y"].float()[:, None] * 16 + (inner // 16).float()
    x = torch.minimum(x, picture[:, 0:1] - 1) + 0.5
    y = torch.minimum(y, picture[:, 1:2] - 1) + 0.5
    ramp = picture[:, 9:10]
    colours = [picture[:, 6 + channel : 7 + channel] + 0 * x for channel in range(3)]
    for i in range(shapes.shape[1]):
        covered = (shape_distance(shapes[:, i], x, y) / ramp + 0.5).clamp(0, 1)
        colours = [
            colour + covered * (shapes[:, i, 7 + channel, None] - colour)
            for channel, colour in enumerate(colours)
        ]
    ink = torch.full_like(x, -1e4)
    for i in range(glyphs.shape[1]):
        ink = torch.maximum(ink, glyph_distance(glyphs[:, i], picture, fields, x, y))
    covered = (ink / ramp + 0.5).clamp(0, 1)
    return [
        (colour + covered * (picture[:, 12 + channel : 13 + channel] - colour)).round()
        for channel, colour in enumerate(colours)
    ]


def cosine_matrix(device):
    """[64, 64]: the two-dimensional cosine transform of an 8x8 block as one product."""
    k = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((2 * k[None, :] + 1) * k[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    return torch.kron(basis, basis).float().to(device)


def quantise(blocks, table, scale, transform):
    """Transform 8x8 blocks [n, 64], round to the table's steps, and transform back."""
    steps = ((table * scale + 50) / 100).floor().clamp(1, 255)
    return ((blocks @ transform.T / steps).round() * steps) @ transform


def jpeg_blocks(batch, red, green, blue, tables):
    """What a JPEG encoder and decoder would leave of the pictures that have a quality."""
    transform, luma_table, chroma_table = tables
    picture = batch["pictures"][batch["block_picture"].long()]
    quality = picture[:, 10:11].clamp(min=1)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue - 128
    blue_difference = (blue - luma - 128) * 0.564
    red_difference = (red - luma - 128) * 0.713
    n = luma.shape[0]
    quarters = luma.view(n, 2, 8, 2, 8).transpose(2, 3).reshape(n, 4, 64)
    kept = quantise(quarters.reshape(n * 4, 64), luma_table,
                    scale.repeat_interleave(4, dim=0), transform)
    luma = kept.view(n, 2, 2, 8, 8).transpose(2, 3).reshape(n, 256) + 128
    full = picture[:, 11:12] > 0.5

    def halved(chroma):
        small = chroma.view(n, 8, 2, 8, 2).mean(dim=(2, 4)).reshape(n, 64)
        small = quantise(small, chroma_table, scale, transform)
        wide = small.view(n, 8, 1, 8, 1).expand(n, 8, 2, 8, 2).reshape(n, 256)
        return torch.where(full, chroma, wide)

    blue_difference, red_difference = halved(blue_difference), halved(red_difference)
    passed = (
        luma + red_difference / 0.713,
        luma - 0.344 * blue_difference / 0.564 - 0.714 * red_difference / 0.713,
        luma + blue_difference / 0.564,
    )
    untouched = picture[:, 10:11] < 1
    return [
        torch.where(untouched, before, after.round().clamp(0, 255))
        for before, after in zip((red, green, blue), passed)
    ]


def pixels_packed(red, green, blue):
    """One int32 a pixel."""
    return (red.to(torch.int32) | (green.to(torch.int32) << 8) | (blue.to(torch.int32) << 16)).view(-1)


def cubic(distance):
    """Bicubic kernel, a = -0.5."""
    d = distance.abs()
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return torch.where(d < 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def axis_taps(place, size_in, size_out):
    """Source indices and weights (lists of TAPS tensors) of one output coordinate."""
    ratio = size_in / size_out
    stretch = ratio.clamp(min=1)
    centre = (place + 0.5) * ratio
    first = (centre - 2 * stretch + 0.5).floor()
    indices, weights = [], []
    for tap in range(TAPS):
        index = first + tap
        weight = cubic((index - centre + 0.5) / stretch)
        weights.append(torch.where((index >= 0) & (index < size_in), weight, torch.zeros_like(weight)))
        indices.append(torch.minimum(index.clamp(min=0), size_in - 1).to(torch.int32))
    total = sum(weights)
    return indices, [weight / total for weight in weights]


def sample_patches(batch, pixels):
    """Resize and cut: three channels of [n_patches, 196], whole numbers 0 to 255."""
    picture = batch["pictures"][batch["patch_picture"].long()]
    inner = torch.arange(196, device=pixels.device)
    x = batch["patch_x"].float()[:, None] * 14 + (inner % 14).float()
    y = batch["patch_y"].float()[:, None] * 14 + (inner // 14).float()
    columns, weights_x = axis_taps(x, picture[:, 0:1], picture[:, 2:3])
    rows, weights_y = axis_taps(y, picture[:, 1:2], picture[:, 3:4])
    first_block = picture[:, 4:5].to(torch.int32)
    blocks_a_row = picture[:, 5:6].to(torch.int32)
    in_column = [(column // 16) * 256 + column % 16 for column in columns]
    sums = [torch.zeros_like(x) for _ in range(3)]
    for row, weight_y in zip(rows, weights_y):
        in_row = (first_block + (row // 16) * blocks_a_row) * 256 + (row % 16) * 16
        for place, weight_x in zip(in_column, weights_x):
            pixel = pixels[in_row + place]
            weight = weight_y * weight_x
            for channel in range(3):
                sums[channel] = sums[channel] + weight * ((pixel >> (8 * channel)) & 255).float()
    return [total.round().clamp(0, 255) for total in sums]


def normalised(channels):
    """[n_patches, 588] bf16 as the image processor would hand over one frame of each patch."""
    scaled = [
        (channel / 255 - MEAN[i]) / STD[i] for i, channel in enumerate(channels)
    ]
    return torch.cat(scaled, dim=1).to(torch.bfloat16)


class Renderer:
    """Holds the atlas and the JPEG tables on the device."""

    def __init__(self, fields, device, compile_with=lambda function: function):
        self.fields = torch.from_numpy(fields).reshape(-1).to(device)
        self.tables = (
            cosine_matrix(device),
            torch.tensor(LUMA_TABLE, dtype=torch.float32, device=device),
            torch.tensor(CHROMA_TABLE, dtype=torch.float32, device=device),
        )
        self.draw = compile_with(draw_blocks)
        self.jpeg = compile_with(lambda *given: pixels_packed(*jpeg_blocks(*given)))
        self.sample = compile_with(lambda batch, pixels: normalised(sample_patches(batch, pixels)))

    @torch.no_grad()
    def __call__(self, batch):
        """Patches [n_patches, 588] of a batch."""
        red, green, blue = self.draw(batch, self.fields)
        pixels = self.jpeg(batch, red, green, blue, self.tables)
        return self.sample(batch, pixels)
