"""Are a server's greedy answers those of transformers? Not part of the tests: it needs torch.

    python parity.py --url http://127.0.0.1:8000 --model-path models/shapes --n 200 --seed 1
    python parity.py --url … --model-path … --pictures FOLDER      (every file, one question each)

Answers of transformers are float32, with the slow image processor, on the same encoded bytes.
Exit code 1 if an answer differs.
"""

import argparse
import random
from pathlib import Path

import hf
import server
import shapes

N_TOKENS_MAX = 64


def main():
    options = parse()
    reference, served = hf.Reference(options.model_path), server.Server(options.url)
    equal = right = known = count = 0
    for name, pictures, text, answer in cases(options):
        wanted = reference.answer(pictures, text, N_TOKENS_MAX)
        got = served.answer(pictures, text, N_TOKENS_MAX)
        count += 1
        equal += wanted == got
        known += answer is not None
        right += answer is not None and answer == got
        if wanted != got:
            print(f"{name}: {text}\n  transformers: {wanted!r}\n  server:       {got!r}")
    print(f"equal: {equal} of {count}")
    if known:
        print(f"right, of those with one right answer: {right} of {known}")
    raise SystemExit(equal != count)


def cases(options):
    """(name, encoded pictures, text, right answer or None)."""
    if options.pictures:
        for path in sorted(Path(options.pictures).iterdir()):
            yield path.name, [path.read_bytes()], options.question, None
        return
    for index in range(options.n):
        yield (f"case {index}", *shapes.question(random.Random(f"{options.seed}/{index}")))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--model-path", required=True)
    parser.add_argument("--n", type=int, default=200, help="random cases")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", help="a folder of pictures instead of random ones")
    parser.add_argument("--question", default="What is in the picture?")
    return parser.parse_args()


if __name__ == "__main__":
    main()
