"""What it buys that a teacher sees more than its student, and that each clip goes to the teacher who knows its scanner.

    python -m tests.benchmarks.sees_and_routes --folder FOLDER [--parts sees routes] [--seeds 1 2 3] [--steps 200]

For each seed three small teachers are trained on labelled frames of the phantom: of the clear scanner, of the handheld
one, and half of both, the same number in all. `sees`: a student of handheld images is taught by the clear teacher on
these images, by the same teacher on the clear rendering of the same clips, and by the teacher of both. `routes`: a
student of both scanners is taught by one of two teachers, by their fusion, and by the one that knows the clip's
scanner. Dice is with the truth, on clips that nothing was trained on. Runs go without Ray, in one process.
FOLDER/rows.csv keeps the rows: those that it has are not run again.
"""

from __future__ import annotations

import argparse
import csv
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.core.records import DistillationBatch, VideoClip
from echodfkd.metrics.overlap import dice
from echodfkd.models.students.build import build_student
from echodfkd.models.teachers.protocol import ClipKey, Teacher
from echodfkd.models.teachers.unet import EmbeddedTeacherNet
from echodfkd.runtime.stream.builders import load_teacher, training_source
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.storage.checkpoints import read_student
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint
from echodfkd.teaching.routing import Router
from echodfkd.training.loop import WorkerContext, train
from echodfkd.training.teacher.embedded import embedded_recipe, teacher_card, write_teacher
from echodfkd.training.teacher.supervised import train_segmentation
from tests.benchmarks.steering import batches, gain, mean_dice

SIZE, FRAMES, FPS = 32, 8, 16.0
RUN = [
    "students.a={blocks: 2, layers: 1, filters: 4, norm: group}",
    "train.global_batch=4",
    "train.checkpoint_every=10000",
    "train.engine=plain",
    f"window={{size: {SIZE}, frames: {FRAMES}, fps: {FPS}}}",
    "evaluation.enabled=false",
]
HANDHELD = ["source.domain=handheld"]
BOTH = ["source={kind: mixture, parts: {clear: {domain: clear}, handheld: {domain: handheld}}}"]
MEMBERS = "{clear: {weights: FOLDER/clear.safetensors}, handheld: {weights: FOLDER/handheld.safetensors}}"
ENSEMBLE = ["teacher.kind=ensemble", f"teacher.members={MEMBERS}"]
ROUTE = "teacher.route={by: domain, to: {clear: clear, handheld: handheld}, default: clear}"
PARTS: dict[str, dict[str, list[str]]] = {
    "sees": {
        "clear teacher, handheld images": [*HANDHELD, "teacher.weights=FOLDER/clear.safetensors"],
        "clear teacher, clear rendering": [
            *HANDHELD, "teacher.weights=FOLDER/clear.safetensors", "teacher.sees.domain=clear",
        ],
        "teacher of both, handheld images": [*HANDHELD, "teacher.weights=FOLDER/both.safetensors"],
    },
    "routes": {
        "clear only": [*BOTH, "teacher.weights=FOLDER/clear.safetensors"],
        "handheld only": [*BOTH, "teacher.weights=FOLDER/handheld.safetensors"],
        "fused": [*BOTH, *ENSEMBLE],
        "routed": [*BOTH, *ENSEMBLE, ROUTE],
    },
}  # fmt: skip
TAUGHT_BY = {"clear": ("clear",), "handheld": ("handheld",), "both": ("clear", "handheld")}
LABELLED, TEACHER_STEPS, CASES = 32, 150, 24
COLUMNS = ("part", "arm", "seed", "steps", "teacher", "student", "worst", "clear", "handheld", "work")


def make_teachers(folder: Path, seed: int) -> None:
    """Train the teachers of `TAUGHT_BY` that the folder lacks, all on as many clips of patients of their own."""
    for place, (name, domains) in enumerate(TAUGHT_BY.items()):
        path = folder / f"{name}.safetensors"
        if path.exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        sources = [phantom(domain, 2_000_003 + seed, frames=2, fps=2.0) for domain in domains]
        first = LABELLED * place
        clips = [sources[number % len(sources)].clip(first + number) for number in range(LABELLED)]
        recipe = embedded_recipe(steps=TEACHER_STEPS, seed=seed, sizes=(SIZE,), max_seconds=0.0)
        recipe = replace(recipe, batch_pixels=16 * SIZE * SIZE, warmup_steps=20)
        torch.manual_seed(seed)
        network = EmbeddedTeacherNet()
        steps = train_segmentation(network, epochs(clips, seed), recipe, report=lambda line: None)
        card = teacher_card(network, recipe, steps_done=steps, data=f"{LABELLED} clips of {domains}", held_out={})
        write_teacher(path, network, card, "--folder")


def phantom(domain: str, seed: int, *, frames: int = FRAMES, fps: float = FPS):  # type: ignore[no-untyped-def]
    return default_phantom(seed=seed, num_frames=frames, fps=fps, size=SIZE, case_frames=frames, domain=domain)


def epochs(clips: Sequence[VideoClip], seed: int) -> Callable[[int, int], VideoClip]:
    """All clips in one random order after the other."""

    def clip(index: int, size: int) -> VideoClip:
        epoch, place = divmod(index, len(clips))
        return clips[int(np.random.default_rng([seed, epoch]).permutation(len(clips))[place])]

    return clip


@functools.cache
def held_out(domain: str) -> list[VideoClip]:
    """Clips that nothing was trained on: the same hearts for every scanner."""
    return [phantom(domain, 1_000_003).clip(index) for index in range(CASES)]


def measure(part: str, arm: str, seed: int, steps: int, folder: Path) -> dict[str, object]:
    """One row."""
    with tempfile.TemporaryDirectory() as storage_folder:
        options = [text.replace("FOLDER", str(folder)) for text in PARTS[part][arm]]
        own = [f"seed={seed}", f"train.steps={steps}", f"storage={storage_folder}"]
        config = load_config(None, [*RUN, *options, *own])
        teacher, storage, work = load_teacher(config, device="cpu"), RunStorage(config.root), [0.0]
        context = WorkerContext(0, 1, "cpu", "w", "a", lambda values: None)
        train(context, counted(config, teacher, work), config, storage, teacher.teacher_id)
        newest = latest_checkpoint(storage)
        assert newest is not None
        student = build_student(**config.students["a"].network)
        student.load_state_dict(read_student(storage, newest, "a"))
    domains = ("handheld",) if part == "sees" else ("clear", "handheld")
    scores = {domain: [mean_dice(student.eval(), [clip]) for clip in held_out(domain)] for domain in domains}
    every = [score for found in scores.values() for score in found]
    row = {"part": part, "arm": arm, "seed": seed, "steps": steps, "teacher": teacher_dice(teacher, config, domains)}
    row |= {"student": np.mean(every), "worst": min(every), "work": work[0]}
    row |= {domain: np.mean(found) for domain, found in scores.items()}
    return {key: round(float(value), 4) if isinstance(value, float) else value for key, value in row.items()}


def counted(config: RunConfig, teacher: Teacher, work: list[float]) -> Iterator[DistillationBatch]:
    """The batches of a run; ``work`` adds up the clips that its networks are shown, per clip of the run."""
    for batch in batches(config, training_source(config), teacher):
        members = [span for span in batch.spans if span.stage.startswith("teacher.")]
        shown = sum(span.clips for span in members) if members else len(batch.slot)
        work[0] += shown / config.plan_slots
        yield batch


def teacher_dice(teacher: Teacher, config: RunConfig, domains: Sequence[str]) -> float:
    """Mean Dice of the masks that a student is taught by: of the teacher's own rendering of the held-out clips."""
    found = []
    for domain in domains:
        source = phantom(domain, 1_000_003)
        seen = source.seen_as(config.teacher.sees)
        for clip in held_out(domain):
            shown = seen.clip(clip.index).video if config.teacher.sees.is_on else clip.video
            key = ClipKey(clip.clip_id, clip.index, 0, route=Router(config.teacher.route)(clip))
            masks = teacher.teach(shown[None], [key], classes=("LV",)).masks[0, :, 0]
            assert clip.truth_labels is not None
            found.append(dice(masks > 0.5, clip.truth_labels == 1).mean())
    return float(np.mean(found))


def table(rows: Sequence[dict[str, object]], part: str) -> str:
    """Means over the seeds, and gains over the first arm with their 95 % intervals (t, paired by seed)."""
    lines = ["| taught by | its masks | student | worst clip | clear | handheld | clips shown | gain of the student |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    by_arm = {arm: {str(row["seed"]): row for row in rows if row["arm"] == arm} for arm in PARTS[part]}
    first = next(iter(by_arm.values()))
    for arm, found in by_arm.items():
        if not found:
            continue
        cells = []
        for key in ("teacher", "student", "worst", "clear", "handheld", "work"):
            values = [float(str(row[key])) for row in found.values() if row.get(key) not in (None, "")]
            cells.append(f"{np.mean(values):.3f}" if values else "")
        bought = gain(found, first, "student") if found is not first else ""
        lines.append(f"| {arm} | {' | '.join(cells)} | {bought} |")
    return "\n".join(lines)


def main() -> int:
    """Parse, measure the rows that are missing, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sees_and_routes", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    path = args.folder / "rows.csv"
    rows: list[dict[str, object]] = list(csv.DictReader(path.open())) if path.exists() else []
    for seed in args.seeds:
        for part, arm in [(name, arm) for name in args.parts for arm in PARTS[name]]:
            wanted = (part, arm, str(seed), str(args.steps))
            if any((row["part"], row["arm"], str(row["seed"]), str(row["steps"])) == wanted for row in rows):
                continue
            folder = args.folder.resolve() / f"teachers_{seed}"
            make_teachers(folder, seed)
            rows.append(measure(part, arm, seed, args.steps, folder))
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
            print(rows[-1], flush=True)
    for part in args.parts:
        print(table([row for row in rows if (row["part"], str(row["steps"])) == (part, str(args.steps))], part))
    return 0


if __name__ == "__main__":
    sys.exit(main())
