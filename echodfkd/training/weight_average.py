"""An exponential moving average of a student's weights, which is published in their place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from echodfkd.models.archives.state_dicts import check_same_keys
from echodfkd.storage.checkpoints import copy_to_cpu


class WeightAverage:
    """a <- d a + (1 - d) w after every update, for every weight w and running statistic (Tarvainen and Valpola 2017).

    The decay d of update n (from 1) is min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage:
    smaller at first, so that the initial weights fade. It depends only on n, so that a checkpoint holds nothing but the
    average. Integers, such as BatchNorm's count, are those of the newest weights.

    Args:
        module: the student, with the initial weights.
        decay: above 0 and below 1.
        state: an average to go on from; None begins from the module's weights.

    Raises:
        InputError: ``state`` belongs to another architecture.
    """

    def __init__(self, module: nn.Module, decay: float, state: Mapping[str, torch.Tensor] | None) -> None:
        self.decay = decay
        self._values = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        if state is None:
            return
        own, stored = ({k: v.shape for k, v in tensors.items()} for tensors in (self._values, state))
        check_same_keys(own, stored, "the average")
        for name, tensor in state.items():
            self._values[name].copy_(tensor)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Add the weights after update ``step`` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self._values[name].lerp_(tensor, 1 - decay)
            else:
                self._values[name].copy_(tensor)

    def weights(self) -> dict[str, torch.Tensor]:
        """The average by name, on the CPU."""
        return {name: copy_to_cpu(tensor) for name, tensor in self._values.items()}
