"""How far clips are from a teacher's training data, by the statistics that its batch normalisation kept.

d = sum over the layers of |m - m_bn| + |v - v_bn|, with mean and variance of a clip's feature maps before the layer and
the layer's running values, both vectors over the channels (Sun and Wu 2025, arXiv 2512.13175, there of one layer; Yin
et al. 2020). Each layer is divided by the norm of its own values, so that no layer outweighs the others.

Legend: N frames, C channels of a layer, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from echodfkd.core.errors import InputError


class BatchStatistics:
    """Reads the layers of a network in evaluation mode.

    Args:
        network: of the teacher.
        named: how its option and it are called, for the error.

    Raises:
        InputError: no layer keeps running statistics.
    """

    def __init__(self, network: nn.Module, named: str) -> None:
        self._layers = [
            layer
            for layer in network.modules()
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None
        ]
        if not self._layers:
            raise InputError(
                f"{named} keeps no batch statistics (it has no batch normalisation), so that no clip"
                " can be chosen by them; take a teacher with batch normalisation"
            )
        self._seen: list[torch.Tensor] = []

    @contextmanager
    def watching(self, num_clips: int) -> Iterator[BatchStatistics]:
        """Watch one pass of the network over the frames of so many clips, one clip after the other."""
        self._seen = []

        def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            features = inputs[0].unflatten(0, (num_clips, -1))
            axes = (1, *range(3, features.dim()))
            variance, mean = torch.var_mean(features, axes, correction=0)
            kept_mean, kept_variance = layer.running_mean, layer.running_var
            assert isinstance(kept_mean, torch.Tensor)
            assert isinstance(kept_variance, torch.Tensor)
            gap = (mean - kept_mean).norm(dim=1) / kept_mean.norm().clamp(min=1e-6)
            gap = gap + (variance - kept_variance).norm(dim=1) / kept_variance.norm().clamp(min=1e-6)
            self._seen.append(gap)

        hooks = [layer.register_forward_pre_hook(note) for layer in self._layers]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def distances(self) -> torch.Tensor:
        """The distance of each clip of the last pass, (clips,), averaged over the layers; with its gradient."""
        return torch.stack(self._seen).mean(dim=0)
