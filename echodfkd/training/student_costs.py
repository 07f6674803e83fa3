"""What a student costs before it is built: bytes and multiply-accumulates, counted in tiny passes.

Legend: B clips, T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.objective import PLAIN_OBJECTIVE, TermConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import TrainConfig
from echodfkd.models.students.build import build_student
from echodfkd.training.engine import PrecisionModule
from echodfkd.training.feature_tap import attach_tap
from echodfkd.training.objective import BatchTensors, Objective, Totals

FLOAT_BYTES = 4
"""Weights, gradients and moments are fp32 whatever the precision of the forward pass."""


@dataclass(frozen=True)
class StudentCost:
    """One student: numbers of parameters, bytes of buffers, and for one micro-batch the bytes of activations that
    the forward pass keeps for the backward pass, and the multiply-accumulates of the forward pass.
    """

    parameters: int
    buffer_bytes: int
    activation_bytes: int
    macs: int

    def state_bytes(self, train: TrainConfig) -> int:
        """Bytes that one worker holds all the time: weights, gradients, Adam's two moments, buffers, and where weights
        are averaged (train.ema_decay) a copy of weights and buffers.

        ZeRO divides moments (stage 1, which also keeps a whole fp32 copy of the weights, divided), gradients
        (stage 2) and weights (stage 3, whose copy is the partition itself) by the number of workers (Rajbhandari et
        al. 2020).
        """
        stage = train.zero_stage if train.engine == "deepspeed" else 0
        share = 1 / train.workers
        weights = share if stage >= 3 else 1.0
        gradients = share if stage >= 2 else 1.0
        moments = 2 * (share if stage >= 1 else 1.0)
        copy = share if stage >= 1 else 0.0
        average = 1 if train.ema_decay else 0
        words = weights + gradients + moments + copy + average
        return round(FLOAT_BYTES * self.parameters * words) + (1 + average) * self.buffer_bytes


def round_clips(config: RunConfig) -> int:
    """Clips in one forward pass of one worker: a micro-batch, or where students are spread those of all workers."""
    return config.micro_batch * (config.train.workers if config.train.placement == "spread" else 1)


def measure_students(config: RunConfig) -> dict[str, StudentCost]:
    """The cost of every student of the run, by name, at its micro-batch and precision."""
    return {
        name: measure_student(
            student,
            clips=round_clips(config),
            frames=config.window.frames,
            size=config.window.size,
            precision=config.train.precision,
            feature_channels=(config.feature_shape or (0,))[0],
        )
        for name, student in config.students.items()
    }


def measure_student(
    student: StudentConfig, *, clips: int, frames: int, size: int, precision: str, feature_channels: int = 0
) -> StudentCost:
    """Count what a student's forward pass and loss save and compute, from passes over a few tiny clips on the CPU.

    What autograd saves is a + B * (c + d * H * W) bytes at a given number of frames: copies of weights, values
    per image, values per pixel. Three passes over 2 or 3 clips of a few pixels give a, c and d, which makes the
    count exact at any size, to the byte. A GPU's kernels save nearly the same. Counted are distinct storages,
    without the weights. Scratch space of convolutions and gradients on their way are not: train.memory_share
    leaves room for them.

    Args:
        student: its options.
        clips: B of the forward pass.
        frames: T.
        size: H = W.
        precision: fp32, or bf16 (autocast).
        feature_channels: of the teacher, where the objective has the term features; its maps are taken to be of the
            size of the student's deepest.
    """
    terms = student.objective or PLAIN_OBJECTIVE
    with torch.random.fork_rng(devices=[]):
        module = build_student(**asdict(student)).train()
        if "features" in terms:
            attach_tap(module, terms["features"], feature_channels)
    network = PrecisionModule(module, precision=precision, device=torch.device("cpu"))
    small = 2 ** (student.blocks - 1)  # one pixel in the deepest block

    def count(clips: int, scale: int) -> int:
        features = torch.zeros(clips, frames, feature_channels, scale, scale)
        return _saved_bytes(network, terms, features, size=scale * small)

    with FlopCounterMode(display=False) as counter:
        base = count(2, 1)
    larger, third = count(2, 2), count(3, 1)
    per_clip = third - base
    per_pixel = (larger - base) / (2 * 3 * small**2)
    return StudentCost(
        parameters=sum(p.numel() for p in module.parameters()),
        buffer_bytes=sum(b.numel() * b.element_size() for b in module.buffers()),
        activation_bytes=round(base - 2 * per_clip + clips * (per_clip + per_pixel * (size**2 - small**2))),
        macs=counter.get_total_flops() // 4 * clips * (size // small) ** 2,
    )


def _saved_bytes(
    network: nn.Module, terms: Mapping[str, TermConfig], features_BTFhw: torch.Tensor, *, size: int
) -> int:
    """Bytes that one forward pass and its loss, with these terms, save for the backward pass."""
    clips, frames = features_BTFhw.shape[:2]
    video_BTHW = torch.zeros(clips, frames, size, size, dtype=torch.uint8)
    saved = SavedBytes(network)
    with saved.counting():
        output = network(video_BTHW)
        logits = output if isinstance(output, torch.Tensor) else output.mask_logits
        classes = range(logits.shape[2]) if logits.ndim == 5 else ()
        masks, beat = torch.zeros(logits.shape), (torch.zeros(clips, frames), torch.zeros(clips))
        batch = BatchTensors(video_BTHW, masks, torch.ones(clips), *beat, torch.ones(logits.shape), features_BTFhw)
        loss = Objective(tuple(classes), 1.0, 1.0, terms)(output, batch, Totals(1.0, 1.0, 1.0))
    assert loss.requires_grad  # and so the graph is alive while its storages are counted
    return saved.total


class SavedBytes:
    """Counts the storages that autograd saves for the backward pass, each once, without a module's parameters."""

    def __init__(self, module: nn.Module) -> None:
        self._own = {_storage(parameter) for parameter in module.parameters()}
        self._sizes: dict[int, int] = {}

    @property
    def total(self) -> int:
        """Bytes saved so far."""
        return sum(self._sizes.values())

    def counting(self) -> torch.autograd.graph.saved_tensors_hooks:
        """A context whose operators are counted. The graph it leaves is for counting alone, not for a backward pass.

        Read `total` while the graph is alive: a freed storage's address may be used again.
        """

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if _storage(tensor) not in self._own:
                self._sizes[_storage(tensor)] = tensor.untyped_storage().nbytes()
            return tensor.detach()  # the tensor itself would hold the graph that holds it, and nothing would be freed

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
