"""Measure how well the embedded judge reads each condition of held-out phantom patients, and print a table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from echodfkd.core.terminal import print_line, print_lines
from echodfkd.runtime.command import ArgumentParser, run_guarded

HELD_OUT_SEED = 7_000_002


def main() -> int:
    """Parse, measure, print; the last line is JSON. Not 0 and one sentence on failure."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="a file of jobs/train_judge.py; without it: the shipped one")
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--cases", type=int, default=24, help="cases whose degraded masks are scored")
    parser.add_argument("--size", type=int, nargs="+", default=[56, 112], help="sides of frames, a column each")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="of the patients")
    parser.add_argument("--write", type=Path, help="document that holds the table between two marks")
    args = parser.parse_args()
    return run_guarded(lambda: report(args))


def report(args: argparse.Namespace) -> dict[str, Any]:
    """Measure at each size and write the table."""
    from echodfkd.core.errors import ConfigError
    from echodfkd.evaluation.judge_report import insert_table, markdown_table, report_on
    from echodfkd.models.judges.embedded import WEIGHTS, read_towers

    for option, value, least in (("patients", args.patients, 2), ("cases", args.cases, 2), ("seed", args.seed, 0)):
        if value < least:
            raise ConfigError(f"--{option}: got {value}, must be at least {least}")
    towers = read_towers(args.weights or WEIGHTS)
    options = {"seed": args.seed, "num_patients": args.patients, "num_cases": args.cases}
    found = {f"{size} px": report_on(towers, size=size, say=print_line, **options) for size in args.size}
    table = markdown_table(found)
    print_lines(["", *table.split("\n"), ""])
    if args.write:
        try:
            args.write.write_text(insert_table(args.write.read_text(), table))
        except (OSError, ValueError) as error:
            raise ConfigError(f"--write: {args.write} cannot take the table: {error}") from error
    lines = {
        size: [{"condition": of.condition, "measure": of.measure, **of.found.to_json()} for of in column]
        for size, column in found.items()
    }
    return {"ok": True, "patients": args.patients, "found": lines}


if __name__ == "__main__":
    sys.exit(main())
