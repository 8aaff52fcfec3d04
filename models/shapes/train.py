"""Trains the demo model. Resumable: a checkpoint holds weights, Adam's state and the step.

    python fonts.py atlas.npz
    python evaluation_pictures.py evaluation.jsonl 400 3
    python train.py --atlas atlas.npz --evaluation evaluation.jsonl --checkpoint run.pt

Batches come from (seed, step) alone and the learning rate from the step, so a run that stopped
goes on as if it had not.
"""

import argparse
import base64
import io
import json
import os
import time
from collections import defaultdict
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

import draw
from data import Batches
from model import Model, loss_and_hits
from packing import MERGE, Packer, Words, budget_for, grid_of

WARMUP_STEPS = 400
AVERAGE = 0.9995  # of the weights, per step


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--atlas", required=True)
    parser.add_argument("--evaluation")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--steps", type=int, default=21_000, help="the last step")
    parser.add_argument("--decay-from", type=int, default=14_000)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--patches", type=int, default=131_072, help="a batch's size")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--evaluate-every", type=int, default=1500)
    parser.add_argument("--weights", type=json.loads, help='e.g. {"number": 0.5}')
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def learning_rate(step, args):
    """Warm up, stay, then fall in a straight line to nearly nothing."""
    rate = args.rate * min(1.0, (step + 1) / WARMUP_STEPS)
    if step >= args.decay_from:
        left = (args.steps - step) / (args.steps - args.decay_from)
        rate *= max(0.01, left)
    return rate


def picture_patches(url):
    """(width, height, patches [n, 588] uint8 in merge order) of a data URL, by Pillow."""
    image = Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))).convert("RGB")
    rows, columns = grid_of(*image.size)
    pixels = np.asarray(image.resize((columns * 28, rows * 28), Image.BICUBIC))
    cut = pixels.reshape(rows, MERGE, 14, columns, MERGE, 14, 3)
    return *image.size, cut.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, 588)


class Evaluation:
    """Packed evaluation questions, kept on the device; an answer counts if each token is right.

    With the right answer fed in, the greedy answer equals it exactly if every token is the
    likeliest one, so one pass over the answer is enough.
    """

    def __init__(self, path, patches, device):
        self.device, words = device, Words()
        self.cases = [json.loads(line) for line in open(path)]
        with Pool(min(12, os.cpu_count())) as pool:
            decoded = pool.map(decode_case, self.cases, chunksize=16)
        self.batches, first = [], 0
        while first < len(decoded):
            first = self._pack(decoded, first, Packer(budget_for(patches), words), patches)

    def _pack(self, decoded, first, packer, n_patches):
        pixels, at = np.zeros((n_patches, 588), np.uint8), first
        while at < len(decoded):
            pictures = decoded[at]
            if not packer.fits([picture[:2] for picture in pictures], 1):
                break
            indices = []
            for width, height, patches in pictures:
                pixels[packer.n_patches : packer.n_patches + len(patches)] = patches
                indices.append(packer.add_picture(width, height))
            case = self.cases[at]
            packer.add_chat([([*indices, case["question"]], case["answer"])])
            at += 1
        arrays = to_device(as_tensors(packer.arrays()), self.device)
        self.batches.append((arrays, torch.from_numpy(pixels).to(self.device), first))
        return at

    @torch.no_grad()
    def table(self, step_function, model):
        """{kind: share of right answers}."""
        right = np.ones(len(self.cases), bool)
        for arrays, pixels, first in self.batches:
            channels = pixels.float().view(-1, 3, 196).unbind(1)
            hits = step_function(model, arrays, draw.normalised(channels))[1].cpu().numpy()
            chats = arrays["label_chat"].cpu().numpy()
            right[first + chats[(chats >= 0) & ~hits]] = False
        shares = defaultdict(list)
        for case, is_right in zip(self.cases, right):
            shares[case["kind"]].append(is_right)
        return {kind: float(np.mean(values)) for kind, values in shares.items()}


def decode_case(case):
    """Pictures of one evaluation question."""
    return [picture_patches(url) for url in case["pictures"]]


def as_tensors(arrays):
    """Without copying."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def to_device(batch, device):
    """Without waiting."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


class Run:
    """Weights, their running average, the optimiser and the step."""

    def __init__(self, args):
        torch.manual_seed(args.seed)
        self.args, self.step = args, 0
        self.model = Model().to(args.device)
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
            lr=torch.tensor(args.rate), betas=(0.9, 0.98), fused=args.device == "cuda",
        )
        self.average = Model().to(args.device).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        if Path(args.checkpoint).exists():
            self.load(args.checkpoint)

    def load(self, path):
        """Go on from a checkpoint; Adam's first moment starts anew, the second is kept."""
        saved = torch.load(path, map_location=self.args.device)
        self.step = saved["step"]
        self.model.load_state_dict(saved["model"])
        self.average.load_state_dict(saved.get("average", saved["model"]))
        for parameter, second in zip(self.model.parameters(), saved["second"]):
            self.optimiser.state[parameter] = {
                "step": torch.tensor(float(self.step), device=self.args.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": second.to(self.args.device).float(),
            }

    def save(self, path):
        """Weights in float32, Adam's second moment in bfloat16, the average beside them."""
        second = [self.optimiser.state[p]["exp_avg_sq"].bfloat16() for p in self.model.parameters()]
        torch.save({"step": self.step, "model": self.model.state_dict(), "second": second}, path)
        average = {k: v.bfloat16() for k, v in self.average.state_dict().items()}
        torch.save({"step": self.step, "model": average}, str(path) + ".average")

    def update(self, step_function, batch, patches):
        """One step; the loss stays on the device."""
        loss, _ = step_function(self.model, batch, patches)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        for group in self.optimiser.param_groups:
            group["lr"].fill_(learning_rate(self.step, self.args))
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            weight = 1 - min(AVERAGE, (self.step + 1) / (self.step + 10))
            torch._foreach_lerp_(list(self.average.parameters()),
                                 list(self.model.parameters()), weight)
        self.step += 1
        return loss.detach()


def report(run, losses, n_pictures, seconds):
    """One line of progress."""
    loss = torch.stack(losses).mean().item()
    print(f"step {run.step} loss {loss:.4f} pictures/s {n_pictures / seconds:.0f} "
          f"steps/s {len(losses) / seconds:.2f}", flush=True)


def main():
    """Train until the last step or until time is up."""
    args, started = arguments(), time.time()
    torch.set_float32_matmul_precision("highest")
    run = Run(args)
    on_gpu = args.device == "cuda"
    compiled = (lambda f: torch.compile(f, dynamic=False)) if on_gpu else (lambda f: f)
    renderer = draw.Renderer(np.load(args.atlas)["fields"], args.device, compiled)
    step_function = compiled(loss_and_hits)
    evaluation = Evaluation(args.evaluation, args.patches, args.device) if args.evaluation else None
    batches = Batches(args.patches, args.seed, args.atlas, args.steps, args.weights)
    loader = DataLoader(batches, batch_size=None, sampler=range(run.step, args.steps),
                        num_workers=args.workers, pin_memory=on_gpu,
                        prefetch_factor=6 if args.workers else None)
    print(f"start at step {run.step} after {time.time() - started:.0f} s", flush=True)
    losses, n_pictures, clock = [], 0, time.time()
    for batch in loader:
        n_pictures += int((batch["pictures"][:, 5] > 0).sum())
        batch = to_device(batch, args.device)
        losses.append(run.update(step_function, batch, renderer(batch)))
        out_of_time = time.time() - started > 60 * args.minutes
        if len(losses) == 100 or out_of_time:
            report(run, losses, n_pictures, time.time() - clock)
            losses, n_pictures, clock = [], 0, time.time()
        if run.step % args.evaluate_every == 0 or out_of_time or run.step == args.steps:
            run.save(args.checkpoint + ".new")
            os.replace(args.checkpoint + ".new.average", args.checkpoint + ".average")
            os.replace(args.checkpoint + ".new", args.checkpoint)
            if evaluation:
                table = evaluation.table(step_function, run.average)
                print(f"step {run.step} minute {(time.time() - started) / 60:.1f} "
                      + " ".join(f"{k} {100 * v:.1f}" for k, v in table.items()), flush=True)
            clock = time.time()
        if out_of_time:
            break


if __name__ == "__main__":
    main()
