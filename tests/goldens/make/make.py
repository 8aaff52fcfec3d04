"""Entry: `python make.py [family[.part] …]` writes the goldens of the named families, or of all.

A family is a file beside this one with `PARTS`, an ordered dict of part name -> function.
"""

import importlib
import sys
import time

import common

FAMILIES = ["media", "qwen2_vl", "llava", "llava_next"]


def main(names):
    common.settle()
    for name in names or FAMILIES:
        family, _, part = name.partition(".")
        parts = importlib.import_module(family).PARTS
        for key in [part] if part else parts:
            start = time.monotonic()
            parts[key]()
            print(f"{family}.{key}: {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
