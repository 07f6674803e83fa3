"""Dice of the worst stratum after the same steps: uniform and steered draws, an oracle, a painter; three seeds.

    python -m tests.benchmarks.steering --folder FOLDER [--steps 120] [--arms uniform steered judge ...]

Patients of the phantom in eight strata: failing or not, fast or not, a poor image or not. One stratum in fifty is all
three. The oracle knows it and gives it a quarter of the clips; steering is told nothing, nor is the painter, which
makes a quarter of the clips against the student. Runs go without Ray, in one process. FOLDER/rows.csv keeps the rows:
those that it has are not run again.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.core.records import DistillationBatch, VideoClip
from echodfkd.metrics.overlap import dice
from echodfkd.models.students.build import build_student
from echodfkd.models.teachers.protocol import Teacher
from echodfkd.reporting.study.compared import student_interval
from echodfkd.runtime.stream.builders import load_teacher, slot_rules, training_source
from echodfkd.sources.build import build_source
from echodfkd.sources.clip_source import ClipSource
from echodfkd.sources.phantom.source import PhantomSource
from echodfkd.sources.steering.laws import Timetable
from echodfkd.sources.steering.plan import SteeringPlan
from echodfkd.sources.steering.source import SteeredSource
from echodfkd.storage.checkpoints import read_student
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint
from echodfkd.storage.steering import Law, read_steering
from echodfkd.teaching.blocks import make_block, teach_block
from echodfkd.training.loop import WorkerContext, train
from tests.benchmarks.row_file import RowFile

STRATA = "source.steering.strata={ef_percent: [40], heart_rate_bpm: [75], image_quality: [0.3333]}"
HARD = 2
"""Number of the stratum that is failing, fast and poor: cells (EF, rate, quality), the last fastest."""
RUN = [
    "students.a={blocks: 2, layers: 1, filters: 4}", "train.global_batch=8", "train.checkpoint_every=12",
    "train.engine=plain", "window.size=32", "window.frames=8", "window.fps=16", "evaluation.enabled=false",
]  # fmt: skip
ARMS: dict[str, list[str]] = {
    "uniform": [],
    "steered": [STRATA],
    "temporal": [STRATA, "source.steering.follow=temporal"],
    "judge": [STRATA, "source.steering.follow=judge", "source.steering.judged=0.5"],
    "again": [STRATA, "source.steering.again=0.1"],
    "adversarial": [
        "source={kind: mixture, parts: {drawn: {weight: 3}, against: {kind: adversarial}}}",
        "data.order=fixed",
    ],
    "oracle": [],
}
ORACLE_SHARE, DRAWN_SHARE, CASES, SEEDS, HELD_OUT = 0.25, 0.75, 16, (1, 2, 3), 1_000_003


def one_stratum(plan: SteeringPlan, stratum: int) -> Law:
    """The law whose steered clips are all of this stratum."""
    count = len(plan.shares)
    towards = tuple(float(number == stratum) for number in range(count))
    return Law(0, towards, (1.0,) * count, (0.0,) * count, (0,) * count)


@functools.cache
def held_out() -> tuple[SteeringPlan, dict[int, list[VideoClip]]]:
    """Strata, and clips of each that no run trains on."""
    config = load_config(None, [*RUN, STRATA])
    plan = SteeringPlan(config.source, HELD_OUT)
    source = plain_source(config, HELD_OUT)
    clips = {}
    for stratum, share in enumerate(plan.shares):
        law = one_stratum(plan, stratum)
        chosen = [index for index in range(20 * CASES) if plan.choose(index, law).stratum is not None] if share else []
        places = [plan.place(index, law) for index in chosen[:CASES]]
        clips[stratum] = [source.clip(place.index, place.draw) for place in places]
    return plan, clips


def plain_source(config: RunConfig, seed: int) -> PhantomSource:
    source = build_source(config.source, config.window, seed=seed, case_frames=8)
    assert isinstance(source, PhantomSource)
    return source


def arm_source(arm: str, config: RunConfig) -> ClipSource:
    """The clips of a run."""
    if arm != "oracle":
        return training_source(config)
    steered = load_config(None, [*RUN, STRATA, f"source.steering.floor={1 - ORACLE_SHARE}"])
    plan = SteeringPlan(steered.source, config.seed)
    return SteeredSource(
        plain_source(config, config.seed), plan, Timetable.of(config), lambda number: one_stratum(plan, HARD)
    )


def batches(config: RunConfig, source: ClipSource, teacher: Teacher) -> Iterator[DistillationBatch]:
    rules = slot_rules(config)
    for first in range(0, config.plan_slots, config.micro_batch):
        block = make_block(source, range(first, first + config.micro_batch), rules, actor="source")
        yield teach_block(teacher, block, lambda: source, rules, actor="teacher")


def measure(arm: str, seed: int, steps: int, teacher: Teacher) -> dict[str, object]:
    """One row."""
    with tempfile.TemporaryDirectory() as folder:
        own = [f"seed={seed}", f"train.steps={steps}", f"storage={folder}"]
        config = load_config(None, [*RUN, *ARMS[arm], *own])
        storage = RunStorage(config.root)
        context = WorkerContext(0, 1, "cpu", "w", "a", lambda values: None)
        train(context, batches(config, arm_source(arm, config), teacher), config, storage, teacher.teacher_id)
        newest = latest_checkpoint(storage)
        assert newest is not None
        student = build_student(**config.students["a"].network)
        student.load_state_dict(read_student(storage, newest, "a"))
        state = read_steering(storage, newest)
    plan, clips = held_out()
    scores = {stratum: mean_dice(student.eval(), found) for stratum, found in clips.items() if found}
    known = sum(plan.shares[stratum] for stratum in scores)
    mean = sum(plan.shares[stratum] * score for stratum, score in scores.items()) / known
    share = plan.shares[HARD]
    if arm == "oracle":
        share = ORACLE_SHARE + (1 - ORACLE_SHARE) * share
    elif arm == "adversarial":
        share *= DRAWN_SHARE
    elif state is not None:  # the share that its last law gives, of the patients by the weight
        share /= state.laws[-1].weights[HARD] or 1.0
    row = {"arm": arm, "seed": seed, "steps": steps, "mean": mean, "worst": min(scores.values()), "hard": scores[HARD]}
    row |= {"hard_share": share, **{f"stratum{number}": score for number, score in scores.items()}}
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


@torch.inference_mode()
def mean_dice(student: torch.nn.Module, clips: Sequence[VideoClip]) -> float:
    found = []
    for clip in clips:
        assert clip.truth_labels is not None
        logits = student(torch.from_numpy(clip.video)[None]).mask_logits[0, :, 0]
        found.append(dice((logits > 0).numpy(), clip.truth_labels == 1).mean())
    return float(np.mean(found))


def table(rows: Sequence[dict[str, object]]) -> str:
    """Means over the seeds, and gains over uniform draws with their 95 % intervals (t, paired by seed)."""
    named = {"mean": "Dice, mean", "worst": "worst stratum", "hard": "rare stratum"}
    titles = ["clips", "share of the rare stratum", *named.values(), "gain, worst stratum", "gain, mean"]
    lines = [f"| {' | '.join(titles)} |", "| --- | ---: | ---: | ---: | ---: | --- | --- |"]
    by_arm = {arm: {str(row["seed"]): row for row in rows if row["arm"] == arm} for arm in ARMS}
    for arm, found in by_arm.items():
        if found:
            means = [np.mean([float(str(row[key])) for row in found.values()]) for key in ("hard_share", *named)]
            gains = [gain(found, by_arm["uniform"], key) if arm != "uniform" else "" for key in ("worst", "mean")]
            shown = [arm, f"{means[0]:.1%}", *(f"{value:.3f}" for value in means[1:]), *gains]
            lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


def gain(found: dict[str, dict[str, object]], usual: dict[str, dict[str, object]], key: str) -> str:
    """Mean difference of a column from the usual rows, and its 95 % interval (t, paired by seed)."""
    pairs = [float(str(found[s][key])) - float(str(usual[s][key])) for s in found if s in usual]
    if len(pairs) < 2:
        return "–"
    over_seeds = student_interval(pairs)
    return f"{over_seeds.mean:+.3f} ({over_seeds.low:+.3f} … {over_seeds.high:+.3f})"


def main() -> int:
    """Parse, measure the rows that are missing, print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.steering", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = RowFile(args.folder / "rows.csv")
    teacher = load_teacher(load_config(None, RUN), device="cpu")
    for seed in SEEDS:
        for arm in args.arms:
            if not file.find(arm=arm, seed=seed, steps=args.steps):
                file.add(measure(arm, seed, args.steps, teacher))
    plan, _ = held_out()
    for number, share in enumerate(plan.shares):
        print(f"stratum {number}: {plan.name(number)}, {share:.1%} of the patients")
    print(table(file.find(steps=args.steps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
