"""Inject faults into a small run and check its result: python -m tests.chaos --config configs/chaos.yaml."""

from __future__ import annotations

import argparse
import signal
import sys

from echodfkd.config.file import load_config
from echodfkd.core.errors import EchoDFKDError
from echodfkd.runtime.cluster.environment import prepare_ray
from echodfkd.runtime.command import fail, run_guarded


def main() -> int:
    """Parse the arguments, play the rounds and print one JSON object. Returns 1 if a round has a problem."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="YAML file of the run, e.g. configs/chaos.yaml")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first round; each next round takes the next number"
    )
    parser.add_argument("--seeds", type=int, default=1, help="minimum number of rounds")
    parser.add_argument("--minutes", type=float, default=0.0, help="start new rounds for so many minutes")
    parser.add_argument("--faults", type=int, default=4, help="faults per round")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. train.steps=100")
    args = parser.parse_args()
    try:
        config = load_config(args.config, args.overrides)
    except EchoDFKDError as error:
        return fail(error)
    prepare_ray("local")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the cluster must not outlive this process

    def work() -> dict[str, object]:
        from tests.chaos.chaos import run_chaos

        result = run_chaos(
            config,
            seed=args.seed,
            seeds=args.seeds,
            minutes=args.minutes,
            faults=args.faults,
            print_line=lambda line: print(line, flush=True),
        )
        for problem in result["problems"]:
            print(f"error: {problem}", file=sys.stderr, flush=True)
        return result

    return run_guarded(work)


if __name__ == "__main__":
    sys.exit(main())
