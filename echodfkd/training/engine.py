"""What the training loop asks of an engine, and the one place that chooses between plain torch and DeepSpeed.

An engine owns one student: its forward pass, its gradients and its Adam. Both engines average gradients
over the workers that hold the student, so that a loss that is already normalised over all workers is multiplied
by `Engine.workers` before `Engine.backward`. Neither writes files: `Engine.weights` and `Engine.optimizer_state`
hand out full fp32 tensors by name, which any engine, ZeRO stage and number of workers can start from.

Legend: B clips, T frames, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from echodfkd.models.students.output import StudentOutput
from echodfkd.storage.checkpoints import TAP, OptimizerState


@dataclass(frozen=True)
class AdamSettings:
    """Settings of Adam (Kingma and Ba 2015).

    Weight decay is an L2 term of the gradient, as in torch's Adam, or where ``decoupled`` that of AdamW (Loshchilov and
    Hutter 2019): every parameter, biases and norms too, loses learning rate * weight_decay of itself per update.
    """

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    decoupled: bool
    clip_norm: float
    """Largest global gradient norm; 0 does not clip."""


def is_fused(device: torch.device) -> bool:
    """Whether torch's Adam is one kernel for all tensors of a student: on a GPU, where they are too small for more."""
    return device.type == "cuda"


def step_count(steps: int, device: torch.device) -> torch.Tensor:
    """Updates done so far, float32, where torch's Adam looks for them: in the device's memory where it `is_fused`."""
    return torch.tensor(float(steps), device=device if is_fused(device) else None)


class Engine(Protocol):
    """One student in training."""

    module: nn.Module
    """The student itself. Under ZeRO stage 3 its parameters are empty between passes."""
    workers: int
    """Workers whose gradients `step` averages: a loss normalised over all of them is multiplied by this."""

    def forward(self, video_BTHW: torch.Tensor) -> StudentOutput:
        """The student's output for uint8 video, computed in the engine's precision and cast to float32."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of ``loss``. Called once per micro-batch, ``accumulation`` times before `step`."""
        ...

    def average_gradients(self) -> torch.Tensor | None:
        """Average the gradients over the workers, once before `step`; every worker must call it.

        Returns their norm before clipping, a scalar on the device that nobody has waited for: `step` must not be
        called where it is not finite. None where only the update itself tells it (ZeRO stages 1 to 3).
        """
        ...

    def step(self, learning_rate: float) -> float | None:
        """Clip, update, forget the gradients. Returns their norm where `average_gradients` did not."""
        ...

    def zero_grad(self) -> None:
        """Forget the gradients gathered so far."""
        ...

    def weights(self) -> dict[str, torch.Tensor]:
        """Parameters (full, fp32) and buffers by name, on the CPU. Every worker must call it."""
        ...

    def optimizer_state(self) -> OptimizerState:
        """Adam's moments by parameter name, on the CPU. Every worker must call it."""
        ...


class PrecisionModule(nn.Module):
    """Runs a student under autocast and returns float32 outputs.

    It sits inside the engine because DeepSpeed switches off an autocast that surrounds its forward pass,
    and its own mixed precision would send gradients in bfloat16.
    """

    def __init__(self, student: nn.Module, *, precision: str, device: torch.device) -> None:
        super().__init__()
        self.student = student
        self._bf16 = precision == "bf16"
        self._device_type = device.type

    def forward(self, video_BTHW: torch.Tensor) -> StudentOutput:
        """The student's output in float32, with the features of its tap if it has one."""
        with torch.autocast(self._device_type, dtype=torch.bfloat16, enabled=self._bf16):
            output: StudentOutput = self.student(video_BTHW)
            tap = getattr(self.student, TAP, None)
            if tap is not None:
                output = output._replace(features=tap(video_BTHW.shape[1]))
        return output.to_float32()
