"""The auxiliary judge: a pair of image and text towers that scores masks without any truth.

The score is the one that EchoDFKD's authors compute with EchoCLIP, as their text describes it (their code
applies neither the dilated mask nor separate frames):

    mean_t sim(V_masked, "WALL") + mean_t sim(V_dilated, "NOTHING") - mean_t sim(V_dilated, "LEFT VENTRICLE")

V_masked are the frames with the mask blacked out, V_dilated those with the dilated mask blacked out, and sim
is the cosine of L2-normalised embeddings. A tight mask leaves the walls, and its dilation leaves no evidence
of the ventricle. Any pair of towers goes through `MaskJudge`; `EmbeddedJudge` brings the small pair that
ships with this package, trained on phantom clips alone (`echodfkd.training.contrastive`).

Legend: N captions or frames, T frames, H rows, W columns, E embedding width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.errors import InputError

PROMPTS = ("WALL", "NOTHING", "LEFT VENTRICLE")
DILATION_PX = 2
"""Radius of the authors' 5 x 5 dilation, in pixels of a frame of `REFERENCE_SIDE`."""
REFERENCE_SIDE = 112
WEIGHTS = Path(__file__).parents[1] / "weights" / "embedded_judge.safetensors"
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


class ImageTower(nn.Module):
    """Frames of 56 x 56 to a vector: a residual convolutional network with group norm."""

    side = 56
    widths = (24, 48, 64)

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for before, width in zip((8, *self.widths), self.widths, strict=False):
            stride = 1 if before == 8 else 2
            self.stages.append(nn.ModuleList([_convolve(before, width, stride), _convolve(width, width, 1)]))
        cells = (self.side // 2 ** len(self.stages)) ** 2
        self.head = nn.Sequential(
            nn.Conv2d(self.widths[-1], 32, 1), nn.SiLU(), nn.Flatten(), nn.Linear(32 * cells, embedding)
        )

    def forward(self, frames_NHW: torch.Tensor) -> torch.Tensor:
        """Unit vectors (N, E) of grey frames (N, H, W), 0..255, of any size."""
        x = frames_NHW[:, None].float()
        # A second channel marks pixels that are exactly black: blood is dark, a blackout is zero.
        x = torch.cat([(x - 32.5) / 50.0, (x == 0).float()], dim=1)
        if x.shape[-2:] != (self.side, self.side):
            x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", align_corners=False, antialias=True)
        x = F.pixel_unshuffle(x, 2)  # the first convolutions then run on a quarter of the pixels
        for stage in self.stages:
            down, same = cast(nn.ModuleList, stage)
            x = down(x)
            x = x + same(x)
        return F.normalize(self.head(x), dim=-1)


def _convolve(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.GroupNorm(8, after), nn.SiLU())


class TextTower(nn.Module):
    """Captions to a vector: bytes, a position code, two convolutions over them, the mean over characters."""

    max_bytes = 64

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.byte = nn.Embedding(256, 64)
        self.position = nn.Parameter(torch.randn(self.max_bytes, 64) * 0.02)
        self.mix = nn.Sequential(
            nn.Conv1d(64, 128, 5, padding=2), nn.SiLU(), nn.Conv1d(128, 128, 5, padding=2), nn.SiLU()
        )
        self.head = nn.Linear(128, embedding)

    def forward(self, captions: list[str]) -> torch.Tensor:
        """Unit vectors (N, E); letter case is ignored, and bytes after the 64th."""
        coded = [text.upper().encode()[: self.max_bytes] for text in captions]
        bytes_NL = torch.zeros(len(coded), self.max_bytes, dtype=torch.long, device=self.position.device)
        for row, text in zip(bytes_NL, coded, strict=True):
            row[: len(text)] = torch.tensor(list(text), dtype=torch.long)
        present_N1L = (bytes_NL > 0).float()[:, None]
        x_NLC = self.byte(bytes_NL) + self.position
        y_NCL = self.mix(x_NLC.transpose(1, 2) * present_N1L) * present_N1L
        return F.normalize(self.head(y_NCL.sum(dim=2) / present_N1L.sum(dim=2).clamp(min=1)), dim=-1)


class JudgeTowers(nn.Module):
    """The shipped pair of towers with its learned temperature (Radford et al. 2021)."""

    def __init__(self, *, embedding: int) -> None:
        super().__init__()
        self.image = ImageTower(embedding)
        self.text = TextTower(embedding)
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    def embed_frames(self, frames_NHW: torch.Tensor) -> torch.Tensor:
        """Unit vectors of frames (N, H, W)."""
        return self.image(frames_NHW)

    def embed_captions(self, captions: list[str]) -> torch.Tensor:
        """Unit vectors of captions."""
        return self.text(captions)


class EmbeddedJudge(MaskJudge):
    """The judge that ships with the package; runs on the CPU."""

    def __init__(self, towers: JudgeTowers, prompts: tuple[str, str, str] = PROMPTS) -> None:
        from echodfkd.models.teacher import hash_weights

        super().__init__(towers.eval(), judge_id=f"embedded-judge-{hash_weights(towers)}", prompts=prompts)


def load_embedded_judge(path: Path = WEIGHTS, *, prompts: tuple[str, str, str] = PROMPTS) -> EmbeddedJudge:
    """The judge with its shipped weights. It knows the captions of `echodfkd.training.contrastive` and no others.

    Raises:
        InputError: the files are absent or do not belong to this network.
    """
    from safetensors.torch import load_file

    try:
        recipe = json.loads(path.with_suffix(".json").read_text())
        towers = JudgeTowers(embedding=int(recipe["embedding"]))
        towers.load_state_dict(load_file(path), strict=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"evaluation.judge: the embedded judge cannot be loaded from {path}: {reason};"
            " jobs/train_judge.py makes it again, evaluation.judge=none goes without"
        ) from error
    return EmbeddedJudge(towers, prompts)
