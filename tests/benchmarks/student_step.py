"""A training step of the students: our recurrent cell against the authors' formulation of the same maths."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from echodfkd.losses.targets import soft_mask_bce
from echodfkd.models.students.build import build_student
from echodfkd.models.students.convlstm_cell import RecurrentConv2d
from echodfkd.runtime.cluster.host_memory import kept_memory
from tests.benchmarks.authors_student import authors_student
from tests.benchmarks.timing import (
    Ratio,
    Report,
    Stopwatch,
    Works,
    copy_bytes,
    exact_products,
    interleave,
    matmul_flops,
    process_apart,
    works_apart,
)
from tests.helpers.costs import authors_macs_per_frame

FILTERS = 12
LEARNING_RATE = 1e-3
TARGETS = {"cpu": {"fp32": 1.0, "bf16": 1.6}, "cuda": {"fp32": 3.0, "bf16": 6.0}}
"""Required speed-up of a step over the authors' formulation in float32, at 56 x 56. On a GPU our step is replayed from
a CUDA graph."""
SAME_LOSS = {"fp32": 1e-4, "bf16": 2e-3}
"""Limit of the relative difference to the authors' float32 loss over a short training run. In exact arithmetic it is
0; rounding errors grow from step to step."""


@dataclass(frozen=True)
class Setting:
    """One student and one batch size."""

    blocks: int
    layers: int
    size: int
    clips: int
    frames: int

    def __str__(self) -> str:
        """Its name in the table."""
        return f"{self.blocks}x{self.layers}, {self.clips} clips x {self.frames} frames, {self.size} x {self.size}"


def settings(device: str, *, quick: bool) -> list[Setting]:
    """The settings to measure. On a CPU, 112 x 112 takes a quarter of the clips."""
    frames = 6 if quick else 25
    many, few = (32, 32) if device != "cpu" else (4, 1) if quick else (32, 8)
    students = ((3, 1), (1, 2))
    return [Setting(*kn, size, clips, frames) for size, clips in ((56, many), (112, few)) for kn in students]


class Training:
    """Trains one student on one batch: forward pass, backward pass, Adam.

    Args:
        student: the network, trained in place.
        video: (B, T, H, W) grey uint8.
        target_prob: (B, T, H, W) floating, 0..1.
        bf16: autocast to bfloat16.
        graph: capture the step into a CUDA graph and replay it.
    """

    def __init__(
        self, student: nn.Module, video: torch.Tensor, target_prob: torch.Tensor, *, bf16: bool, graph: bool = False
    ) -> None:
        self.device = video.device.type
        self.student = student.to(video.device).train()
        self.video, self.target_prob, self.bf16 = video, target_prob, bf16
        self.weight = torch.ones(len(video), device=video.device)
        self.adam = torch.optim.Adam(student.parameters(), lr=LEARNING_RATE, capturable=self.device != "cpu")
        self.loss = torch.zeros((), device=video.device)
        self._replay = self._captured() if graph else None

    def forward(self) -> torch.Tensor:
        """The loss."""
        # autocast's cache of cast weights would outlive a captured graph's memory
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.bf16, cache_enabled=False):
            logits = self.student(self.video).mask_logits[:, :, 0]
        return soft_mask_bce(logits.float(), self.target_prob, self.weight, total_weight=float(len(self.weight)))

    def timed_step(self) -> tuple[float, float]:
        """Seconds of the forward pass (NaN if a graph replays the step) and of the whole step."""
        watch = Stopwatch(self.device)
        start = watch.mark()
        if self._replay is not None:
            self._replay()
            return float("nan"), watch.seconds(start, watch.mark())
        self.loss = self.forward()
        half = watch.mark()
        self._update()
        return watch.seconds(start, half), watch.seconds(start, watch.mark())

    def _update(self) -> None:
        self.adam.zero_grad(set_to_none=True)
        self.loss.backward()
        self.adam.step()
        self.loss = self.loss.detach()

    def _captured(self) -> Callable[[], None]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # warm up: memory is allocated and algorithms are chosen before the capture
            for _ in range(3):
                self.loss = self.forward()
                self._update()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.loss = self.forward()
            self._update()
        return graph.replay


def student_step(report: Report, *, quick: bool) -> dict[str, Any]:
    """Training step of our recurrent cell against the authors' formulation, float32 and bfloat16."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peaks = {"fp32": matmul_flops(device, torch.float32), "bf16": matmul_flops(device, torch.bfloat16)}
    copy_rate = copy_bytes(device)
    report(
        f"best of this device: matmul {peaks['fp32'] / 1e9:.0f} GFLOP/s float32, {peaks['bf16'] / 1e9:.0f} bfloat16;"
        f" copy {copy_rate / 1e9:.1f} GB/s"
    )
    report("times faster than the authors' formulation in the same precision (forward, step) and in float32 (step):")
    rows = [
        row
        for setting in settings(device, quick=quick)
        for row in compare(
            setting,
            device,
            report,
            rounds=2 if quick else 3 if device == "cpu" else 20,
            peaks=peaks,
            copy_rate=copy_rate,
        )
    ]
    with exact_products():
        agreement = same_losses(device, steps=5 if quick else 15)
    for precision, difference in agreement.items():
        report(f"losses of a short training run, {precision}: largest relative difference {difference:.1e}")
    decisive = {p: [row for row in rows if row["size"] == 56 and row["precision"] == p] for p in ("fp32", "bf16")}
    key = "graph_vs_authors_fp32" if device != "cpu" else "step_vs_authors_fp32"
    ratio = {p: min(row[key]["median"] for row in chosen) for p, chosen in decisive.items()}
    targets = TARGETS[device]
    agrees = all(agreement[p] <= SAME_LOSS[p] for p in targets)
    holds = agrees and all(row[key]["low"] >= targets[p] for p in targets for row in decisive[p])
    return {
        "value": round(ratio["fp32"], 3),
        "unit": "times the authors' formulation, float32 training step at 56 x 56, the worse student",
        "ratio": {p: round(value, 3) for p, value in ratio.items()},
        "target": targets,
        "holds": holds,
        "agrees": agrees,
        "device": device,
        "loss_difference": agreement,
        "loss_limit": SAME_LOSS,
        "peak_flops": peaks,
        "copy_bytes_per_s": copy_rate,
        "rows": rows,
    }


def compare(
    setting: Setting, device: str, report: Report, *, rounds: int, peaks: dict[str, float], copy_rate: float
) -> list[dict[str, Any]]:
    """Time both formulations in turn, and on a GPU our step as a CUDA graph too. Returns one row per precision.

    Ours runs in a process with the environment of a run's workers, the authors' in this one.
    """
    torch.manual_seed(0)
    student = build_student(blocks=setting.blocks, layers=setting.layers, filters=FILTERS, norm="batch")
    shape = (setting.clips, setting.frames, setting.size, setting.size)
    video, target_prob = torch.randint(0, 256, shape, dtype=torch.uint8), torch.rand(shape)
    works = {
        f"authors_{precision}": Training(
            authors_student(student), video.to(device), target_prob.to(device), bf16=precision == "bf16"
        ).timed_step
        for precision in ("fp32", "bf16")
    }
    with process_apart(kept_memory()) as there:
        times = interleave({**works, **works_apart(there, our_steps, student, video, target_prob, device)}, rounds)
    forward = {name: [round_[0] for round_ in rounds_] for name, rounds_ in times.items()}
    step = {name: [round_[1] for round_ in rounds_] for name, rounds_ in times.items()}
    rows = []
    for precision in ("fp32", "bf16"):
        ratios = {
            "forward_vs_authors": Ratio.of(forward[f"authors_{precision}"], forward[f"ours_{precision}"]),
            "step_vs_authors": Ratio.of(step[f"authors_{precision}"], step[f"ours_{precision}"]),
            "step_vs_authors_fp32": Ratio.of(step["authors_fp32"], step[f"ours_{precision}"]),
        }
        best = f"ours_{precision}"
        if device != "cpu":
            best = f"graph_{precision}"
            ratios["graph_vs_authors_fp32"] = Ratio.of(step["authors_fp32"], step[best])
        seconds = min(step[best])
        floor = least_seconds(student, setting, precision, peak=peaks[precision], copy_rate=copy_rate)
        report(
            f"{setting!s:<48} {precision}  " + "  ".join(f"{r}" for r in ratios.values())
            + f"  {seconds * 1e3:.0f} ms, {100 * floor / seconds:.0f} % of the ceiling"
        )  # fmt: skip
        rows.append(
            {
                **asdict(setting),
                "precision": precision,
                **{name: asdict(ratio) for name, ratio in ratios.items()},
                "seconds": {name: min(step[name]) for name in (f"authors_{precision}", best)},
                "least_seconds": floor,
            }
        )
    del works
    gc.collect()
    return rows


def our_steps(student: nn.Module, video: torch.Tensor, target_prob: torch.Tensor, device: str) -> Works:
    """Our step in each precision; on a GPU, captured into a CUDA graph too."""
    works = {}
    for precision in ("fp32", "bf16"):
        for name in ("ours",) if device == "cpu" else ("ours", "graph"):
            inputs = video.to(device), target_prob.to(device)
            training = Training(copy.deepcopy(student), *inputs, bf16=precision == "bf16", graph=name == "graph")
            works[f"{name}_{precision}"] = training.timed_step
    return works


def least_seconds(student: nn.Module, setting: Setting, precision: str, *, peak: float, copy_rate: float) -> float:
    """Lower bound of a step at the device's measured rates: the longer of arithmetic and memory traffic.

    Arithmetic: two operations per multiply-accumulate, once forward and twice backward. Memory: in each recurrent layer
    the input, the output, the gates and the cell state once per pass, and the gradients of input and output.
    """
    per_frame = authors_macs_per_frame(setting.blocks, setting.layers, FILTERS, setting.size)
    macs = per_frame * setting.clips * setting.frames
    item = 2 if precision == "bf16" else 4
    traffic, side = 0, setting.size
    cells = [module for module in student.modules() if isinstance(module, RecurrentConv2d)]
    for number, cell in enumerate(cells):
        Z, C = cell.hidden_channels, cell.in_channels - cell.hidden_channels
        side = setting.size >> (number // setting.layers)
        traffic += side**2 * (item * (3 * C + 11 * Z) + 8 * Z) * setting.clips * setting.frames
    return max(6.0 * macs / peak, traffic / copy_rate)


def same_losses(device: str, *, steps: int) -> dict[str, float]:
    """Largest relative difference of our losses to the authors' float32 ones, over a short training run on phantoms."""
    from echodfkd.sources.phantom.source import default_phantom

    source = default_phantom(seed=5, num_frames=8, fps=32.0, size=56, case_frames=8)
    clips = [source.clip(index) for index in range(4)]
    video = torch.from_numpy(np.stack([clip.video for clip in clips])).to(device)
    labels = np.stack([clip.truth_labels for clip in clips if clip.truth_labels is not None])
    target_prob = torch.from_numpy((labels == 1).astype(np.float32)).to(device)
    torch.manual_seed(1)
    student = build_student(blocks=3, layers=1, filters=FILTERS, norm="batch")
    losses: dict[str, list[float]] = {}
    for name, twin, bf16 in (
        ("authors", authors_student(student), False),
        ("fp32", copy.deepcopy(student), False),
        ("bf16", copy.deepcopy(student), True),
    ):
        training = Training(twin, video, target_prob, bf16=bf16)
        losses[name] = []
        for _ in range(steps):
            training.timed_step()
            losses[name].append(float(training.loss))
    reference = np.array(losses.pop("authors"))
    return {name: float(np.abs(np.array(own) / reference - 1.0).max()) for name, own in losses.items()}
