"""Work and hours of the runs on EchoNet's data sets, counted from their configs.

    python -m tests.benchmarks.echonet_hours [--tflops 10]

Nothing is measured. Multiply-accumulates of teacher and students are counted on torch's meta device, a training step
as three forward passes; every GPU is taken to sustain `--tflops`, an assumption, and nothing else to take time.
After a pilot of a few hundred steps `--dry-run sizing.pilot=FOLDER` gives the hours of your machines.
"""

from __future__ import annotations

import argparse
import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.models.students.cost import student_cost
from echodfkd.models.teachers.deeplabv3 import DeepLabV3

CONFIGS = ("echonet_paper", "echonet_ours")

GPUS = (1, 8, 64)
TFLOPS = 10.0


@torch.no_grad()
def teacher_gmacs(size: int) -> float:
    """Of one frame of size x size pixels."""
    with torch.device("meta"):
        network = DeepLabV3().eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops() / 2e9


def work(config: RunConfig) -> tuple[float, float]:
    """PMAC (10^15) of teacher and students over the whole plan.

    With a memory that holds all videos of an actor the teacher would see each frame once; that is the least. The plan
    asks for every frame of every clip; that is the most, and what is counted here.
    """
    frames = config.plan_slots * config.window.frames
    size = config.window.size
    student = sum(student_cost(one.network, size)["macs_per_frame"] for one in config.students.values()) / 1e9
    return frames * teacher_gmacs(config.seen_window.size) / 1e6, 3.0 * frames * student / 1e6


def hours_table(tflops: float = TFLOPS) -> str:
    """One row per config: work, and hours on so many GPUs."""
    heads = " | ".join(f"{count} GPU{'s' * (count > 1)}, h" for count in GPUS)
    lines = [
        f"| config | updates | teacher, PMAC | students, PMAC | {heads} |",
        "| --- |" + " ---: |" * (3 + len(GPUS)),
    ]
    for name in CONFIGS:
        config = load_config(
            f"configs/{name}.yaml", ["source.path=/data", "evaluation.source.path=/data", "teacher.weights=t.pt"]
        )
        teacher, students = work(config)
        hours = 2e15 * (teacher + students) / (tflops * 1e12) / 3600
        cells = [f"`{name}`", f"{config.train.steps:,}", f"{teacher:,.0f}", f"{students:,.0f}"]
        lines.append(f"| {' | '.join([*cells, *(f'{hours / count:,.1f}' for count in GPUS)])} |")
    return "\n".join(lines)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.echonet_hours", description=__doc__)
    parser.add_argument("--tflops", type=float, default=TFLOPS, help="sustained by one GPU")
    print(hours_table(parser.parse_args().tflops))
    return 0


if __name__ == "__main__":
    sys.exit(main())
