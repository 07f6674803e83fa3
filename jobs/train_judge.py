"""Train the embedded judge on phantom patients and measure how its score follows Dice on held-out cases."""

from __future__ import annotations

import argparse
import datetime
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from echodfkd.config.sections.source import DOMAIN_NAMES
from echodfkd.core.redaction import dump_json
from echodfkd.core.terminal import print_line
from echodfkd.evaluation.judge_agreement import degradation_agreement
from echodfkd.models.judges.embedded import embedded_judge
from echodfkd.runtime.command import ArgumentParser, run_guarded
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.training.judge.contrastive import train_towers
from echodfkd.training.judge.patients import FramePool, JudgedPatients

HELD_OUT_SEED = 7_000_002


def main() -> int:
    """Parse, train, write the weights and their card; the last line is JSON."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("embedded_judge.safetensors"), help="a .json lies beside it")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=96, help="half whole frames, half with blackouts")
    parser.add_argument("--patients", type=int, default=5000, help="of each domain, 4 frames of each")
    parser.add_argument(
        "--domains",
        nargs="+",
        default=["default"],
        choices=DOMAIN_NAMES,
        help="of the phantom; as often as it is named",
    )
    parser.add_argument("--embedding", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=6_000_001)
    parser.add_argument("--cases", type=int, default=24, help="held-out cases")
    args = parser.parse_args()
    return run_guarded(lambda: train(args))


def train(args: argparse.Namespace) -> dict[str, Any]:
    """The judge of the arguments."""
    torch.set_num_threads(1)  # the weights then do not depend on the number of cores

    pools = []
    for domain in sorted(set(args.domains)):
        drawn = []
        for size, share in ((56, 0.8), (112, 0.2)):
            source = JudgedPatients(seed=args.seed + size, num_frames=4, fps=7.0, size=size, domain=domain)
            drawn.append(FramePool.draw_from(source, int(args.patients * share), print_line))
        pools += args.domains.count(domain) * [drawn[0], drawn[0], drawn[0], drawn[1]]
    recipe = {name: getattr(args, name) for name in ("embedding", "steps", "batch", "learning_rate", "seed")}
    towers = train_towers(pools, say=print_line, **recipe)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(save(towers.state_dict()))
    result = {}
    for domain, size in itertools.product(sorted(set(args.domains)), (56, 112)):
        held_out = default_phantom(
            seed=HELD_OUT_SEED, num_frames=16, fps=32.0, size=size, case_frames=16, domain=domain
        )
        cases = [held_out.case(index) for index in range(args.cases)]
        result[f"{domain}_{size}"] = degradation_agreement(embedded_judge(towers), cases, seed=1)
    recipe |= {
        "patients": args.patients,
        "domains": args.domains,
        "held_out_seed": HELD_OUT_SEED,
        "agreement_with_dice": result,
    }
    recipe |= {"torch": torch.__version__, "numpy": np.__version__, "date": str(datetime.date.today())}
    args.out.with_suffix(".json").write_bytes(dump_json(recipe))
    return {"ok": True, "agreement": result}


if __name__ == "__main__":
    sys.exit(main())
