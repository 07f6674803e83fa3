"""A patient in, a wild clip out: video and truth as functions of the patient's key, conditions and rate.

Legend: T frames, H = W = size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from echodfkd.sources.phantom.draws import Draws, gaussian_texture
from echodfkd.sources.phantom.image import compress
from echodfkd.sources.phantom.renderer import Patient
from echodfkd.sources.phantom.truth import find_events
from echodfkd.sources.phantom.view import breath_cycle
from echodfkd.sources.phantom.wild.furniture import finish, furniture
from echodfkd.sources.phantom.wild.heart import draw_shape
from echodfkd.sources.phantom.wild.levels import draw_levels
from echodfkd.sources.phantom.wild.machine import moving_shadows, place_heart, prepare, read_tissue, set_up
from echodfkd.sources.phantom.wild.paint import WildCanvas, WildChart
from echodfkd.sources.phantom.wild.ranges import WildDraws, WildRanges
from echodfkd.sources.phantom.wild.rhythm import draw_rhythm

_PIXELS = 1 << 17
"""Pixels computed at once: the data of an operation then stay in the cache."""


@dataclass(frozen=True)
class WildClip:
    """``video`` and ``labels`` are uint8 (T, H, W); ``phase``, ``volume_ml`` and ``mitral_open`` (0 .. 1) are (T,)."""

    video: torch.Tensor
    labels: torch.Tensor
    phase: torch.Tensor
    volume_ml: torch.Tensor
    mitral_open: torch.Tensor
    spacing_mm: float
    ed_frames: tuple[int, ...]
    es_frames: tuple[int, ...]


@torch.inference_mode()
def render_wild(patient: Patient, *, num_frames: int, size: int, ranges: WildRanges | None = None) -> WildClip:
    """Render ``num_frames`` frames of ``size`` x ``size`` pixels of one patient."""
    key = patient.key
    draw = WildDraws(key, ranges or WildRanges())
    rhythm = draw_rhythm(
        patient.conditions, key, draw, fps=patient.fps, num_frames=num_frames, start=patient.start_phase
    )
    shape = draw_shape(patient.conditions, rhythm, draw)
    levels = draw_levels(draw)
    place, side = place_heart(shape, rhythm, draw, key)
    machine = set_up(side, draw, size)
    still = prepare(machine, draw, key, levels.of["around"])
    layer = furniture(machine, draw)
    warp = _warp(key, size, draw("warp"))
    breath = breath_cycle(rhythm.seconds[None], Draws([key]))[0]
    visible = still.sector[0, 0] > 0.5
    video = torch.empty(num_frames, size, size, dtype=torch.uint8)
    labels = torch.empty_like(video)
    step = max(1, _PIXELS // size**2)
    for first in range(0, num_frames, step):
        part = slice(first, min(first + step, num_frames))
        tilt, x, y = (value[part].float()[:, None, None] for value in (place.tilt, place.apex_x, place.apex_y))
        x, y = machine.grid.x[0] + warp[0] - x, machine.grid.y[0] + warp[1] - y
        cos, sin = torch.cos(tilt), torch.sin(tilt)
        u, v = (x * cos - y * sin) / place.stretch_u, (x * sin + y * cos) / place.stretch_v
        chart = WildChart(u, v, shape, part, levels)
        labels[part] = chart.labels(visible)
        speckle, slow = read_tissue(u, v, shape, part, place, machine, still)
        pixel, valve = float(machine.grid.pixel), rhythm.valve[part].float()[:, None, None]
        level = WildCanvas(chart, levels, draw, pixel, still.haze[0], slow, valve).paint_all()
        level.sub_(moving_shadows(machine, draw, breath[part]))
        numbers = torch.arange(part.start, part.stop, dtype=torch.int32)
        grey = compress(level[None], speckle[None], still, machine, numbers)
        video[part] = finish(grey, still.sector, layer, rhythm.phase[part], draw)
    if draw.chance("mirrored"):
        video, labels = video.flip(2), labels.flip(2)
    ed_frames, es_frames = find_events(rhythm.phase, rhythm.volume_ml, rhythm.end_systole)
    curves = rhythm.phase, rhythm.volume_ml, rhythm.valve
    return WildClip(video, labels, *curves, side / size, ed_frames, es_frames)


def _warp(key: int, size: int, amount: float) -> torch.Tensor:
    """A smooth displacement in mm (2, H, W), the same in all frames."""
    field = gaussian_texture(Draws([key]).counters("wild warp", torch.device("cpu")), 8, 8, 0.9)
    return F.interpolate(field, size=(size, size), mode="bicubic", align_corners=False)[0] * amount
