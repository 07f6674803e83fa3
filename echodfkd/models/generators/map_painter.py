"""A small network that paints a picture around a given label map: the generator of adversarial distillation.

Legend: B clips, T frames, H rows, W columns, Z channels of noise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

_NOISE = 8
"""Z."""


class MapPainter(nn.Module):
    """Masks of the left ventricle (B, T, H, W) and noise to grey frames 0..255 of the same shape.

    Noise is a map of 1/8 of the frame's side, one for all frames of a clip, so that a picture moves with its mask only.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4 + _NOISE, width, 3, padding=1),
            nn.GroupNorm(4, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 5, padding=2),
            nn.GroupNorm(4, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 4, 3, padding=1),
        )

    def forward(self, mask_BTHW: torch.Tensor, noise_BZhw: torch.Tensor) -> torch.Tensor:
        """Frames as floats, so that a gradient goes through them."""
        B, T, H, W = mask_BTHW.shape
        folded = F.pixel_unshuffle(mask_BTHW.flatten(0, 1)[:, None].float(), 2)
        noise = F.interpolate(noise_BZhw, (H // 2, W // 2), mode="bilinear", align_corners=False)
        x = torch.cat([folded, noise.repeat_interleave(T, dim=0)], dim=1)
        return 255.0 * torch.sigmoid(F.pixel_shuffle(self.body(x), 2)).view(B, T, H, W)


def initial_painter() -> MapPainter:
    """The painter that every adversarial run starts with: the same weights in all processes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MapPainter()


def painter_noise(seeds: list[int], size: int) -> torch.Tensor:
    """Each clip's noise (B, Z, h, w) from its own seed, on the CPU."""
    side = max(1, size // 8)
    shape = (_NOISE, side, side)
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed & (2**64 - 1))) for seed in seeds]
    )
