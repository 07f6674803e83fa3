"""Write a run's page again, follow a run, or compare several: echodfkd report RUN [RUN ...]"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from echodfkd.core.errors import InputError
from echodfkd.core.terminal import print_line
from echodfkd.runtime.command import ArgumentParser, fail, run_guarded


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Write the pages and curves that the arguments name; returns the path of the page."""
    from echodfkd.config.file import load_config
    from echodfkd.reporting.live.follow import follow_report
    from echodfkd.reporting.live.loggers import build_loggers, write_curves
    from echodfkd.reporting.live.redraw import redraw_overlays
    from echodfkd.reporting.page.report import write_report
    from echodfkd.reporting.study.across import compare_runs
    from echodfkd.storage.files import RunStorage

    if len(args.runs) > 1:
        return {"ok": True, "report": compare_runs(args.runs, args.out or "comparison")}
    storage = RunStorage(args.runs[0])
    if args.overlays:
        redraw_overlays(storage, args.overlays, print_line, load_config(args.config) if args.config else None)
    loggers = build_loggers(storage, tensorboard=args.tensorboard, mlflow=args.mlflow, wandb=args.wandb)
    if args.follow:
        return {"ok": True, "report": follow_report(storage, every_s=args.every, say=print_line, loggers=loggers)}
    write_curves(storage, loggers)
    return {"ok": True, "report": write_report(storage)}


def main() -> int:
    """Parse and work; 2 if the arguments do not go together."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, local or s3://bucket/name")
    parser.add_argument("--out", default="", help="several runs: folder of their page (default: comparison)")
    parser.add_argument("--follow", action="store_true", help="write the page again as scores come in")
    parser.add_argument("--every", type=float, default=20.0, metavar="S", help="seconds between looks (%(default)s)")
    parser.add_argument("--overlays", type=int, default=0, metavar="N", help="draw N cases of every student again")
    parser.add_argument("--config", metavar="FILE", help="your own config of the run, for --overlays")
    parser.add_argument("--tensorboard", default="", metavar="DIR", help="write the curves for TensorBoard, too")
    parser.add_argument("--mlflow", default="", metavar="URI", help="log the curves to an MLflow server, too")
    parser.add_argument("--wandb", default="", metavar="PROJECT", help="log the curves to Weights & Biases, too")
    args = parser.parse_args()
    if len(args.runs) > 1 and (args.follow or args.overlays or args.tensorboard or args.mlflow or args.wandb):
        return fail(InputError("--follow, --overlays, --tensorboard, --mlflow and --wandb take one run"))
    if args.out and len(args.runs) == 1:
        return fail(InputError("--out: is for several runs; the page of one run is its report.html"))
    if not bool(args.config) <= args.overlays <= 50:
        return fail(InputError(f"--overlays: {args.overlays}, allowed are 0 to 50 (with --config 1 to 50)"))
    return run_guarded(lambda: work(args))


if __name__ == "__main__":
    sys.exit(main())
