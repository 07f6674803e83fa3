"""Move a still as the left ventricle of its label maps moves.

Along every ray from the ventricle's centre, the distances to its inner and outer wall in a frame are brought back to
those of the first frame, and what lies between follows in proportion; beyond the wall the shift fades out. The wall of
the moved still then lies upon that of each frame's map, if the ventricle shows every wall point to its centre.

Legend: T frames, H rows, W columns, A rays.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from echodfkd.core.records import CHAMBER_NAMES

RAYS, SAMPLES = 180, 256
FADE = 0.6
"""Width of the zone beyond the wall in which the shift fades out, as a share of the wall's distance."""
LV, WALL = CHAMBER_NAMES.index("LV"), CHAMBER_NAMES.index("myocardium")


def move_still(still_HW: torch.Tensor, labels_THW: np.ndarray) -> torch.Tensor:
    """Grey levels (T, H, W) in the still's size.

    Args:
        still_HW: the frame that belongs to the first map.
        labels_THW: structure codes; frames without a ventricle show the still as it is.
    """
    H, W = still_HW.shape
    rows, columns = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    size = torch.tensor([H, W]) / torch.tensor(labels_THW.shape[1:])
    start = _outline(labels_THW[0], size)
    frames = []
    for labels in labels_THW:
        now = _outline(labels, size)
        if start is None or now is None:
            frames.append(still_HW)
            continue
        frames.append(_pull(still_HW, (rows, columns), now, start))
    return torch.stack(frames)


_Outline = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Centre (row, column), and distances (A,) to the inner and the outer wall, in the still's pixels."""


def _outline(labels_HW: np.ndarray, size: torch.Tensor) -> _Outline | None:
    cavity = torch.from_numpy(labels_HW == LV)
    if not cavity.any():
        return None
    heart = cavity | torch.from_numpy(labels_HW == WALL)
    centre = (cavity.nonzero().float() + 0.5).mean(dim=0)
    angles = torch.arange(RAYS) * (2 * math.pi / RAYS)
    reach = float(np.hypot(*labels_HW.shape))
    distances = torch.arange(1, SAMPLES + 1) * (reach / SAMPLES)
    direction = torch.stack([angles.sin(), angles.cos()], dim=-1) / size  # a ray that is straight in the still
    points = centre + distances[None, :, None] * direction[:, None, :]
    inside = (points >= 0).all(-1) & (points < torch.tensor(labels_HW.shape)).all(-1)
    rows, columns = (points[..., k].long().clamp(0, labels_HW.shape[k] - 1) for k in (0, 1))
    walls = [torch.where(mask[rows, columns] & inside, distances, 0.0).amax(dim=1) for mask in (cavity, heart)]
    return centre * size, walls[0].clamp(min=1e-3), walls[1].clamp(min=2e-3)


def _pull(
    still: torch.Tensor, places: tuple[torch.Tensor, torch.Tensor], now: _Outline, start: _Outline
) -> torch.Tensor:
    """The still's grey levels, fetched for every pixel from its place in the first frame."""
    rows, columns = places
    dr, dc = rows - now[0][0], columns - now[0][1]
    distance = torch.hypot(dr, dc)
    angle = torch.atan2(dr, dc) % (2 * math.pi)
    inner, outer, inner_0, outer_0 = (_at(walls, angle) for walls in (*now[1:], *start[1:]))
    outer, outer_0 = torch.maximum(outer, inner + 1e-3), torch.maximum(outer_0, inner_0 + 1e-3)
    within = distance * inner_0 / inner
    between = inner_0 + (distance - inner) * (outer_0 - inner_0) / (outer - inner)
    beyond = distance + (outer_0 - outer)
    fetched = torch.where(distance <= inner, within, torch.where(distance <= outer, between, beyond))
    fade = (1 - (distance - outer) / (FADE * outer)).clamp(0, 1)  # 1 up to the wall
    source_r = rows + fade * (start[0][0] + fetched * torch.sin(angle) - rows)
    source_c = columns + fade * (start[0][1] + fetched * torch.cos(angle) - columns)
    H, W = still.shape
    grid = torch.stack([2 * source_c / W - 1, 2 * source_r / H - 1], dim=-1)
    moved = F.grid_sample(still[None, None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)
    return moved[0, 0]


def _at(walls_A: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    place = angle * (RAYS / (2 * math.pi))
    first = place.floor().long() % RAYS
    return torch.lerp(walls_A[first], walls_A[(first + 1) % RAYS], place - place.floor())
