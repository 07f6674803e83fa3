"""Truth of a phantom clip beside its label map: landmark points and the frames of its events.

Legend: N clips, T frames, K landmarks.
"""

from __future__ import annotations

import torch

from echodfkd.sources.phantom.anatomy import Anatomy, Motion
from echodfkd.sources.phantom.view import Optics, Pose

LANDMARKS = ("apex", "septal_annulus", "lateral_annulus", "mitral_centre", "tricuspid_hinge", "papillary_tip")
"""Names of the landmark points; in A2C septal is inferior, lateral anterior, and there is no tricuspid hinge (NaN)."""


def find_events(
    phase: torch.Tensor, volume_ml: torch.Tensor, end_systole: float
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """End-diastolic and end-systolic frames of one clip: largest and smallest volume near each event it holds.

    Volumes are constant in the isovolumic phases; of equal ones the frame nearest to the event is taken: mitral closure
    (the R peak) for ED, aortic closure for ES.

    Args:
        phase: (T,), beats since an end-diastole.
        volume_ml: (T,).
        end_systole: its phase.

    Returns:
        Frame numbers of ED and of ES, ascending; empty if the clip holds no such event.
    """
    found: tuple[list[int], list[int]] = ([], [])
    phases, volumes = phase.tolist(), volume_ml.tolist()
    spread = max(volumes) - min(volumes) + 1e-9
    for sign, offset, frames in ((1.0, 0.0, found[0]), (-1.0, end_systole, found[1])):
        for beat in range(int(phases[0] // 1.0) - 1, int(phases[-1] // 1.0) + 2):
            event = beat + offset
            if not phases[0] <= event <= phases[-1]:
                continue
            near = [frame for frame, place in enumerate(phases) if abs(place - event) <= 0.15]
            if near:
                best = max(sign * volumes[frame] for frame in near)
                equal = [frame for frame in near if best - sign * volumes[frame] <= 1e-3 * spread]
                frames.append(min(equal, key=lambda frame: abs(phases[frame] - event)))
    return tuple(found[0]), tuple(found[1])


def landmarks(anatomy: Anatomy, motion: Motion, optics: Optics, pose: Pose, size: int) -> torch.Tensor:
    """Columns and rows (N, T, K, 2) of `LANDMARKS` in a frame of ``size`` pixels, float64."""
    ring = anatomy.annulus[:, None] * motion.half_width
    face = motion.half_width + motion.wall * (1.0 + anatomy.asymmetry[:, None])
    slope, zero = anatomy.base_slope[:, None] * ring, torch.zeros_like(ring)
    hidden = torch.where(anatomy.four_chamber > 0.0, 0.0, torch.nan)[:, None]
    papillary = (anatomy.papillary_level[:, None] + 0.12 * motion.twist) * motion.length
    tip = 0.80 * motion.half_width - anatomy.papillary[:, None]
    u = torch.stack([zero, -ring, ring, zero, -face + hidden, tip], dim=2)
    hinge = motion.length - anatomy.tricuspid_shift[:, None]
    v = torch.stack([zero, motion.length - slope, motion.length + slope, motion.length, hinge, papillary], dim=2)
    u, v = u / pose.stretch_u[:, :, None], v / pose.stretch_v[:, :, None]
    cos, sin = pose.cos[:, :, None], pose.sin[:, :, None]
    x = u * cos + v * sin + pose.apex_x[:, :, None] + optics.probe_x[:, None, None]
    y = v * cos - u * sin + pose.apex_y[:, :, None] + optics.probe_y[:, None, None]
    return torch.stack([x, y], dim=3) * (size / optics.side)[:, None, None, None] - 0.5
