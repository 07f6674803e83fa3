"""Distil a student without data, in one process: on clips painted against it, on chosen noise, on drawn clips.

The config's student, teacher, source (a phantom: random conditions), window, train.steps, train.global_batch and seed
count. Kinds of clips: conditions, noise, adversarial, guided (docs/explanation/learned-generator.md).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from echodfkd.core.terminal import print_line
from echodfkd.runtime.command import ArgumentParser, run_guarded


def main() -> int:
    """Parse, train, write the student; the last line is JSON. Not 0 and one sentence on failure."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="YAML file of the run")
    parser.add_argument("--share", action="append", metavar="KIND=SHARE", help="of the clips; sum to 1")
    parser.add_argument("--out", default="student_without_data", help="folder of the student and the painter")
    parser.add_argument("--resume", type=Path, default=Path("distill_without_data"), help="folder that keeps the run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. train.steps=400")
    args = parser.parse_args()
    return run_guarded(lambda: distil(args))


def distil(args: argparse.Namespace) -> dict[str, Any]:
    """The student of the arguments."""
    from echodfkd.config.file import load_config
    from echodfkd.training.datafree.run import distil_without_data, read_shares

    shares = read_shares(args.share or ["noise=0.25", "adversarial=0.75"])
    config = load_config(args.config, args.overrides)
    return {"ok": True, **distil_without_data(config, shares, args.out, args.resume, report=print_line)}


if __name__ == "__main__":
    sys.exit(main())
