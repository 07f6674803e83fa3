"""Rhythm of a wild clip: regular, premature beats, pauses, atrial fibrillation; volume of the ventricle over time."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from echodfkd.core.records import Conditions
from echodfkd.sources.phantom.anatomy import Timing, condition, draw_timing, ejected_fraction
from echodfkd.sources.phantom.draws import Draws
from echodfkd.sources.phantom.wild.ranges import WildDraws


@dataclass(frozen=True)
class Rhythm:
    """One clip over time, each (T,) float64.

    ``phase`` counts beats since an end-diastole, ``end_systole`` is its phase in every beat. ``ejected`` is 0 at
    end-diastole and 1 at end-systole, ``valve`` the opening of the mitral valve.
    """

    seconds: torch.Tensor
    phase: torch.Tensor
    ejected: torch.Tensor
    volume_ml: torch.Tensor
    valve: torch.Tensor
    end_systole: float


def draw_rhythm(
    conditions: Conditions, key: int, draw: WildDraws, *, fps: float, num_frames: int, start: float | None
) -> Rhythm:
    """Beats of a clip that starts ``start`` beats after an end-diastole, or anywhere in a beat if it is None."""
    rate = condition([conditions], "heart_rate_bpm")
    edv, esv = (float(condition([conditions], name)) for name in ("edv_ml", "esv_ml"))
    timing = draw_timing(rate, Draws([key]))
    end = float(timing.end_systole)
    beat = 60.0 / float(rate)
    lengths, filled = _beats(draw, beat, num_frames / fps, float(timing.filling_end))
    first = draw.share("start") if start is None else start
    ends = torch.cumsum(lengths, 0)
    seconds = torch.arange(num_frames, dtype=torch.float64) / fps + first * beat
    number = torch.searchsorted(ends, seconds.clamp(min=0.0), right=True).clamp(max=len(lengths) - 2)
    since = seconds - (ends - lengths)[number]
    phase = number + _phase_in_beat(since / beat, lengths[number] / beat, float(timing.filling_end))
    ejected = _ejected(phase, timing, draw)
    turn = torch.remainder(phase, 1.0)
    step = 0.008  # of a beat, for the slope of the filling curve
    inflow = (_ejected(phase - step, timing, draw) - _ejected(phase + step, timing, draw)) / (2.0 * step)
    filling = (turn > float(timing.filling_start)) & (turn < 1.0 - step)
    valve = torch.sqrt((0.05 + inflow / 3.0).clamp(0.0, 1.0)) * filling
    # A beat that was filled badly starts from a smaller volume and ejects less.
    edv_now, edv_next = edv * filled[number], edv * filled[number + 1]
    esv_now = edv_now - (edv - esv) * filled[number] ** 2
    top = torch.where(turn < end, edv_now, edv_next)
    return Rhythm(seconds, phase, ejected, esv_now + (top - esv_now) * (1.0 - ejected), valve, end)


def _ejected(phase: torch.Tensor, timing: Timing, draw: WildDraws) -> torch.Tensor:
    """Ejected share of the stroke volume (T,); without an atrial kick in atrial fibrillation."""
    ejected = ejected_fraction(phase[None], timing)[0]
    if not draw.chance("fibrillation"):
        return ejected
    early = float(timing.early_share)  # rapid filling gives all of it
    refilled = ((ejected - (1.0 - early)) / early).clamp(min=0.0)
    return torch.where(torch.remainder(phase, 1.0) > float(timing.end_systole), refilled, ejected)


def _beats(draw: WildDraws, beat: float, seconds: float, least: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Lengths in s of the beats that cover the clip and two more, and the filling of each, 1 if whole.

    ``least`` is the share of a regular beat that systole and rapid filling take: a third of the rest must be left, or
    the atrial kick would be a jump.
    """
    count = int(seconds / (0.6 * beat)) + 5
    fibrillates, premature, pauses = (draw.chance(name) for name in ("fibrillation", "premature", "pause"))
    spread = 0.28 if fibrillates else draw("irregular")
    relative = [1.0 + spread * draw.between(f"beat {number}", -1.0, 1.0) for number in range(count)]
    early = draw.between("premature place", 0.0, 5.0)
    for number in range(int(early) if premature else count, count - 1, 5):
        relative[number] = draw.between(f"coupling {number}", 0.62, 0.8)
        relative[number + 1] = 2.0 - relative[number] + draw.between(f"compensation {number}", -0.1, 0.1)
    if pauses:
        relative[int(draw.between("pause place", 0.0, 4.0))] = draw.between("pause length", 1.6, 2.6)
    lengths = torch.tensor(relative, dtype=torch.float64).clamp(min=least + 0.35 * (1.0 - least))
    before = torch.cat([lengths[:1], lengths[:-1]])
    return lengths * beat, (1.0 - 0.35 * (1.0 - before).clamp(min=0.0)).clamp(0.7, 1.0)


def _phase_in_beat(since: torch.Tensor, length: torch.Tensor, systole: float) -> torch.Tensor:
    """Phase 0..1 at ``since`` regular beats: systole and rapid filling keep their time, the rest takes what remains."""
    late = systole + (since - systole) * (1.0 - systole) / (length - systole)
    return torch.where(since < systole, since, late.clamp(max=1.0 - 1e-9))
