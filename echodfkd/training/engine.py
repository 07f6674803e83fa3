"""The interface between the training loop and its engines, plain torch or DeepSpeed.

An engine owns one student: its forward pass, its gradients and its Adam (Kingma and Ba 2015). It averages gradients
over the workers, so that a loss that is already normalised over all workers is multiplied by `Engine.workers` before
`Engine.backward`. It writes no file: `Engine.weights` and `Engine.optimizer_state` return full fp32 tensors by name,
which any engine, ZeRO stage and number of workers can start from.

Legend: B clips, T frames, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from echodfkd.config.sections.training import OptimizerConfig, TrainConfig
from echodfkd.core.precision import PRECISIONS
from echodfkd.models.students.output import StudentOutput
from echodfkd.storage.checkpoints import TAP, OptimizerState


@dataclass(frozen=True)
class EngineSettings:
    """Settings of an engine.

    Attributes:
        optimizer: Adam's options. The engine's learning rate is an argument of `Engine.step`.
        train: engine, zero_stage, precision, accumulation and torch_adam are read.
        micro_batch: clips in one forward pass of one worker.
        device: where the student runs.
    """

    optimizer: OptimizerConfig
    train: TrainConfig
    micro_batch: int
    device: torch.device


def is_fused(device: torch.device) -> bool:
    """Whether to use torch's fused Adam: on a GPU, where a kernel per tensor would cost more than its work."""
    return device.type == "cuda"


def step_count(steps: int, device: torch.device) -> torch.Tensor:
    """Updates done so far, as torch's Adam keeps them: a float32 tensor, on the device if Adam `is_fused`."""
    return torch.tensor(float(steps), device=device if is_fused(device) else None)


class Engine(Protocol):
    """One student in training."""

    module: nn.Module
    """The student itself. Under ZeRO stage 3 its parameters are empty between passes."""
    workers: int
    """Workers whose gradients `step` averages: a loss normalised over all of them is multiplied by this."""

    def forward(self, *inputs: torch.Tensor) -> Any:
        """The student's output for uint8 video, computed in the engine's precision and cast to float32.

        Of another network, its output (a tensor) for its inputs.
        """
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of ``loss``. Called once per micro-batch, ``accumulation`` times before `step`."""
        ...

    def average_gradients(self) -> torch.Tensor | None:
        """Average the gradients over the workers, once before `step`; every worker must call it.

        Returns their norm before clipping, a scalar on the device, which the host has not waited for; None under ZeRO
        stages 1 to 3, whose update computes it. `step` must not be called if it is not finite.
        """
        ...

    def step(self, learning_rate: float) -> float | None:
        """Clip, update, and forget the gradients. Returns their norm if `average_gradients` returned None."""
        ...

    def zero_grad(self) -> None:
        """Forget the gradients gathered so far."""
        ...

    def weights(self) -> dict[str, torch.Tensor]:
        """Parameters (full, fp32) and buffers by name, on the CPU. Every worker must call it."""
        ...

    def optimizer_state(self) -> OptimizerState:
        """Adam's moments by parameter name, on the CPU; zeros before the first step. Every worker must call it."""
        ...


class PrecisionModule(nn.Module):
    """Runs a student, or another network whose output is a tensor, under autocast and returns float32 outputs.

    It sits inside the engine because DeepSpeed switches off an autocast that surrounds its forward pass,
    and its own mixed precision would send gradients in bfloat16.
    """

    def __init__(self, student: nn.Module, *, precision: str, device: torch.device) -> None:
        super().__init__()
        self.student = student
        assert precision in PRECISIONS
        self._bf16 = precision == "bf16"
        self._device_type = device.type

    def forward(self, *inputs: torch.Tensor) -> StudentOutput | torch.Tensor:
        """The output in float32, with the features of a student's tap if it has one."""
        with torch.autocast(self._device_type, dtype=torch.bfloat16, enabled=self._bf16):
            output: StudentOutput | torch.Tensor = self.student(*inputs)
            tap = getattr(self.student, TAP, None)
            if tap is not None and isinstance(output, StudentOutput):
                output = output._replace(features=tap(inputs[0].shape[1]))
        return output.float() if isinstance(output, torch.Tensor) else output.to_float32()
