"""Overlays of a machine and artefacts of a lossy codec: ECG trace, text, 8 x 8 blocks.

Legend: N clips, T frames, H rows, W columns.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

_GLYPHS = {"0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757"}
_GLYPHS |= {"7": "71122", "8": "75757", "9": "75717", "F": "74644", "R": "65655", "H": "55755", "Z": "71247"}
_GLYPHS |= {"C": "74447", "M": "57755", "P": "75744", " ": "00000"}
"""Five rows of three pixels each, as octal digits."""

_REFERENCE_SIDE = 112
"""Text is laid out on a frame of this side and scaled to others."""

LUMINANCE_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantisation table for luminance of ITU-T T.81 (1992), Annex K.1."""


def text_layer(lines: Sequence[str], size: int, *, right: bool) -> torch.Tensor:
    """Lines of text in the upper left or right corner, 0..1 float32 (size, size).

    Args:
        lines: of digits, spaces and the letters C, F, H, M, P, R, Z.
        size: side of the frame.
        right: in the right corner.
    """
    page = torch.zeros(_REFERENCE_SIDE, _REFERENCE_SIDE)
    for row, line in enumerate(lines):
        left = _REFERENCE_SIDE - 2 - 4 * len(line) if right else 2
        for place, letter in enumerate(line):
            top, column = 3 + 7 * row, left + 4 * place
            page[top : top + 5, column : column + 3] = _glyph(letter)
    if size < _REFERENCE_SIDE:
        return F.adaptive_avg_pool2d(page[None], size)[0]
    return F.interpolate(page[None, None], size=(size, size), mode="nearest")[0, 0]


@functools.cache
def _glyph(letter: str) -> torch.Tensor:
    return torch.tensor([[float(int(row) >> bit & 1) for bit in (2, 1, 0)] for row in _GLYPHS[letter]])


def ecg(phase: torch.Tensor) -> torch.Tensor:
    """A lead-II-like voltage, about -0.2 to 1, at phases counted from the R peak; P, Q, R, S and T as Gaussians."""
    turn = torch.remainder(phase + 0.5, 1.0) - 0.5
    wave = torch.zeros_like(turn)
    for centre, width, height in (
        (-0.17, 0.030, 0.14),
        (-0.028, 0.010, -0.12),
        (0.0, 0.012, 1.0),
        (0.03, 0.011, -0.22),
        (0.30, 0.050, 0.26),
    ):
        wave.add_(torch.exp(-0.5 * ((turn - centre) / width) ** 2), alpha=height)
    return wave


def draw_ecg(grey: torch.Tensor, phase: torch.Tensor, level: torch.Tensor) -> None:
    """Draw a scrolling trace of the last 2.5 beats into the lowest 14 % of the rows, in place.

    Args:
        grey: 0..1 (N, T, H, W).
        phase: (N, T, 1, 1), beats since an R peak.
        level: brightness (N, 1, 1, 1), 0 for a clip without a trace.
    """
    H, W = grey.shape[2:]
    band = max(6, round(0.14 * H))
    columns = torch.arange(W, dtype=grey.dtype, device=grey.device)
    past = (W - 1 - columns) * (2.5 / W)
    height = (band - 3) * (0.75 - 0.75 * ecg(phase[..., 0] - past)) + 1.0  # (N, T, W), rows from the band's top
    slope = (height - torch.roll(height, 1, dims=2)).abs()
    slope[..., 0] = 0.0
    rows = torch.arange(band, dtype=grey.dtype, device=grey.device)[:, None]
    thick = 0.6 + 0.5 * slope[:, :, None]
    cover = (thick + 0.5 - (rows - height[:, :, None]).abs()).clamp_(0.0, 1.0)
    part = grey[:, :, H - band :]
    part.add_(cover * level * (1.0 - part)).clamp_(0.0, 1.0)


@functools.cache
def _dct_basis() -> torch.Tensor:
    """Orthonormal DCT-II of 8 x 8 blocks as a float32 matrix (64, 64): flattened block -> coefficients."""
    n = torch.arange(8, dtype=torch.float64)
    basis = torch.cos(math.pi / 8.0 * (n + 0.5) * n[:, None]) * math.sqrt(2.0 / 8.0)
    basis[0] *= math.sqrt(0.5)
    return torch.kron(basis, basis).float()


def block_artefacts(grey: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Grey after quantisation of the DCT of 8 x 8 blocks, as JPEG does it (ITU-T T.81); not clipped.

    Args:
        grey: float32 0..255 (N, T, H, W).
        step: quantisation step of the lowest frequency (N, 1, 1, 1); others in the proportions of
            `LUMINANCE_STEPS`.
    """
    N, T, H, W = grey.shape
    down, right = -H % 8, -W % 8
    if down or right:
        grey = F.pad(grey, (0, right, 0, down), mode="replicate")
    rows, columns = (H + down) // 8, (W + right) // 8
    blocks = grey.view(N, T, rows, 8, columns, 8).transpose(3, 4).reshape(N, -1, 64)
    basis = _dct_basis().to(grey.device)
    table = torch.tensor(LUMINANCE_STEPS, dtype=grey.dtype, device=grey.device).view(1, 1, 64)
    steps = table * (step.view(N, 1, 1) / 16.0)
    coefficients = (blocks - 128.0) @ basis.T
    coefficients = coefficients.div_(steps).round_().mul_(steps)
    blocks = (coefficients @ basis).add_(128.0)
    image = blocks.view(N, T, rows, columns, 8, 8).transpose(3, 4).reshape(N, T, H + down, W + right)
    return image[:, :, :H, :W]
