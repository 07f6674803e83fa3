"""What it buys that a teacher sees more than its student, and that each clip goes to the teacher who knows its scanner.

    python -m tests.benchmarks.sees_and_routes --folder FOLDER [--parts sees routes] [--seeds 1 2 3] [--steps 200]

For each seed three small teachers are trained on labelled frames of the phantom: of the clear scanner, of the handheld
one, and half of both, the same number in all. `sees`: a student of handheld images is taught by the clear teacher on
these images, by the same teacher on the clear rendering of the same clips, and by the teacher of both. `routes`: a
student of both scanners is taught by one of two teachers, by their fusion, and by the one that knows the clip's
scanner. Dice is with the truth, on clips that nothing was trained on; `work` is the number of networks that a clip is
shown to. `--steps 0` trains no student. Runs go without Ray, in one process.
FOLDER/rows.csv keeps the rows: those that it has are not run again.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.core.records import VideoClip
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
from tests.benchmarks.row_file import RowFile
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
SCORES = (
    *("masks mean", "masks worst", "masks clear", "masks handheld", "work"),
    *("student mean", "student worst", "student clear", "student handheld"),
)


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
    """One row; with ``steps`` 0 only of the teacher."""
    options = [text.replace("FOLDER", str(folder)) for text in PARTS[part][arm]]
    domains = ("handheld",) if part == "sees" else ("clear", "handheld")
    with tempfile.TemporaryDirectory() as storage:
        own = [f"seed={seed}", f"train.steps={max(1, steps)}", f"storage={storage}"]
        config = load_config(None, [*RUN, *options, *own])
        teacher = load_teacher(config, device="cpu")
        masks, work = teacher_dice(teacher, config, domains)
        student = trained_student(config, teacher) if steps else None
    row: dict[str, object] = {"part": part, "arm": arm, "seed": seed, "steps": steps, "work": work}
    row |= described("masks", masks)
    if student is not None:
        found = {domain: [mean_dice(student, [clip]) for clip in held_out(domain)] for domain in domains}
        row |= described("student", found)
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def described(who: str, found: dict[str, list[float]]) -> dict[str, object]:
    """Mean, worst clip and mean by scanner of Dice."""
    every = [score for scores in found.values() for score in scores]
    means = {f"{who} {domain}": float(np.mean(scores)) for domain, scores in found.items()}
    return {f"{who} mean": float(np.mean(every)), f"{who} worst": min(every), **means}


def trained_student(config: RunConfig, teacher: Teacher) -> torch.nn.Module:
    storage = RunStorage(config.root)
    context = WorkerContext(0, 1, "cpu", "w", "a", lambda values: None)
    train(context, batches(config, training_source(config), teacher), config, storage, teacher.teacher_id)
    newest = latest_checkpoint(storage)
    assert newest is not None
    student = build_student(**config.students["a"].network)
    student.load_state_dict(read_student(storage, newest, "a"))
    return student.eval()


def teacher_dice(teacher: Teacher, config: RunConfig, domains: Sequence[str]) -> tuple[dict[str, list[float]], float]:
    """Dice by scanner of the masks that a student is taught by, and the networks that a clip is shown to, on average.

    The teacher sees its own rendering of the held-out clips.
    """
    found: dict[str, list[float]] = {domain: [] for domain in domains}
    shown_to = 0
    for domain in domains:
        seen = phantom(domain, 1_000_003).seen_as(config.teacher.sees)
        for clip in held_out(domain):
            shown = seen.clip(clip.index).video if config.teacher.sees.is_on else clip.video
            key = ClipKey(clip.clip_id, clip.index, 0, route=Router(config.teacher.route)(clip))
            output = teacher.teach(shown[None], [key], classes=("LV",))
            assert clip.truth_labels is not None
            found[domain].append(float(dice(output.masks[0, :, 0] > 0.5, clip.truth_labels == 1).mean()))
            shown_to += sum(span.clips for span in output.spans) or 1
    return found, shown_to / sum(map(len, found.values()))


def table(rows: Sequence[dict[str, object]], part: str) -> str:
    """Means over the seeds, and gains over the first arm with their 95 % intervals (t, paired by seed)."""
    lines = [f"| taught by | {' | '.join(SCORES)} | gain |", f"| --- |{' ---: |' * len(SCORES)} --- |"]
    by_arm = {arm: {str(row["seed"]): row for row in rows if row["arm"] == arm} for arm in PARTS[part]}
    first = next(iter(by_arm.values()))
    for arm, found in by_arm.items():
        if not found:
            continue
        cells = []
        for key in SCORES:
            values = [float(str(row[key])) for row in found.values() if row.get(key) not in (None, "")]
            cells.append(f"{np.mean(values):.3f}" if values else "")
        gained = "student mean" if cells[SCORES.index("student mean")] else "masks mean"
        lines.append(f"| {arm} | {' | '.join(cells)} | {gain(found, first, gained) if found is not first else ''} |")
    return "\n".join(lines)


def main() -> int:
    """Parse, measure the rows that are missing, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sees_and_routes", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = RowFile(args.folder / "rows.csv")
    for seed in args.seeds:
        for part, arm in [(name, arm) for name in args.parts for arm in PARTS[name]]:
            if not file.find(part=part, arm=arm, seed=seed, steps=args.steps):
                folder = args.folder.resolve() / f"teachers_{seed}"
                make_teachers(folder, seed)
                file.add(measure(part, arm, seed, args.steps, folder))
    for part in args.parts:
        print(table(file.find(part=part, steps=args.steps), part))
    return 0


if __name__ == "__main__":
    sys.exit(main())
