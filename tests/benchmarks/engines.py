"""What DeepSpeed's engine costs beside the plain one: the same students, batch and updates, in turn."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import TrainConfig, WindowConfig
from echodfkd.training.collectives import ensure_group
from echodfkd.training.objective import Totals, own_totals
from echodfkd.training.step import accumulate_gradients, update
from echodfkd.training.student import Student, make_student
from tests.benchmarks.accounting import DEMO, random_batch
from tests.benchmarks.timing import Ratio, Report, interleave, timed

ENGINES: dict[str, dict[str, Any]] = {"plain": {"engine": "plain"}, "deepspeed, ZeRO 0": {"engine": "deepspeed"}}
ENGINES |= {f"deepspeed, ZeRO {stage}": {"engine": "deepspeed", "zero_stage": stage} for stage in (1, 3)}
TARGET = 1.0
"""The default engine over the plain one, in wall time of an update: what it costs to leave it the default."""


class Update:
    """One engine's students on one batch; each call is one update."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.batches = [random_batch(config, 0)]
        self.totals = Totals(*own_totals(self.batches))
        self.students: list[Student] = [make_student(config, name, device, None) for name in config.students]
        self.device, self.step = device, 0

    def __call__(self) -> None:
        """One update."""
        accumulate_gradients(
            self.students, self.batches, totals=self.totals, step=self.step, device=self.device
        ).tolist()
        self.step += 1
        update(self.students, 1e-3, self.step)


def engines(report: Report, *, quick: bool) -> dict[str, Any]:
    """Time of an update of the demo's students under DeepSpeed (ZeRO 0, 1, 3) over the plain engine's."""
    updates = prepare(DEMO, WindowConfig(frames=4 if quick else 16))
    found = interleave({name: timed(one) for name, one in updates.items()}, 3 if quick else 30)
    plain = found["plain"]
    report(f"{'engine':<20} {'ms an update':>13} {'CPU ms':>8}   over plain: wall, CPU")
    rows: dict[str, dict[str, Any]] = {}
    for name, times in found.items():
        wall, cpu = (Ratio.of([t[i] for t in times], [t[i] for t in plain]) for i in (0, 1))
        shortest = [1e3 * min(t[i] for t in times) for i in (0, 1)]
        report(f"{name:<20} {shortest[0]:>13.1f} {shortest[1]:>8.1f}   {wall}, {cpu}")
        rows[name] = {"ms": shortest[0], "cpu_ms": shortest[1], "wall": asdict(wall), "cpu": asdict(cpu)}
    default = f"{TrainConfig().engine}, ZeRO {TrainConfig().zero_stage}" if TrainConfig().engine != "plain" else "plain"
    value = rows[default]["wall"]["median"]
    return {
        "value": round(value, 4),
        "unit": f"wall time of an update, {default} (the default) over plain, median of paired updates",
        "target": TARGET,
        "holds": value <= TARGET,
        "engines": rows,
    }


def prepare(students: dict[str, StudentConfig], window: WindowConfig) -> dict[str, Update]:
    """The same students and batch under every engine, in this process alone."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ensure_group(device)
    ready = {}
    for name, options in ENGINES.items():
        train = TrainConfig(steps=1000, global_batch=4, **options)
        ready[name] = Update(RunConfig(students=dict(students), window=window, train=train), device)
    return ready
