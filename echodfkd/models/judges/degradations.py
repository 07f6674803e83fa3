"""Degradations of a truth mask, to train the judge and to measure its agreement with Dice.

Legend: N frames, H rows, W columns. All masks are bool (N, H, W).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from echodfkd.models.judges.protocol import REFERENCE_SIDE, dilate


def erode(mask_NHW: torch.Tensor, radius: int) -> torch.Tensor:
    """Erosion by a square of side 2 * radius + 1; outside counts as full, so that the border does not erode."""
    return ~dilate(~mask_NHW, radius)


def shift(mask_NHW: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """The mask moved by whole pixels; those that leave the frame are lost."""
    H, W = mask_NHW.shape[1:]
    moved = torch.zeros_like(mask_NHW)
    rows, columns = slice(max(down, 0), H + min(down, 0)), slice(max(right, 0), W + min(right, 0))
    moved[:, rows, columns] = mask_NHW[:, max(-down, 0) : H - max(down, 0), max(-right, 0) : W - max(right, 0)]
    return moved


def wobble(mask_NHW: torch.Tensor, amount: float, grain: int, generator: torch.Generator) -> torch.Tensor:
    """A wavy border like that of a student's mask: the blurred mask plus smooth noise, cut at one half.

    Args:
        mask_NHW: the masks.
        amount: standard deviation of the noise, against a step of 1 at the border.
        grain: pixels between independent values of the noise.
        generator: source of the noise.
    """
    N, H, W = mask_NHW.shape
    width = max(3, 2 * round(5 * H / REFERENCE_SIDE) + 1)
    soft = F.avg_pool2d(mask_NHW[:, None].float(), width, stride=1, padding=width // 2)
    coarse = torch.randn(N, 1, max(2, H // grain), max(2, W // grain), generator=generator)
    noise = F.interpolate(coarse, size=(H, W), mode="bicubic", align_corners=False)
    return (soft + amount * noise)[:, 0] > 0.5


def ellipse(N: int, H: int, W: int, generator: torch.Generator) -> torch.Tensor:
    """One ellipse per frame, anywhere, of 4 to 25 % of the side as semi-axes."""
    u = torch.rand(5, N, 1, 1, generator=generator)
    y = torch.arange(H).view(1, H, 1) - u[0] * H
    x = torch.arange(W).view(1, 1, W) - u[1] * W
    a, b = (0.04 + 0.21 * u[2]) * H, (0.04 + 0.21 * u[3]) * W
    angle = u[4] * math.pi
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    return (along / a) ** 2 + (across / b) ** 2 < 1


def halve(mask_NHW: torch.Tensor, keep: float, angle: float) -> torch.Tensor:
    """The share ``keep`` of each mask on one side of a line at ``angle`` (rad)."""
    N, H, W = mask_NHW.shape
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    along = (x * math.cos(angle) + y * math.sin(angle)).float().expand(N, H, W)
    cut = torch.stack(
        [
            torch.quantile(row[mask], keep) if mask.any() else row.max()
            for row, mask in zip(along, mask_NHW, strict=True)
        ]
    )
    return mask_NHW & (along <= cut.view(N, 1, 1))


def random_mask(mask_NHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One random degradation of the frames' masks, from none to an unrelated mask."""
    N, H, W = mask_NHW.shape
    px = H / REFERENCE_SIDE

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    kind = int(torch.randint(0, 20, (), generator=generator))
    if kind < 3:
        return mask_NHW
    if kind < 6:
        return dilate(mask_NHW, max(1, round(uniform(1, 16) * px)))
    if kind < 8:
        return erode(mask_NHW, max(1, round(uniform(1, 12) * px)))
    if kind < 11:
        angle, far = uniform(0, 2 * math.pi), uniform(2, 40) * px
        return shift(mask_NHW, round(far * math.sin(angle)), round(far * math.cos(angle)))
    if kind < 14:
        return wobble(mask_NHW, uniform(0.05, 0.7), max(2, round(uniform(6, 24) * px)), generator)
    if kind == 14:
        return mask_NHW.roll(1, dims=0)
    if kind == 15:
        return halve(mask_NHW, uniform(0.2, 0.95), uniform(0, 2 * math.pi))
    if kind == 16:
        return ellipse(N, H, W, generator)
    if kind == 17:
        return mask_NHW | ellipse(N, H, W, generator)
    if kind == 18:
        return torch.zeros_like(mask_NHW)
    return ~mask_NHW if uniform(0, 1) < 0.7 else torch.ones_like(mask_NHW)
