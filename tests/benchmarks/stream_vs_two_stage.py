"""Streaming against the published two-stage method: the same videos, teacher, student and number of updates.

Streaming teaches only the windows that are trained on, at the training size, while the student trains; the two-stage
method teaches all frames first. Both run once with the largest number of epochs; times of fewer epochs are read from
the same run, since no epoch depends on later ones. Streaming runs twice: with an empty mask cache, its teacher
remembering the masks of frames because windows of epochs overlap; and with the cache that the first run filled. Its
teacher computes in the precision that is faster on this machine.

Times are taken with EchoNet-Dynamic's network and random weights, which do not affect speed. The Dice of both students
is compared with the embedded teacher, which segments ventricles.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import OptimizerConfig
from echodfkd.metrics.overlap import dice
from echodfkd.metrics.summary import Interval, bootstrap_mean
from echodfkd.models.archives.state_dicts import load_weights
from echodfkd.models.students.build import build_student
from echodfkd.models.teachers.build import build_teacher
from echodfkd.reporting.rows import RunRows
from echodfkd.training.initial_weights import read_student_file
from echodfkd.training.schedule import learning_rate
from echodfkd.training.student import student_seed
from tests.benchmarks.authors_teacher import teach_clip
from tests.benchmarks.job_run import distil, spans_of
from tests.benchmarks.teacher_frames import random_network, write_random_weights
from tests.benchmarks.timing import Report, faster_precision
from tests.benchmarks.two_stage import TaughtVideos, teach_to_disk, train_from_disk
from tests.helpers.teachers import lv_prob

TARGETS = {1: 0.1, 5: 0.3, 20: 0.75}
"""Epochs -> limit of the wall time of streaming over that of the two-stage method."""
SAME_DICE = 0.03
"""How far the mean Dice of streaming's student may be below the other's: windows and their order differ."""
SIZE, WINDOW, FPS = 112, 25, 50.0
BATCH = 4
STUDENT = StudentConfig(blocks=3, layers=1)


@dataclass(frozen=True)
class Plan:
    """Number and length of the videos, and epochs over them."""

    videos: int
    frames: int
    epochs: int

    @property
    def steps(self) -> int:
        """Number of updates of a run."""
        return self.epochs * self.videos // BATCH


TIMED = Plan(videos=12, frames=176, epochs=20)
"""EchoNet-Dynamic's mean length."""
JUDGED = Plan(videos=32, frames=60, epochs=10)


def stream_vs_two_stage(report: Report, *, quick: bool) -> dict[str, Any]:
    """Streaming over the published two-stage method: wall time at 1, 5, 20 epochs, both students' Dice (starts Ray)."""
    plan = Plan(4, 32, 2) if quick else TIMED
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        found = compare_times(root, plan)
        apart, scores = compare_students(root, Plan(4, 32, 2) if quick else JUDGED, cases=4 if quick else 24)
    two = {epoch: found["taught"] + seconds for epoch, seconds in enumerate(found["two_stage"], 1)}
    streams: dict[str, dict[str, Any]] = found["streams"]
    shown = [epoch for epoch in TARGETS if epoch <= plan.epochs]
    report("the start of a stream counts, that of the two-stage way (a process and its imports) does not")
    report(f"{'seconds after epoch':<24} " + " ".join(f"{epoch:>8}" for epoch in shown))
    for name, seconds in {"two-stage": two, **{name: stream["s"] for name, stream in streams.items()}}.items():
        report(f"{name:<24} " + " ".join(f"{seconds[epoch]:>8.1f}" for epoch in shown))
    ratios = {name: {epoch: stream["s"][epoch] / two[epoch] for epoch in shown} for name, stream in streams.items()}
    for name, by_epoch in ratios.items():
        report(f"{name + ' / two-stage':<24} " + " ".join(f"{ratio:>8.3f}" for ratio in by_epoch.values()))
    even = {name: break_even(stream["s"], two) for name, stream in streams.items()}
    starts = {name: round(stream["first_step_s"], 1) for name, stream in streams.items()}
    steady = {name: {e: stream["steady_s"][e] / two[e] for e in shown} for name, stream in streams.items()}
    for name, by_epoch in steady.items():
        report(f"{name + ', started':<24} " + " ".join(f"{ratio:>8.3f}" for ratio in by_epoch.values()))
    report(f"streaming's teacher computes in {found['precision']}, the faster one here; the two-stage way's in fp32")
    report(f"teaching to disk took {found['taught']:.1f} s; the first update of a stream ends after {starts} s")
    report("break-even epoch: " + ", ".join(f"{name} {epoch:.1f}" for name, epoch in even.items()))
    report(f"Dice with the truth: two-stage {scores[0]:.3f}, streaming {scores[1]:.3f}; difference {apart}")
    same = apart.mean >= -SAME_DICE
    return {
        "value": {str(epoch): round(ratio, 4) for epoch, ratio in ratios["cold cache"].items()},
        "unit": "seconds of streaming, its start counted, over seconds of the two-stage way, by epochs",
        "target": {str(epoch): TARGETS[epoch] for epoch in shown},
        "holds": same and all(ratios["cold cache"][epoch] <= TARGETS[epoch] for epoch in shown),
        "with_cache": {name: {str(e): round(r, 4) for e, r in by.items()} for name, by in ratios.items()},
        "seconds": {**found, "streams": {name: stream["busy"] for name, stream in streams.items()}},
        "without_start": {name: {str(e): round(r, 4) for e, r in by.items()} for name, by in steady.items()},
        "first_step_s": starts,
        "break_even_epoch": {name: epoch if math.isfinite(epoch) else None for name, epoch in even.items()},
        "dice": {"two_stage": scores[0], "stream": scores[1], "difference": asdict(apart)},
        "plan": asdict(plan),
    }


def compare_times(root: Path, plan: Plan) -> dict[str, Any]:
    """Seconds of the two-stage method and of streaming with an empty and a filled mask cache; DeepLabV3 teacher."""
    paths = write_videos(root / "timed", videos=plan.videos, frames=plan.frames)
    network = random_network(0)
    weights = write_random_weights(root / "deeplabv3.pt")
    taught, epochs, _ = run_two_stage(lambda video: teach_clip(network, video, device="cpu"), paths, root, plan)
    precision = faster_precision("cpu")
    teacher = (
        f"teacher={{kind: echonet_deeplabv3, weights: {weights}, num_cpus: 2, max_actors: 1, precision: {precision}}}"
    )
    streams = {}
    for name in ("cold cache", "warm cache"):
        kept = ["teacher.frame_memory_mb=256", f"teacher.cache={root / 'cache'}"]
        options = [teacher, f"teacher.precision={precision}", *kept, "train.num_cpus=1"]
        rows = run_stream(root, name.replace(" ", "_"), "timed", plan, options)
        streams[name] = stream_seconds(rows, plan)
    return {"precision": precision, "taught": taught, "two_stage": epochs, "streams": streams}


def compare_students(root: Path, plan: Plan, *, cases: int) -> tuple[Interval, tuple[float, float]]:
    """Train a student with each method and the embedded teacher, and return `compare_dice`."""
    paths = write_videos(root / "judged", videos=plan.videos, frames=plan.frames)
    teacher = build_teacher(kind="embedded", weights="", device="cpu", batch_frames=1 << 20)  # one pass per clip
    _, _, student = run_two_stage(lambda video: lv_prob(teacher, video[None])[0], paths, root, plan)
    run_stream(root, "judged_run", "judged", plan, [])
    return compare_dice(student, load_streamed(root / "judged_run", steps=plan.steps), cases=cases)


def write_videos(root: Path, *, videos: int, frames: int) -> list[Path]:
    """Write phantom videos in EchoNet-Dynamic's layout. Returns their files."""
    from echodfkd.sources.phantom.source import default_phantom
    from tests.helpers.echonet import write_echonet_folder

    source = default_phantom(seed=3, num_frames=frames, fps=FPS, size=SIZE, case_frames=frames)
    write_echonet_folder(str(root), (source.clip(index) for index in range(videos)))
    return sorted((root / "Videos").glob("*.avi"))


def run_two_stage(
    teach: Callable[[np.ndarray], np.ndarray], paths: list[Path], root: Path, plan: Plan
) -> tuple[float, list[float], nn.Module]:
    """Run the two-stage method; ``teach`` maps a video uint8 (T, H, W) to probabilities.

    Returns:
        Seconds of teaching, seconds of training up to the end of each epoch, and the student.
    """
    masks = Path(tempfile.mkdtemp(dir=root))
    start = time.perf_counter()
    teach_to_disk(teach, paths, masks)
    taught_s = time.perf_counter() - start
    data = TaughtVideos(paths, masks, frames=WINDOW, seed=0)
    optimizer = OptimizerConfig()
    rates = [
        learning_rate(
            step,
            schedule=optimizer.schedule,
            base=optimizer.learning_rate,
            warmup_steps=optimizer.warmup_steps,
            total_steps=plan.steps,
            final_fraction=optimizer.final_fraction,
        )
        for step in range(plan.steps)
    ]
    torch.manual_seed(student_seed(0, "a"))
    student = build_student(**STUDENT.network)
    trained = train_from_disk(student, data, epochs=plan.epochs, batch=BATCH, rates=rates, seed=0)
    return taught_s, trained.epoch_s, trained.student


def run_stream(root: Path, name: str, data: str, plan: Plan, more: list[str]) -> RunRows:
    """Train the same student, from the same initial weights, with `jobs/distill.py` on the recorded videos."""
    options = [
        "source.kind=recorded",
        f"source.path={root / data}",
        f"window={{frames: {WINDOW}, fps: 0, size: {SIZE // 2}}}",
        f"students.a={{blocks: {STUDENT.blocks}, layers: {STUDENT.layers}}}",
        f"train={{steps: {plan.steps}, global_batch: {BATCH}, engine: plain, checkpoint_every: 100000}}",
        "evaluation.enabled=false",
    ]
    return distil([*options, *more], storage=str(root), name=name)


def stream_seconds(rows: RunRows, plan: Plan) -> dict[str, Any]:
    """Seconds from the run's start and from the teacher's first clip to the end of each epoch, to the end of the first
    update, and busy seconds by stage.
    """
    ends = np.maximum.accumulate(spans_of(rows, "students")[:, 1])
    begin, first = float(spans_of(rows, "teacher")[:, 0].min()), float(rows.run["first_step_s"])
    return {
        "s": seconds_by_epoch(ends, plan, start=float(ends[0]) - first),
        "steady_s": seconds_by_epoch(ends, plan, start=begin),
        "first_step_s": first,
        "busy": {stage: float(np.diff(spans_of(rows, stage)).sum()) for stage in ("source", "teacher", "students")},
    }


def seconds_by_epoch(ends: np.ndarray, plan: Plan, *, start: float) -> dict[int, float]:
    """Seconds from ``start`` to the last update of each epoch; ``ends`` are those of all updates."""
    per_epoch = plan.videos // BATCH
    return {epoch: float(ends[epoch * per_epoch - 1]) - start for epoch in range(1, plan.epochs + 1)}


def break_even(stream: dict[int, float], two: dict[int, float]) -> float:
    """Epoch after which both have taken equally long, extrapolated by mean seconds per epoch; infinity if never."""
    last = max(stream)
    first = two[1] - (two[last] - two[1]) / max(
        1, last - 1
    )  # the seconds of the two-stage method before its first epoch
    per_epoch = stream[last] / last - (two[last] - first) / last
    return first / per_epoch if per_epoch > 0 else math.inf


def load_streamed(run: Path, *, steps: int) -> nn.Module:
    """Load the student of a run's last checkpoint."""
    module = build_student(**STUDENT.network)
    path = f"{run}/checkpoints/step_{steps:08d}/a/student.safetensors"
    load_weights(module, read_student_file(path, option="benchmark").weights, what=path)
    return module


def compare_dice(two_stage: nn.Module, streamed: nn.Module, *, cases: int) -> tuple[Interval, tuple[float, float]]:
    """Paired difference of the students' mean Dice per held-out case, streamed minus two-stage, and both means."""
    from echodfkd.sources.phantom.source import default_phantom

    source = default_phantom(seed=10_007, num_frames=WINDOW, fps=FPS, size=SIZE // 2, case_frames=WINDOW)
    found: list[list[float]] = []
    for module in (two_stage.eval(), streamed.eval()):
        found.append([])
        for index in range(cases):
            clip = source.clip(index)
            assert clip.truth_labels is not None
            with torch.inference_mode():
                mask = (module(torch.from_numpy(clip.video[None])).mask_logits > 0)[0, :, 0].numpy()
            found[-1].append(float(dice(mask, clip.truth_labels == 1).mean()))
    apart = bootstrap_mean(np.array(found[1]) - np.array(found[0]), seed=0)
    return apart, (float(np.mean(found[0])), float(np.mean(found[1])))
