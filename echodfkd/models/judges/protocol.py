"""The auxiliary judge: a pair of image and text towers that scores masks without truth.

The score is the one that EchoDFKD's authors compute with EchoCLIP, as their text describes it (their code
applies neither the dilated mask nor separate frames):

    mean_t sim(V_masked, "WALL") + mean_t sim(V_dilated, "NOTHING") - mean_t sim(V_dilated, "LEFT VENTRICLE")

V_masked are the frames with the mask blacked out, V_dilated those with the dilated mask blacked out, and sim
is the cosine of L2-normalised embeddings. A tight mask leaves the walls, and its dilation leaves no evidence
of the ventricle. Any pair of towers goes through `MaskJudge`; `judge_reading.ReadingJudge` also reads videos.

Legend: N captions or frames, T frames, H rows, W columns, E embedding width.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

PROMPTS = ("WALL", "NOTHING", "LEFT VENTRICLE")
DILATION_PX = 2
"""Radius of the authors' 5 x 5 dilation, in pixels of a frame of `REFERENCE_SIDE`."""
REFERENCE_SIDE = 112
CHUNK_FRAMES = 256


class Judge(Protocol):
    """A model that scores a mask on its video, without truth."""

    judge_id: str

    def score(self, video: np.ndarray, lv_mask: np.ndarray) -> dict[str, float]:
        """Scores of a uint8 video (T, H, W) and its bool LV mask (T, H, W), "judge_score" among them."""
        ...


class TwoTowers(Protocol):
    """Image and text towers into one space. Both return unit vectors, float (N, E)."""

    def embed_frames(self, frames_NHW: torch.Tensor) -> torch.Tensor:
        """Embed grey frames, uint8 (N, H, W)."""
        ...

    def embed_captions(self, captions: list[str]) -> torch.Tensor:
        """Embed N captions."""
        ...


class MaskJudge:
    """Scores masks with any two towers. The prompts are embedded once, here.

    Args:
        towers: image and text tower.
        judge_id: name and a hash of the weights.
        prompts: captions in the order of `PROMPTS`, the published ones.
    """

    def __init__(self, towers: TwoTowers, *, judge_id: str, prompts: tuple[str, str, str] = PROMPTS) -> None:
        self.judge_id = judge_id
        self._towers = towers
        with torch.inference_mode():
            self._prompts = towers.embed_captions(list(prompts))

    @torch.inference_mode()
    def score(self, video: np.ndarray, lv_mask: np.ndarray) -> dict[str, float]:
        """The score and its three terms, each a mean over the frames.

        Args:
            video: uint8 (T, H, W), grey.
            lv_mask: bool (T, H, W).

        Returns:
            judge_score = judge_wall + judge_nothing - judge_left_ventricle; each term lies in -1 .. 1.

        Raises:
            ValueError: shapes or dtypes do not fit, or there is no frame.
        """
        if video.ndim != 3 or video.shape != lv_mask.shape or not len(video):
            raise ValueError(f"video {video.shape} and lv_mask {lv_mask.shape} must both be (T, H, W) with T > 0")
        if video.dtype != np.uint8 or lv_mask.dtype != np.bool_:
            raise ValueError(f"video must be uint8 and lv_mask bool, got {video.dtype} and {lv_mask.dtype}")
        frames, mask = torch.from_numpy(np.ascontiguousarray(video)), torch.from_numpy(np.ascontiguousarray(lv_mask))
        radius = dilation_radius(*video.shape[1:])
        wall = self._similarity(frames.masked_fill(mask, 0))[0]
        _, nothing, ventricle = self._similarity(frames.masked_fill(dilate(mask, radius), 0))
        return {
            "judge_score": wall + nothing - ventricle,
            "judge_wall": wall,
            "judge_nothing": nothing,
            "judge_left_ventricle": ventricle,
        }

    def _similarity(self, frames_NHW: torch.Tensor) -> list[float]:
        """Mean cosine between the frames and each prompt."""
        sums = torch.zeros(len(PROMPTS), dtype=torch.float64)
        for chunk in frames_NHW.split(CHUNK_FRAMES):
            sums += (self._towers.embed_frames(chunk) @ self._prompts.T).double().sum(dim=0).cpu()
        return (sums / len(frames_NHW)).tolist()


def dilation_radius(height: int, width: int) -> int:
    """Radius in pixels of the square that dilates masks.

    2 (a 5 x 5 square) at 112 pixels, as the authors have it, in proportion to the shorter side of other
    frames, and at least 1: 1 at 56, 4 at 224.
    """
    return max(1, round(DILATION_PX * min(height, width) / REFERENCE_SIDE))


def dilate(mask_NHW: torch.Tensor, radius: int) -> torch.Tensor:
    """Each frame's mask, bool (N, H, W), dilated by a square of side 2 * radius + 1; outside counts as empty."""
    side = 2 * radius + 1  # a square's maximum is that of its rows, then of its columns
    grown = F.max_pool2d(mask_NHW[:, None].float(), (1, side), stride=1, padding=(0, radius))
    grown = F.max_pool2d(grown, (side, 1), stride=1, padding=(radius, 0))
    return grown[:, 0] > 0
