"""Clips that a student does not know, by kind: made from clips that it knows, drawn, or cut out of photographs.

Legend: T frames, H = W rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import skimage.data
import torch

from echodfkd.sources.phantom.draws import Draws, clip_key
from echodfkd.sources.phantom.image import compress, read_polar, speckle_power
from echodfkd.sources.phantom.view import breath_cycle
from echodfkd.sources.phantom.wild.furniture import finish, furniture
from echodfkd.sources.phantom.wild.machine import prepare, set_up
from echodfkd.sources.phantom.wild.ranges import WildDraws, WildRanges
from echodfkd.sources.video.windows import sample_video

Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""Video uint8 (T, H, W) and the ventricle's mask (H, W) of any frame -> the odd video."""
PHOTOGRAPHS = (
    *("astronaut", "camera", "chelsea", "coffee", "coins", "brick", "grass", "gravel", "moon", "rocket"),
    *("immunohistochemistry", "hubble_deep_field", "cell", "retina", "horse"),
)
"""Pictures inside scikit-image's package."""
SCENES = ("no heart", "short axis", "long axis", "vessel")
"""Drawn by `scene`."""
_EDGE_MM = 0.8


def _black(video: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 1 + rng.integers(6), video.shape).astype(np.uint8)


def _still(video: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One frame, with the noise of a codec."""
    most = rng.integers(3)
    return (video[:1].astype(int) + rng.integers(-most, most + 1, video.shape)).clip(0, 255).astype(np.uint8)


def _noise(video: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(rng.uniform(60, 160), rng.uniform(10, 60), video.shape).clip(0, 255).astype(np.uint8)


def _other_chambers(video: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The part of the picture below the ventricle: the atria."""
    side = len(mask)
    base = int(np.flatnonzero(mask.any(1)).max()) + 1 if mask.any() else side // 2
    cut = max(side - base, side // 5)
    return _zoom(video, side - cut, int(rng.integers(0, side - cut + 1)), cut)


def _too_large(video: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A third to a half of the picture's side, around the ventricle."""
    side = len(mask)
    cut = int(side * rng.uniform(0.35, 0.5))
    y, x = (int(places.mean()) for places in np.nonzero(mask)) if mask.any() else (side // 2, side // 2)
    top, left = (int(np.clip(place - cut // 2, 0, side - cut)) for place in (y, x))
    return _zoom(video, top, left, cut)


def _too_small(video: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture at a quarter to a half of its side, on black."""
    side = len(mask)
    small = int(side * rng.uniform(0.25, 0.5))
    top, left = rng.integers(0, side - small, 2)
    found = np.zeros_like(video)
    found[:, top : top + small, left : left + small] = _resized(video, small)
    return found


def _zoom(video: np.ndarray, top: int, left: int, cut: int) -> np.ndarray:
    return _resized(video[:, top : top + cut, left : left + cut], video.shape[1])


def _resized(video: np.ndarray, side: int) -> np.ndarray:
    how = cv2.INTER_AREA if side < video.shape[1] else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (side, side), interpolation=how) for frame in video])


CHANGES: dict[str, Change] = {
    "black": _black,
    "still": _still,
    "noise": _noise,
    "shuffled": lambda video, mask, rng: video[rng.permutation(len(video))],
    "upside down": lambda video, mask, rng: np.ascontiguousarray(video[:, ::-1]),
    "three times too fast": lambda video, mask, rng: np.concatenate([video[::3]] * 3)[: len(video)],
    "three times too slow": lambda video, mask, rng: sample_video(video, np.arange(len(video)) / 3.0),
    "other chambers": _other_chambers,
    "too large": _too_large,
    "too small": _too_small,
}
"""Kinds that are made from a clip that the student knows."""


def photograph(number: int, frames: int, side: int, *, kind: str) -> np.ndarray:
    """A camera that moves over a picture of ``kind`` photograph or text: uint8 (T, side, side)."""
    rng = np.random.default_rng(number)
    name = PHOTOGRAPHS[number % len(PHOTOGRAPHS)] if kind == "photograph" else ("page", "text")[number % 2]
    picture = grey_picture(getattr(skimage.data, name)())
    return pan(255.0 - picture if kind == "text" and number % 4 < 2 else picture, frames, side, rng)


def grey_picture(picture: np.ndarray) -> np.ndarray:
    """A picture of any kind as grey levels, float64 (rows, columns), 0..255."""
    values = picture.astype(np.float64)
    if values.ndim == 3:
        values = values[..., :3] @ np.array([0.299, 0.587, 0.114])
    return values * 255.0 / max(1e-9, float(values.max()))


def pan(picture: np.ndarray, frames: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """A window that sways over a picture and zooms, 32 frames a second: uint8 (T, side, side)."""
    height, width = picture.shape
    window = min(height, width) * rng.uniform(0.4, 0.85)
    middle = rng.uniform(window / 2, width - window / 2), rng.uniform(window / 2, height - window / 2)
    pace, start = rng.uniform(0.2, 1.2, 3), rng.uniform(0.0, 2.0 * math.pi, 3)
    found = []
    for t in range(frames):
        sway = np.sin(2.0 * math.pi * pace * t / 32.0 + start)
        cut = window * (1.0 + 0.08 * sway[2])
        x, y = (place + 0.1 * window * part - cut / 2 for place, part in zip(middle, sway, strict=False))
        zoom = side / cut
        move = np.array([[zoom, 0.0, -x * zoom], [0.0, zoom, -y * zoom]])
        found.append(cv2.warpAffine(picture, move, (side, side), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT))
    return np.rint(np.stack(found)).clip(0, 255).astype(np.uint8)


@torch.inference_mode()
def scene(kind: str, number: int, frames: int, side: int) -> np.ndarray:
    """One of `SCENES` through the machine of the domain `wild`, 32 frames a second: uint8 (T, side, side)."""
    key = clip_key("odd", kind, number)
    draw = WildDraws(key, WildRanges())
    machine = set_up(draw.between("scene side", 110.0, 190.0), draw, side)
    still = prepare(machine, draw, key, draw.between("scene around", -45.0, -18.0))
    seconds = torch.arange(frames, dtype=torch.float64) / 32.0
    phase = seconds * draw.between("scene rate", 0.8, 1.8) + draw.share("scene start")
    ejected = (0.5 - 0.5 * torch.cos(2.0 * math.pi * phase)).float().view(1, -1, 1, 1)
    breath = draw.between("scene breath", 0.5, 4.0) * breath_cycle(seconds[None], Draws([key]))[0]
    breath = breath.float().view(1, -1, 1, 1)
    x, y = (axis.expand(1, frames, side, side) for axis in (machine.grid.x - breath, machine.grid.y - 0.5 * breath))
    level = still.haze[0].expand(1, frames, side, side)
    for distance, echo in _structures(kind, draw, x, y, ejected):
        level = torch.lerp(level, torch.full_like(level, echo), torch.sigmoid(-distance / _EDGE_MM))
    speckle = speckle_power(read_polar(still.texture, x, y, machine, machine.grid))
    grey = compress(level.clone(), speckle, still, machine, torch.arange(frames, dtype=torch.int32))
    return finish(grey, still.sector, furniture(machine, draw), phase.float(), draw).numpy()


def _structures(
    kind: str, draw: WildDraws, x: torch.Tensor, y: torch.Tensor, ejected: torch.Tensor
) -> list[tuple[torch.Tensor, float]]:
    """Distance from the border in mm, negative inside, and level in dB, from the back to the front."""
    blood, wall = draw.between("scene blood", -62.0, -42.0), draw.between("scene wall", -26.0, -10.0)
    shortening = 1.0 - draw.between("scene shortening", 0.15, 0.4) * ejected
    lean = draw.between("scene lean", -0.45, 0.1)
    x, y = x - draw.between("scene x", -10.0, 25.0), y - draw.between("scene y", 50.0, 80.0)
    along, across = x * math.cos(lean) + y * math.sin(lean), y * math.cos(lean) - x * math.sin(lean)
    if kind == "short axis":
        rest, thick = draw.between("scene radius", 18.0, 30.0), draw.between("scene thick", 7.0, 12.0)
        inner = rest * shortening
        outer = torch.sqrt(inner.square() + (rest + thick) ** 2 - rest**2)
        right = torch.hypot(x + 0.9 * outer, y + 0.3 * outer) - 1.05 * outer
        radius = torch.hypot(x, y)
        return [(right - 4.0, wall), (right, blood), (radius - outer, wall), (radius - inner, blood)]
    if kind == "long axis":
        length, rest = draw.between("scene length", 38.0, 50.0), draw.between("scene radius", 16.0, 25.0)
        width, thick = rest * shortening, draw.between("scene thick", 8.0, 13.0)
        atrium = torch.hypot((along - length - 14.0) / 24.0, (across - 12.0) / 20.0).sub(1.0).mul(20.0)
        right = torch.hypot(along / 60.0, (across + width + thick + 9.0) / 9.0).sub(1.0).mul(9.0)
        ventricle = torch.hypot(along / length, across / width).sub(1.0).mul(width)
        return [(right, blood), (ventricle - thick, wall), (atrium - 3.0, wall), (atrium, blood), (ventricle, blood)]
    if kind == "vessel":
        half = draw.between("scene half", 6.0, 14.0) * (1.0 - 0.05 * ejected)
        return [(across.abs() - half - 2.0, -12.0), (across.abs() - half, blood)]
    return []
