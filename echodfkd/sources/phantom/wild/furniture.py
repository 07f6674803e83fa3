"""What a machine draws on its picture, and what storing the picture does to it.

Legend: T frames, H = W = size. Grey 0..1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from echodfkd.sources.phantom.overlays import block_artefacts, draw_ecg, text_layer
from echodfkd.sources.phantom.wild.machine import Machine
from echodfkd.sources.phantom.wild.ranges import WildDraws

_FINE = 2
"""Furniture is drawn this many times finer than the picture, so that its lines have soft edges."""
_LETTERS = "0123456789CFHMPRZ "


def furniture(machine: Machine, draw: WildDraws) -> torch.Tensor:
    """Ruler, probe mark, calipers, colour bar and text of a clip, 0..1 float32 (H, W)."""
    from PIL import Image, ImageDraw  # here only: the phantom is also measured where Pillow is missing

    size = machine.grid.size
    page = Image.new("L", (size * _FINE, size * _FINE))
    pen = _Pen(ImageDraw.Draw(page), machine, draw)
    for name in ("ruler", "probe_mark", "calipers", "colour_bar"):
        if draw.chance(name):
            getattr(pen, name)()
    layer = torch.from_numpy(np.asarray(page.resize((size, size), Image.Resampling.BOX), dtype=np.float32)) / 255.0
    if draw.chance("text"):
        lines = [
            "".join(_LETTERS[int(draw.between(f"letter {row} {place}", 0, len(_LETTERS)))] for place in range(7))
            for row in range(1 + int(draw.between("lines", 0, 4)))
        ]
        text = text_layer(lines, size, right=draw.share("text side") < 0.4)
        if draw.share("text end") < 0.3:
            text = torch.roll(text, int(draw.between("text shift", 0.3, 0.75) * size), 0)
        layer = torch.maximum(layer, text * draw("ink", 1))
    return layer


class _Pen:
    """Draws furniture in coordinates of the sector."""

    def __init__(self, page: Any, machine: Machine, draw: WildDraws) -> None:
        self._page, self._machine, self._draw = page, machine, draw
        self._unit = machine.grid.size * _FINE / machine.side  # pixels a mm
        self._wide = max(1, round(machine.grid.size * _FINE / 110 * draw.between("pen", 0.5, 1.6)))

    def _ink(self, number: int) -> int:
        return int(255 * self._draw("ink", number))

    def _at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point in mm from the probe."""
        grid = self._machine.grid
        return (x - float(grid.x[0, 0, 0, 0])) * self._unit, (y - float(grid.y[0, 0, 0, 0])) * self._unit

    def ruler(self) -> None:
        """Ticks of depth, along the right edge of the sector or of the picture, with or without their line."""
        draw, machine, ink = self._draw, self._machine, self._ink(2)
        side, step = machine.side, 10.0 * (1 + int(2 * draw.share("tick step")))
        first, last = draw.between("ruler first", 0.0, 0.5), draw.between("ruler last", 0.6, 1.1)
        slanted = draw.share("ruler kind") < 0.5
        away = draw.between("ruler away", 2.0, 12.0)

        def point(depth: float, out: float) -> tuple[float, float]:
            if slanted:
                sin, cos = math.sin(machine.right), math.cos(machine.right)
                return self._at(depth * sin + (away + out) * cos, depth * cos - (away + out) * sin)
            return self._at(side * 0.97 + float(machine.grid.x[0, 0, 0, 0]) - out, depth)

        if draw.share("ruler line") < 0.6:
            self._page.line([point(first * side, 0), point(last * side, 0)], fill=ink, width=self._wide)
        depth = step * math.ceil(first * side / step)
        while depth < last * side:
            self._page.line([point(depth, 0.0), point(depth, 0.018 * side)], fill=ink, width=self._wide)
            depth += step

    def probe_mark(self) -> None:
        """A dot or letter beside the probe."""
        place = self._draw.between("mark", -0.04, 0.10) * self._machine.side
        x, y = self._at(place, self._draw.between("mark height", -0.04, 0.02) * self._machine.side)
        half = self._draw.between("mark size", 0.006, 0.022) * self._machine.grid.size * _FINE
        kind = self._draw.share("mark kind")
        shape = self._page.ellipse if kind < 0.6 else self._page.rectangle
        shape([x - half, y - half, x + half, y + half], fill=self._ink(3))

    def calipers(self) -> None:
        """Crosses, joined by dots."""
        size, draw = self._machine.grid.size * _FINE, self._draw
        ends = [
            (draw.between(f"caliper {n} x", 0.2, 0.8) * size, draw.between(f"{n} y", 0.1, 0.9) * size) for n in "ab"
        ]
        half = 0.02 * size
        for x, y in ends:
            self._page.line([x - half, y, x + half, y], fill=self._ink(4), width=self._wide)
            self._page.line([x, y - half, x, y + half], fill=self._ink(4), width=self._wide)
        for share in np.linspace(0.0, 1.0, 14):
            x, y = (a + (b - a) * share for a, b in zip(*ends, strict=True))
            self._page.rectangle([x, y, x + 0.9 * self._wide, y + 0.9 * self._wide], fill=self._ink(4))

    def colour_bar(self) -> None:
        """A grey ramp at one edge."""
        size, draw = self._machine.grid.size * _FINE, self._draw
        wide, left = draw.between("bar width", 0.015, 0.05) * size, draw.share("bar side") < 0.5
        x = 0.01 * size if left else 0.99 * size - wide
        top, tall = draw.between("bar top", 0.02, 0.3) * size, draw.between("bar height", 0.2, 0.6) * size
        rows = max(2, int(tall))
        for row in range(rows):
            self._page.line([x, top + row, x + wide, top + row], fill=255 * (rows - row) // rows)


def finish(
    grey: torch.Tensor, sector: torch.Tensor, layer: torch.Tensor, phase: torch.Tensor, draw: WildDraws
) -> torch.Tensor:
    """Video uint8 (T, H, W) of grey (1, T, H, W): outside, furniture, ECG, scaling, sharpening, codec.

    Args:
        grey: the picture, black outside the sector; overwritten.
        sector: share of each pixel in the sector (1, 1, H, W).
        layer: `furniture`.
        phase: beats (T,), for the ECG.
        draw: numbers of the clip.
    """
    if draw.chance("outside"):
        grey.add_((1.0 - sector) * draw("outside_level"))
    grey = _scale(grey, draw)
    amount = draw("sharpen")
    if abs(amount) > 0.15:
        soft = F.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False)
        grey = (
            torch.lerp(grey, soft, -amount) if amount < 0.0 else grey.add_(grey - soft, alpha=amount).clamp_(0.0, 1.0)
        )
    grey = torch.maximum(grey, layer)
    if draw.chance("ecg"):
        draw_ecg(grey, phase.float().view(1, -1, 1, 1), torch.tensor(draw("ink", 5)).view(1, 1, 1, 1))
    grey = block_artefacts(grey.mul_(255.0), torch.tensor([draw("jpeg")]))
    return grey[0].round_().clamp_(0.0, 255.0).to(torch.uint8)


def _scale(grey: torch.Tensor, draw: WildDraws) -> torch.Tensor:
    """The picture after it was stored smaller and enlarged again, in some clips."""
    if not draw.chance("reduced"):
        return grey
    size = grey.shape[-1]
    small = max(16, round(size * draw("reduction")))
    mode = "nearest" if draw.share("reduction kind") < 0.15 else "bilinear"
    corners = {} if mode == "nearest" else {"align_corners": False}
    grey = F.interpolate(grey, size=(small, small), mode=mode, **corners)
    return F.interpolate(grey, size=(size, size), mode="bilinear", align_corners=False)
