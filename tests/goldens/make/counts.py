"""How many rows the reference plans for pictures of 10,000 sizes, as digests of a hundred each."""

import common

N_SIZES = 10_000
N_DIGESTED = 100
SIDES = [40, 400, 8192]  # longest sides, in turn: the shorter, the more often sizes are odd
SEED = 20

MASK = 0xFFFF_FFFF_FFFF_FFFF


def case(folder, rows, options=None):
    """`rows(height, width)`, where it raises ValueError 0, for every size, in digests.

    `folder` has the processor's configuration; `options` is what a request adds to it.
    """
    found = [_rows(rows, height, width) for width, height in sizes()]
    groups = [found[at : at + N_DIGESTED] for at in range(0, N_SIZES, N_DIGESTED)]
    digests = [f"{_digest(group):016x}" for group in groups]
    return {"folder": folder, "options": options or {}, "digests": digests}


def write(family, cases):
    content = {
        "n_sizes": N_SIZES,
        "n_digested": N_DIGESTED,
        "sides": SIDES,
        "seed": SEED,
        "cases": cases,
    }
    common.write_json(common.folder(family, "preprocessing") / "counts.json", content)


def sizes():
    """Width and height: upper bits of a linear congruential generator."""
    state = SEED
    for index in range(N_SIZES):
        pair = []
        for _ in range(2):
            state = (state * 6364136223846793005 + 1442695040888963407) & MASK
            pair.append((state >> 33) % SIDES[index % len(SIDES)] + 1)
        yield pair


def _rows(rows, height, width):
    try:
        return rows(height, width)
    except ValueError:
        return 0


def _digest(group):
    """FNV-1a over 32-bit words."""
    digest = 0xCBF2_9CE4_8422_2325
    for count in group:
        digest = ((digest ^ count) * 0x100_0000_01B3) & MASK
    return digest
