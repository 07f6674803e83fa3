"""Normalisation layers whose result does not depend on how a batch is divided among processes.

Legend: N images, C channels, H rows, W columns, R processes.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import nn

MAX_GROUPS = 8


def build_norm(kind: str, num_channels: int) -> nn.Module:
    """`batch` gives a `SyncedBatchNorm2d`; `group` a GroupNorm with the most groups up to 8 that divide the channels.

    Raises:
        ValueError: another kind.
    """
    if kind == "batch":
        return SyncedBatchNorm2d(num_channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(MAX_GROUPS, num_channels), num_channels)
    raise ValueError(f"norm: got {kind!r}, allowed are batch, group")


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over the images of all processes, on CPU (gloo) and GPU (nccl) alike.

    In training, with torch.distributed initialised and more than one process, mean and variance are those
    of the whole batch, gradients flow through the exchange, and the running buffers follow the global
    statistics (unbiased variance with the global count, as torch does in one process). Otherwise this is
    torch's own layer, with the same state-dict keys.

    Each process sends its mean, centred sum of squares and count in one all-reduce, and the parts are
    combined as in Chan, Golub and LeVeque (1979): a plain sum of squares would lose digits if the mean
    is much larger than the deviation.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise (N, C, H, W); the dtype is kept, statistics are at least float32."""
        if not (self.training and self._num_processes() > 1):
            return super().forward(input)
        self._check_input_dim(input)
        x_NCHW = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        mean_C, var_C, count = self._global_statistics(x_NCHW)
        self._update_running(mean_C.detach(), var_C.detach(), count)
        scale_C = torch.rsqrt(var_C + self.eps)
        y_NCHW = (x_NCHW - mean_C.view(1, -1, 1, 1)) * scale_C.view(1, -1, 1, 1)
        if self.affine:
            y_NCHW = y_NCHW * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return y_NCHW.to(input.dtype)

    def _num_processes(self) -> int:
        if not (dist.is_available() and dist.is_initialized()):
            return 1
        return dist.get_world_size()

    def _global_statistics(self, x_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean (C,), biased variance (C,) and number of values per channel, over all processes."""
        from torch.distributed.nn.functional import all_reduce

        channels = x_NCHW.shape[1]
        own_mean_C = x_NCHW.mean(dim=(0, 2, 3))
        own_square_C = (x_NCHW - own_mean_C.view(1, -1, 1, 1)).square().sum(dim=(0, 2, 3))
        own_count = own_mean_C.new_full((1,), x_NCHW.numel() // channels)
        # A row per process, zero elsewhere: the sum of these tables is a gather whose backward is a sum too.
        rows = [own_mean_C.new_zeros(2 * channels + 1)] * self._num_processes()
        rows[dist.get_rank()] = torch.cat([own_mean_C, own_square_C, own_count])
        table = all_reduce(torch.stack(rows))
        mean_RC, square_RC, count_R1 = table.split([channels, channels, 1], dim=1)
        count_R1 = count_R1.detach()
        count = count_R1.sum()
        mean_C = (mean_RC * count_R1).sum(dim=0) / count
        between_C = ((mean_RC - mean_C).square() * count_R1).sum(dim=0)
        return mean_C, (square_RC.sum(dim=0) + between_C) / count, count

    @torch.no_grad()
    def _update_running(self, mean_C: torch.Tensor, var_C: torch.Tensor, count: torch.Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        unbiased_C = var_C * (count / (count - 1))
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased_C.to(self.running_var.dtype), momentum)
