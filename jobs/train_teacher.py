"""Train the embedded teacher on labelled phantom clips, or with --config FILE one teacher per site of `limited`."""

from __future__ import annotations

import sys
from argparse import SUPPRESS
from typing import Any

from echodfkd.config.rules.jobs import needs_limited_folder
from echodfkd.config.run import RunConfig
from echodfkd.core.terminal import print_line, print_lines
from echodfkd.runtime.command import ArgumentParser, run_guarded, run_job


def main() -> int:
    """Parse, train, print the scores; the last line is JSON. Not 0 and one sentence on failure."""
    if any(argument.split("=")[0] == "--config" for argument in sys.argv[1:]):
        return run_job(limited, description=__doc__ or "", check=needs_limited_folder)
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", metavar="FILE", default=SUPPRESS, help="limited teachers by it; then key=value")
    parser.add_argument("--out", default="embedded_teacher.safetensors", help="weights; a .json is written beside")
    parser.add_argument("--classes", nargs="+", default=["LV"], help="LV, or LV myocardium LA RV RA")
    parser.add_argument("--steps", type=int, default=4000, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=7, help="of clips, first weights and jitter")
    parser.add_argument("--size", dest="sizes", type=int, nargs="+", default=[56, 56, 56, 64, 80, 112], help="sides")
    parser.add_argument("--minutes", type=float, default=0.0, help="shorten the schedule to this time; 0: no limit")
    parser.add_argument("--cases", dest="num_cases", type=int, default=32, help="held-out cases per size scored")
    parser.add_argument("--domains", nargs="+", default=["default"], help="of the clips, in turn: wild, default, ...")
    parser.add_argument("--channels", type=int, nargs="+", default=[24, 48, 96], help="of the network, fine to coarse")
    parser.add_argument("--batch-norm", action="store_true", help="in place of group normalisation")
    parser.add_argument("--initial", default="", help="weights to start from: a file, or shipped")
    parser.add_argument("--resume", dest="folder", default="", help="folder that keeps the run, to go on after a stop")
    parser.add_argument("--rate", dest="learning_rate", type=float, default=3e-3, help="largest learning rate")
    parser.add_argument("--average", type=float, default=0.0, help="decay of the weights' moving average; 0: none")
    parser.add_argument("--precision", default="fp32", help="fp32, or bf16 under autocast")
    return run_guarded(lambda: shipped(vars(parser.parse_args())))


def limited(config: RunConfig) -> dict[str, Any]:
    """One teacher per site, and the table of all of them and their ensemble."""
    from echodfkd.training.teacher.limited import teachers_table, train_limited_teachers

    found = train_limited_teachers(config, report=print_line)
    print_lines(teachers_table(found).split("\n"))
    return {"ok": True, "out": config.limited.out, "held_out": found["held_out"]}


def shipped(options: dict[str, Any]) -> dict[str, Any]:
    """The embedded teacher."""
    from echodfkd.training.teacher.embedded import TeacherPlan, train_embedded_teacher

    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    plan = TeacherPlan(max_seconds=60.0 * options.pop("minutes"), **options)
    return {"ok": True, "held_out": train_embedded_teacher(plan, report=print_line)["held_out"]}


if __name__ == "__main__":
    sys.exit(main())
