"""Run one benchmark: a table, and as the last line one JSON object. `--list` names the benchmarks."""

from __future__ import annotations

import argparse
import json
import sys

from echodfkd.runtime.cluster.environment import prepare_ray
from tests.benchmarks.cases import CASES, describe_cases, run_case


def main() -> int:
    """Parse the arguments and run one case. Returns the exit code: 1 if the case misses its target."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("case", nargs="?", choices=sorted(CASES), metavar="NAME", help="the benchmark")
    which.add_argument("--list", action="store_true", help="list the benchmarks")
    parser.add_argument("--quick", action="store_true", help="a shorter run, too short to decide anything")
    args = parser.parse_args()
    if args.list:
        print("\n".join(describe_cases()))
        return 0
    prepare_ray("local")  # before a case imports Ray
    result = run_case(args.case, lambda line: print(line, flush=True), quick=args.quick)
    print(json.dumps(result), flush=True)
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
