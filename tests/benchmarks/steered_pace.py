"""Cost of steering: CPU time in a step and a clip of the demo, and pace of whole runs on Ray, in pairs.

    python -m tests.benchmarks.steered_pace --folder FOLDER [--pairs 4] [--follow disagreement]

--pairs 0 runs nothing on Ray. Of the runs with and without steering the order alternates. Small students are the
slowest stage, so that work of the step is not hidden behind a teacher. CPU time of all processes from the first update
to the last one tells more than time on a machine that others use. FOLDER/rows.csv keeps the rows: those that it has
are not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echodfkd.config.file import load_config
from echodfkd.config.sections.steering import SteeringConfig
from echodfkd.core import clock
from echodfkd.reporting.rows import RunRows
from echodfkd.reporting.study.compared import student_interval
from echodfkd.runtime.stream.builders import training_source
from echodfkd.sources.steering.laws import make_law
from echodfkd.sources.steering.plan import SteeringPlan
from echodfkd.storage.files import RunStorage
from echodfkd.training.objective import own_totals
from echodfkd.training.steering import start_steering
from echodfkd.training.step import accumulate_gradients
from echodfkd.training.student import make_student
from tests.benchmarks.job_run import distil
from tests.benchmarks.processes import cpu_seconds
from tests.benchmarks.row_file import RowFile
from tests.helpers.repeated import repeated
from tests.helpers.teachers import taught_batch

UPDATES, LAWS, SETTLED = 20, 12, 3
"""Updates of a law, laws of a run, and updates after a change of law that are not counted as usual ones."""
RUN = [
    "students={a: {blocks: 2, layers: 1, filters: 8}}", "window={frames: 8, size: 40, fps: 16}", "train.engine=plain",
    f"train.steps={UPDATES * LAWS}", f"train.checkpoint_every={UPDATES}", "train.global_batch=8",
    "teacher.num_cpus=0.5", "evaluation.enabled=false", "ray.address=local",
]  # fmt: skip
DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"
STEPS, PLACES = 10, 400
STEERED = ["source.steering.strata={ef_percent: [40], heart_rate_bpm: [75], image_quality: [0.3333]}"]


def step_seconds(follow: str) -> tuple[float, float]:
    """CPU seconds of a step of the demo's students: without steering (median), and of steering (mean)."""
    config = load_config(str(DEMO), [*STEERED, f"source.steering.follow={follow}", "train.engine=plain"])
    device, source = torch.device("cpu"), training_source(config)
    steering = start_steering(config, RunStorage(config.root), None)
    assert steering is not None
    students = [make_student(config, name, device, None) for name in config.students]
    steps, added = [], []
    for step in range(STEPS):
        slots = range(step * config.micro_batch, (step + 1) * config.micro_batch)
        batch = taught_batch([source.clip(slot) for slot in slots], slots)
        seen: list[tuple[Any, ...]] = []
        begin = time.process_time()
        look = partial(_keep, seen)
        accumulate_gradients(students, [batch], totals=own_totals([batch]), step=step, device=device, look=look)
        end = time.process_time()
        for output in seen:
            steering.look(*output)
        steering.fault(batch)
        steering.add([batch])
        steps.append(end - begin)
        added.append(time.process_time() - end)
    return float(np.median(steps)), float(np.mean(added))


def clip_seconds() -> tuple[float, float]:
    """CPU seconds of the mean clip of the demo's source, and of finding its patient if all strata have equal shares."""
    config = load_config(str(DEMO), STEERED)
    plan, source = SteeringPlan(config.source, config.seed), training_source(config)
    law = make_law(config.source, plan.shares, 0, (1.0,) * len(plan.shares))
    begin = time.process_time()
    for index in range(PLACES):
        plan.place(index, law)
    middle = time.process_time()
    for index in range(STEPS):
        source.clip(index)
    return (time.process_time() - middle) / STEPS, (middle - begin) / PLACES


def _keep(seen: list[tuple[Any, ...]], *output: Any) -> None:
    seen.append(output)


@contextlib.contextmanager
def watched() -> Iterator[list[tuple[float, float]]]:
    """Times, and CPU seconds so far of all processes below this one, twice a second until the block ends."""
    samples: list[tuple[float, float]] = []

    def look() -> None:
        spent = cpu_seconds()
        samples.append((clock.now(), spent.total() - spent["driver"]))

    with repeated(look, every_s=0.5):
        yield samples


def measure(pair: int, follow: str) -> dict[str, object]:
    """One run: median seconds of an update, mean seconds of the first one of a law, and from the first update to the
    last one seconds, and CPU seconds of all processes.

    ``follow`` is empty for a run that is not steered.
    """
    steering = [*STEERED, f"source.steering.follow={follow}"] if follow else []
    with tempfile.TemporaryDirectory(prefix="echo-", ignore_cleanup_errors=True) as folder, watched() as samples:
        rows = distil([*RUN, *steering], storage=folder, name="pace")
    usual, changes, whole, cpu = paces(rows, samples)
    return {"pair": pair, "follow": follow, "update_s": usual, "change_s": changes, "run_s": whole, "cpu_s": cpu}


def paces(rows: RunRows, samples: Sequence[tuple[float, float]]) -> tuple[float, float, float, float]:
    """See `measure`; samples are those of `watched`."""
    at = {row["step"]: row["time"] for row in rows.training.to_pylist()}
    took = {step: at[step] - at[step - 1] for step in at if step - 1 in at}
    changes = [took[step] for step in took if (step - 1) % UPDATES == 0]
    usual = [seconds for step, seconds in took.items() if (step - 1) % UPDATES >= SETTLED]
    times, spent = np.transpose(samples)
    begin, end = np.interp([at[min(at)], at[max(at)]], times, spent)
    found = float(np.median(usual)), float(np.mean(changes)), at[max(at)] - at[min(at)], float(end - begin)
    return round(found[0], 5), round(found[1], 3), round(found[2], 2), round(found[3], 2)


def ratio(rows: Sequence[dict[str, object]], follow: str, column: str) -> str:
    """Geometric mean of steered over not steered over the pairs, with its 95 % interval (t)."""
    steered, plain = (
        {str(row["pair"]): math.log(float(str(row[column]))) for row in rows if row["follow"] == name}
        for name in (follow, "")
    )
    pairs = [value - plain[pair] for pair, value in steered.items() if pair in plain]
    found = student_interval(pairs)
    return f"{math.exp(found.mean):.3f} ({math.exp(found.low):.3f} … {math.exp(found.high):.3f}), n = {len(pairs)}"


def main() -> int:
    """Parse, measure the rows that are missing, print the ratios."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.steered_pace", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--follow", choices=("disagreement", "temporal", "judge"), default=SteeringConfig().follow)
    args = parser.parse_args()
    torch.set_num_threads(1)
    usual, added = step_seconds(args.follow)
    print(f"a step: {usual:.3f} s of CPU time, and {added:.4f} s ({added / usual:.2%}) for {args.follow}")
    usual, added = clip_seconds()
    print(f"a clip: {usual:.4f} s of CPU time, and {added:.5f} s ({added / usual:.2%}) to find its patient")
    file = RowFile(args.folder / "rows.csv")
    for pair in range(args.pairs):
        for follow in ("", args.follow) if pair % 2 == 0 else (args.follow, ""):
            if not file.find(pair=pair, follow=follow):
                file.add(measure(pair, follow))
    for column in ("update_s", "change_s", "run_s", "cpu_s") if args.pairs else ():
        print(f"{column}: steered over not steered {ratio(file.rows, args.follow, column)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
