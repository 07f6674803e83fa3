"""The judge that ships with this package: a small pair of towers, trained only on phantom clips.

It takes the same prompts as EchoCLIP through the same code (`echodfkd.models.judges.reading.ReadingJudge`), and knows
only the captions of `echodfkd.training.judge.captions`.

Legend: N captions or frames, H rows, W columns, E embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.config.sections.judge import JudgePromptsConfig
from echodfkd.core.errors import InputError
from echodfkd.models.judges.reading import ReadingJudge

PHASES = ("END-DIASTOLE", "END-SYSTOLE")
"""Captions of its training."""
WEIGHTS = Path(__file__).parents[2] / "weights" / "embedded_judge.safetensors"
WILD_WEIGHTS = WEIGHTS.with_name("embedded_wild_judge.safetensors")
"""Of towers that were trained on, over frames of every domain."""


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

    def __init__(self, *, embedding: int = 128) -> None:
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


def read_towers(path: Path = WEIGHTS, *, option: str = "evaluation.judge") -> JudgeTowers:
    """The shipped towers, or those of another file; ``option`` asked for them.

    Raises:
        InputError: the file is absent or does not belong to this network.
    """
    from safetensors.torch import load_file

    try:
        state = load_file(path)
        with torch.device("meta"):  # takes no memory for the sizes that the file names
            towers = JudgeTowers(embedding=len(state["text.head.weight"]))
        towers.load_state_dict(state, strict=True, assign=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{option}: the embedded judge cannot be loaded from {path}: {reason};"
            " echodfkd train-judge makes it again, evaluation.judge=none goes without"
        ) from error
    return towers.float().eval()


def embedded_judge(
    towers: JudgeTowers, *, prompts: Mapping[str, Any] | None = None, phase_sign: int = -1
) -> ReadingJudge:
    """A judge of these towers; runs on the CPU.

    Args:
        towers: of any weights.
        prompts: the fields of `JudgePromptsConfig`; None takes the published ones.
        phase_sign: see `reading.valve_cycle`.
    """
    from echodfkd.models.teachers.torch_teacher import hash_weights

    return ReadingJudge(
        towers.eval().requires_grad_(False),
        judge_id=f"embedded-judge-{hash_weights(towers)}",
        prompts={**asdict(JudgePromptsConfig()), **(prompts or {})},
        phase_sign=phase_sign,
        phases=PHASES,
    )
