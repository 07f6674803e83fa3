"""PanEcho: a network that reads the ejection fraction from a video, as a judge of how far a mask beats.

Holste et al., "Complete AI-Enabled Echocardiography Interpretation With Multitask Deep Learning", JAMA 2025: a
ConvNeXt-T for each frame, a transformer over 16 frames, and a linear head for each of its tasks, of which the one for
the ejection fraction is read. It has no captions and no head for the view. The release's file is ``panecho.pt``.

Legend: N clips, T frames, L frames of a clip, C channels, H rows, W columns, D numbers of a frame.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.metrics.cardiac import ejection_fraction
from echodfkd.metrics.volume import area_length_volume
from echodfkd.models.archives.published_files import PublishedFiles
from echodfkd.models.archives.state_dicts import load_weights
from echodfkd.models.judges.pixels import middle, normalise, windows
from echodfkd.models.judges.reading import VideoReading
from echodfkd.models.teachers.torchvision_guard import import_torchvision

HOME = "https://github.com/CarDS-Yale/PanEcho/releases"
WEIGHTS_FILE = "panecho.pt"
CLIP_FRAMES, RESIZED, SIDE = 16, 256, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEADS, LAYERS = 8, 4
EDGES = (5, 95)
"""Percentiles of a mask's volumes that stand for end-systole and end-diastole: a frame at fault moves neither."""


class FrameTransformer(nn.Module):
    """Frames through an image network, then a transformer over their vectors, and their mean. Names as in the file."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"model": encoder})
        layer = nn.TransformerEncoderLayer(width, HEADS, width, 0.0, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, clips_NLCHW: torch.Tensor) -> torch.Tensor:
        """Vectors (N, D) of normalised clips."""
        N, L = clips_NLCHW.shape[:2]
        of_frame = self.encoder["model"](clips_NLCHW.flatten(0, 1)).view(N, L, -1)
        return self.transformer(of_frame + _places(L, of_frame.shape[-1]).to(of_frame)).mean(1)


def _places(length: int, width: int) -> torch.Tensor:
    """Sines and cosines of a frame's number (Vaswani et al. 2017), float32 (L, D)."""
    angle = torch.arange(length)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


class PanEcho(nn.Module):
    """The network with the head of one task.

    Args:
        encoder: images (N, 3, S, S) -> (N, D).
        width: D.
        bf16: autocast.
    """

    def __init__(self, encoder: nn.Module, width: int, *, bf16: bool = False) -> None:
        super().__init__()
        self._bf16 = bf16
        self.encoder = FrameTransformer(encoder, width)
        self.EF_head = nn.Sequential(nn.Dropout(0.25), nn.Linear(width, 1))

    def forward(self, clips_NLCHW: torch.Tensor) -> torch.Tensor:
        """The ejection fraction in percent, (N,)."""
        return self.EF_head(self.encoder(clips_NLCHW))[:, 0]

    def read(self, frames_NHW: torch.Tensor) -> torch.Tensor:
        """The ejection fraction of clips that cover a video, uint8 (T, H, W)."""
        device = next(self.parameters()).device
        frames = prepare(frames_NHW.to(device))
        clips = [torch.from_numpy(clip) for clip in windows(len(frames), CLIP_FRAMES)]
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            return torch.cat([self(frames[clip][None]) for clip in clips]).float()


class PanEchoJudge:
    """Compares a mask's ejection fraction with the one that the network reads from the video.

    ``judge_score`` is 0 if both are equal, and falls by 0.01 a point of difference. It sees time and not the mask's
    place: a mask of constant area loses the whole fraction.

    Args:
        network: reads the ejection fraction.
        judge_id: name and a hash of the weights.
    """

    def __init__(self, network: PanEcho, *, judge_id: str) -> None:
        self.judge_id = judge_id
        self._network = network
        self._last: tuple[np.ndarray, VideoReading] | None = None

    def score(self, video: np.ndarray, lv_mask: np.ndarray) -> dict[str, float]:
        """``judge_score``: minus the difference, of a uint8 video (T, H, W) and a bool mask (T, H, W)."""
        return {"judge_score": -abs(mask_ef(lv_mask) - self.read_video(video).ef_percent) / 100.0}

    @torch.inference_mode()
    def read_video(self, video: np.ndarray) -> VideoReading:
        """The ejection fraction: mean over clips that cover the video. The last reading is kept."""
        if self._last is None or self._last[0] is not video:
            percents = self._network.read(torch.from_numpy(np.ascontiguousarray(video)))
            self._last = video, VideoReading(None, float(percents.double().mean()), None)
        return self._last[1]


def mask_ef(mask: np.ndarray) -> float:
    """The ejection fraction of a mask in percent, by area-length volumes at their `EDGES`; 0 if it is empty."""
    edges = np.percentile(area_length_volume(mask), EDGES)
    percent = ejection_fraction(edges, [1], [0])
    return 0.0 if math.isnan(percent) else percent


def prepare(frames_NHW: torch.Tensor) -> torch.Tensor:
    """Grey frames, uint8 (N, H, W), as float32 (N, 3, S, S): resized to 256 x 256, the middle cut out, normalised."""
    x = frames_NHW[:, None].float()
    if x.shape[-2:] != (RESIZED, RESIZED):
        x = F.interpolate(x, (RESIZED, RESIZED), mode="bilinear", align_corners=False, antialias=True)
        x = x.round()
    return normalise(middle(x, SIDE, SIDE) / 255.0, MEAN, STD)


def load_network(
    weights: str,
    device: str,
    *,
    precision: str = "fp32",
    build_encoder: Callable[[], tuple[nn.Module, int]] | None = None,
) -> PanEcho:
    """The published network.

    Args:
        weights: the folder with its file.
        device: cpu or cuda.
        precision: fp32 or bf16.
        build_encoder: the image network and its width; None takes ConvNeXt-T.

    Raises:
        InputError: the file is absent or does not fit, or torchvision is not installed.
    """
    files = PublishedFiles(Path(weights), HOME, "evaluation.judge_weights")
    where = f"{files.option}: {files.find(WEIGHTS_FILE)}"
    tensors = files.read_tensors(WEIGHTS_FILE, entries=("weights",))
    network = PanEcho(*(build_encoder or _convnext)(), bf16=precision == "bf16")
    mine = {
        key: value
        for key, value in tensors.items()
        if key != "encoder.time_encoder.pe" and (key.startswith("EF_head.") or not key.split(".")[0].endswith("_head"))
    }
    load_weights(network, mine, what=where, network="PanEcho network")
    return network.to(device).eval().requires_grad_(False)


def _convnext() -> tuple[nn.Module, int]:
    import_torchvision()
    network: Any = importlib.import_module("torchvision.models").convnext_tiny()
    width = int(network.classifier[-1].in_features)
    network.classifier[-1] = nn.Identity()
    return network, width
