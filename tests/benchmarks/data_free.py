"""A student's Dice after the same steps on clips of several kinds, three seeds each: is a painter worth its while?

    python -m tests.benchmarks.data_free --folder FOLDER [--steps 120] [--kinds noise adversarial ...] [--clips FOLDER]

The teacher is the embedded one with batch normalisation in place of group normalisation, trained on in FOLDER on the
phantom, because guided clips need batch statistics. FOLDER/rows.csv keeps the rows, and FOLDER/students the students:
what FOLDER has is not run again. --clips names public clips with painted masks (`side_by_side`): the students that are
kept are measured on them too.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.evaluation.generator_scores import requests_like
from echodfkd.metrics.overlap import dice
from echodfkd.models.generators.latent_video import LatentVideo, load_latent_model
from echodfkd.models.students.build import build_student
from echodfkd.models.teachers.graded import GradedTeacher
from echodfkd.models.teachers.unet import PIXEL_MEAN, PIXEL_STD, load_embedded_teacher
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.storage.checkpoints import NETWORK_KEY, WINDOW_KEY, copy_to_cpu, pack_student
from echodfkd.training.datafree.play import DataFreeRun
from echodfkd.training.datafree.settings import DataFreeSettings
from echodfkd.training.teacher.embedded import embedded_recipe
from echodfkd.training.teacher.supervised import train_segmentation
from tests.benchmarks.row_file import RowFile
from tests.benchmarks.side_by_side import PaintedClip, read_painted_clips, score_clip, student_masks
from tests.benchmarks.steering import gain

SIZE, FRAMES, FPS, BATCH = 40, 6, 12.0, 4
CASES, CASE_FRAMES, CASE_FPS = 24, 8, 8.0
TEACHER_STEPS, TEACHER_CLIPS, SEEDS = 150, 8, (1, 2, 3)
RUNS: dict[str, dict[str, Any]] = {
    "conditions": {"shares": {"conditions": 1.0}},
    "learned": {"shares": {"conditions": 1.0}},
    "noise": {"shares": {"noise": 1.0}},
    "adversarial": {"shares": {"noise": 0.25, "adversarial": 0.75}},
    "adversarial near the statistics": {"shares": {"noise": 0.25, "adversarial": 0.75}, "statistics": 1.0},
    "guided": {"shares": {"guided": 1.0}},
    "mixed": {"shares": {"conditions": 0.4, "noise": 0.1, "adversarial": 0.25, "guided": 0.25}, "statistics": 1.0},
    "all": {"shares": {"conditions": 0.5, "adversarial": 0.25, "guided": 0.25}},
}
"""The kinds of runs, by name: settings. In place of drawn clips, learned has those of the shipped generator, and
all has them in every other of these slots."""
MOST_SLOTS = 1_000_000
STUDENT = StudentConfig(blocks=3, layers=1, filters=8)
EVERY = 4
"""Every so many frames of a public clip: 50 a second become about as many as a student was trained at."""


def with_batch_norm(network: nn.Module) -> nn.Module:
    """The network with a batch normalisation of the same scale and shift in place of each group normalisation."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GroupNorm):
                norm = nn.BatchNorm2d(child.num_channels)
                norm.weight, norm.bias = child.weight, child.bias
                setattr(parent, name, norm)
    return network


def trained_teacher(folder: Path) -> GradedTeacher:
    """The teacher of FOLDER, trained there first if need be."""
    network, path = with_batch_norm(load_embedded_teacher(None)), folder / "teacher.safetensors"
    if path.exists():
        network.load_state_dict(load_file(path))
    else:
        source = default_phantom(seed=21, num_frames=2, fps=2.0, size=SIZE, case_frames=2)
        recipe = embedded_recipe(steps=TEACHER_STEPS, seed=21, sizes=(SIZE,), max_seconds=0.0)
        recipe = dataclasses.replace(
            recipe, batch_pixels=TEACHER_CLIPS * 2 * SIZE * SIZE, learning_rate=1e-3, warmup_steps=10
        )
        train_segmentation(network, lambda index, size: source.clip(index), recipe, report=print)
        save_file(network.state_dict(), path)
    return GradedTeacher(network.eval().requires_grad_(False), PIXEL_MEAN[0], PIXEL_STD[0], "embedded")


@torch.inference_mode()
def mean_dice(student: nn.Module | None, teacher: GradedTeacher) -> float:
    """Mean Dice over all frames of held-out phantom cases; of the teacher if there is no student."""
    source = default_phantom(seed=99, num_frames=1, fps=CASE_FPS, size=SIZE, case_frames=CASE_FRAMES)
    found = []
    for number in range(CASES):
        case = source.case(number)
        assert case.truth_labels is not None
        video = torch.from_numpy(case.video).float()[None]
        logits = teacher.logits(video)[0] if student is None else student(video).mask_logits[0, :, 0]
        found.append(dice((logits > 0).numpy(), case.truth_labels == 1).mean())
    return float(np.mean(found))


@functools.cache
def shipped_generator() -> LatentVideo:
    return LatentVideo(load_latent_model())


def kept(folder: Path, run: str, seed: int, steps: int) -> Path:
    """The file of a student."""
    return folder / "students" / f"{run.replace(' ', '_')}-{seed}-{steps}.safetensors"


def keep(student: nn.Module, path: Path) -> None:
    """Write a student as `load_student` reads it."""
    about = {NETWORK_KEY: STUDENT.network, WINDOW_KEY: vars(WindowConfig(frames=FRAMES, size=SIZE, fps=FPS))}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack_student({key: copy_to_cpu(value) for key, value in student.state_dict().items()}, about))


def public_dice(path: Path, clips: Sequence[PaintedClip]) -> float:
    """Mean Dice of a kept student with the painted masks of public clips."""
    predict = student_masks(str(path))
    return float(np.mean([score_clip(predict, clip, side=0, every=EVERY).dice for clip in clips]))


def measure(run: str, seed: int, steps: int, teacher: GradedTeacher, folder: Path) -> dict[str, object]:
    """One row; the student is kept."""
    source = default_phantom(seed=seed, num_frames=FRAMES, fps=FPS, size=SIZE, case_frames=FRAMES)

    @functools.lru_cache(maxsize=64)
    def drawn(slot: int) -> tuple[np.ndarray, np.ndarray]:
        clip = source.clip(slot)
        assert clip.truth_labels is not None
        return clip.video, clip.truth_labels == 1

    @functools.lru_cache(maxsize=64)
    def learned(slot: int) -> tuple[np.ndarray, np.ndarray]:
        """The learned generator's clip under the conditions of the drawn one, and the drawn mask, for a painter."""
        (clip,) = shipped_generator().generate(requests_like([source.clip(slot)], seed=seed * MOST_SLOTS + slot))
        assert isinstance(clip, np.ndarray)
        return clip, drawn(slot)[1]

    def either(slot: int) -> tuple[np.ndarray, np.ndarray]:
        return learned(slot) if settings.kinds()[: slot + 1].count("conditions") % 2 else drawn(slot)

    torch.manual_seed(seed)
    student = build_student(**STUDENT.network)
    settings = DataFreeSettings(steps=steps, batch=BATCH, frames=FRAMES, size=SIZE, seed=seed, **RUNS[run])
    clips = {"learned": learned, "all": either}.get(run, drawn)
    playing = DataFreeRun(student, teacher, clips, settings)
    playing.run()
    keep(student, kept(folder, run, seed, steps))
    updates = playing.generator_step
    return {
        "run": run,
        "seed": seed,
        "steps": steps,
        "dice": round(mean_dice(student, teacher), 4),
        "painter_updates": updates,
    }


def table(rows: Sequence[dict[str, object]], public: Mapping[tuple[str, str], float]) -> str:
    """Dice of each kind of run by seed, its mean, the mean difference from drawn clips with its 95 % interval (t,
    paired by seed), and the mean of ``public`` by run and seed, as Markdown."""
    seeds = [str(seed) for seed in SEEDS]
    titles = ["clips", *(f"seed {seed}" for seed in seeds), "mean", "difference from drawn clips", "public clips"]
    lines = [f"| {' | '.join(titles)} |", f"| --- |{' ---: |' * len(seeds)} ---: | --- | ---: |"]
    by_run = {run: {str(row["seed"]): row for row in rows if row["run"] == run} for run in RUNS}
    for run, found in by_run.items():
        if found:
            values = {seed: float(str(row["dice"])) for seed, row in found.items()}
            each = [f"{values[seed]:.3f}" if seed in values else "not run" for seed in seeds]
            apart = gain(found, by_run["conditions"], "dice") if run != "conditions" else ""
            outside = [public[run, seed] for seed in seeds if (run, seed) in public]
            shown = f"{np.mean(outside):.3f} (n = {len(outside)})" if outside else "–"
            lines.append(f"| {run} | {' | '.join(each)} | {np.mean([*values.values()]):.3f} | {apart} | {shown} |")
    return "\n".join(lines)


def main() -> int:
    """Parse, measure the rows that are missing, print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.data_free", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--kinds", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--clips", default="", metavar="FOLDER")
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = RowFile(args.folder / "rows.csv")
    teacher = trained_teacher(args.folder)
    for seed in SEEDS:
        for run in args.kinds:
            if not file.find(run=run, seed=seed, steps=args.steps):
                file.add(measure(run, seed, args.steps, teacher, args.folder))
    print(f"the teacher itself: {mean_dice(None, teacher):.3f}")
    clips = read_painted_clips(args.clips) if args.clips else []
    paths = {(run, str(seed)): kept(args.folder, run, seed, args.steps) for run in RUNS for seed in SEEDS}
    public = {key: public_dice(path, clips) for key, path in paths.items() if clips and path.exists()}
    print(table(file.find(steps=args.steps), public))
    return 0


if __name__ == "__main__":
    sys.exit(main())
