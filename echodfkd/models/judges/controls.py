"""Control masks, which cannot be right, for the judge's score.

A score that depends on the mask's place and shape is lower for every control. If a control scores as high as the mask
itself, the judge reacts to something else: to any black area, or only to the video.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
import torch.nn.functional as F

from echodfkd.models.judges.protocol import Judge

CONTROLS = ("unmasked", "inverse", "shifted", "random")
"""Their order, and their names behind ``judge_``."""


def control_scores(judge: Judge, video: np.ndarray, lv_mask: np.ndarray, *, name: str) -> dict[str, float]:
    """``judge_<control>``: the judge's score of each control mask.

    Args:
        judge: any judge.
        video: uint8 (T, H, W).
        lv_mask: bool (T, H, W), the mask under test.
        name: of the case; seeds the random mask, so that it is the same for every student.
    """
    return {
        f"judge_{control}": judge.score(video, mask)["judge_score"]
        for control, mask in control_masks(lv_mask, seed=zlib.crc32(name.encode())).items()
    }


def control_masks(lv_mask: np.ndarray, *, seed: int) -> dict[str, np.ndarray]:
    """The controls of a mask by name, bool (T, H, W).

    * unmasked: no pixel; the score of the bare video.
    * inverse: every other pixel.
    * shifted: moved by a quarter of each side towards the farther edge; pixels that leave the frame are lost.
    * random: in every frame as many pixels as the mask has, at the highest places of one smooth random field.
    """
    return {
        "unmasked": np.zeros_like(lv_mask),
        "inverse": ~lv_mask,
        "shifted": _shift(lv_mask),
        "random": _random(lv_mask, seed),
    }


def _shift(mask: np.ndarray) -> np.ndarray:
    moved = mask
    for axis in (1, 2):
        side = mask.shape[axis]
        places = np.nonzero(mask)[axis]
        down = len(places) == 0 or places.mean() < (side - 1) / 2
        moved = np.roll(moved, side // 4 if down else -(side // 4), axis=axis)
        entered = slice(0, side // 4) if down else slice(side - side // 4, side)
        moved[(slice(None),) * axis + (entered,)] = False
    return moved


def _random(mask: np.ndarray, seed: int) -> np.ndarray:
    H, W = mask.shape[1:]
    field = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 1, H, W)))
    width = 2 * max(1, min(H, W) // 16) + 1  # three passes of this width: grains of about a quarter of the frame
    for _ in range(3):
        field = F.avg_pool2d(F.pad(field, (width // 2,) * 4, mode="reflect"), width, stride=1)
    order = np.argsort(-field.numpy().ravel(), kind="stable")
    rank = np.empty(H * W, np.int64)
    rank[order] = np.arange(H * W)
    return rank.reshape(1, H, W) < mask.sum((1, 2))[:, None, None]
