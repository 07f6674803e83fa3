"""Train the embedded judge on phantom patients and measure how its score follows Dice on held-out cases."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

import torch
from safetensors.torch import save

from echodfkd.config.sections.source import DOMAIN_NAMES
from echodfkd.core.redaction import dump_json
from echodfkd.core.terminal import print_line
from echodfkd.evaluation.judge_agreement import held_out_agreement
from echodfkd.models.judges.embedded import WEIGHTS, JudgeTowers, embedded_judge, read_towers
from echodfkd.runtime.command import ArgumentParser, run_guarded
from echodfkd.training.judge.contrastive import train_towers
from echodfkd.training.judge.patients import draw_pools

HELD_OUT_SEED = 7_000_002


def main() -> int:
    """Parse, train, write the weights and their card; the last line is JSON."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("embedded_judge.safetensors"), help="a .json lies beside it")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=96, help="half whole frames, half with blackouts")
    parser.add_argument("--patients", type=int, default=5000, help="of each domain, 4 frames of each")
    parser.add_argument("--domains", nargs="+", default=["default"], choices=DOMAIN_NAMES, help="in turn, as named")
    parser.add_argument("--initial", default="", help="weights to start from: a file, or shipped; empty: random ones")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=6_000_001)
    parser.add_argument("--cases", type=int, default=24, help="held-out cases")
    return run_guarded(lambda: train(parser.parse_args()))


def train(args: argparse.Namespace) -> dict[str, object]:
    """The judge of the arguments."""
    torch.set_num_threads(1)  # the weights then do not depend on the number of cores
    torch.manual_seed(args.seed)
    file = WEIGHTS if args.initial == "shipped" else Path(args.initial)
    towers = read_towers(file, option="--initial") if args.initial else JudgeTowers()
    pools = draw_pools(args.domains, args.patients, seed=args.seed, say=print_line)
    recipe = {name: getattr(args, name) for name in ("steps", "batch", "learning_rate", "seed")}
    train_towers(towers, pools, say=print_line, **recipe)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(save(towers.state_dict()))
    result = held_out_agreement(embedded_judge(towers), args.cases, args.domains, seed=HELD_OUT_SEED)
    card = {name: value for name, value in vars(args).items() if name != "out"}
    card |= {"held_out_seed": HELD_OUT_SEED, "agreement_with_dice": result}
    card |= {"torch": torch.__version__, "date": str(datetime.date.today())}
    args.out.with_suffix(".json").write_bytes(dump_json(card))
    return {"ok": True, "agreement": result}


if __name__ == "__main__":
    sys.exit(main())
