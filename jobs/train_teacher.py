"""Train the embedded teacher on labelled phantom clips: weights, and beside them the recipe and held-out scores."""

from __future__ import annotations

import argparse
import sys

from echodfkd.errors import EchoDFKDError
from echodfkd.training.embedded import train_embedded_teacher


def main() -> int:
    """Parse, train, print the scores; 1 and one sentence where it cannot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="embedded_teacher.safetensors", help="weights; a .json is written beside")
    parser.add_argument("--classes", nargs="+", default=["LV"], help="LV, or LV myocardium LA RV RA")
    parser.add_argument("--steps", type=int, default=4000, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=7, help="of clips, first weights and jitter")
    parser.add_argument("--size", type=int, nargs="+", default=[56, 56, 56, 64, 80, 112], help="sides of frames drawn")
    parser.add_argument("--minutes", type=float, default=0.0, help="shorten the schedule to so long; 0 does not")
    parser.add_argument("--cases", type=int, default=32, help="held-out cases per size scored")
    args = parser.parse_args()
    try:
        card = train_embedded_teacher(
            out=args.out,
            steps=args.steps,
            seed=args.seed,
            sizes=tuple(args.size),
            max_seconds=60.0 * args.minutes,
            num_cases=args.cases,
            report=lambda line: print(line, flush=True),
            classes=tuple(args.classes),
        )
    except EchoDFKDError as error:
        print(f"train_teacher: {error}", file=sys.stderr)
        return 1
    for size, scores in card["held_out"].items():
        print(f"{size} px: " + "  ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
