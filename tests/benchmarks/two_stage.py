"""The published two-stage method, a reference for speed and results: teach all clips to disk, then train from disk.

Written from its description. First stage: each video is decoded whole and taught in one pass; its masks are truncated
to 256 levels and compressed into a file. Second stage: torch's loader without workers; an item decodes the whole video
again, reads the whole mask file, and takes a random window of frames and each second row and column; the student has
the authors' cell and minimises binary cross-entropy by Adam in float32. Two faults of the original are not reproduced:
an extra axis of the masks, which the second stage cannot read, and a second reading of each file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from echodfkd.sources.video.decode import decode_video
from echodfkd.teaching.mask_files import decode_npz
from tests.benchmarks.authors_student import authors_student


def teach_to_disk(teach: Callable[[np.ndarray], np.ndarray], videos: Sequence[Path], folder: Path) -> None:
    """Write ``NAME.seg.npz`` for each video: ``arr_0`` uint8 (T, H, W), the truncated probabilities of ``teach``."""
    for path in videos:
        video = decode_video(path.read_bytes(), name=path.name).video
        np.savez_compressed(folder / f"{path.stem}.seg.npz", (teach(video) * 255).astype(np.uint8))


class TaughtVideos(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Random windows of videos and their masks: float32 (L, H / 2, W / 2) each, pixels 0..255 and probabilities."""

    def __init__(self, videos: Sequence[Path], folder: Path, *, frames: int, seed: int) -> None:
        self.videos, self.folder, self.frames = list(videos), folder, frames
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One window, at a new random start each time."""
        path = self.videos[place]
        video = decode_video(path.read_bytes(), name=path.name).video
        masks_path = self.folder / f"{path.stem}.seg.npz"
        levels = decode_npz(masks_path.read_bytes(), masks_path.name)
        start = int(self._rng.integers(0, len(video) - self.frames + 1))
        window = slice(start, start + self.frames)
        pixels, masks = (part[window, ::2, ::2].astype(np.float32) for part in (video, levels))
        return torch.from_numpy(pixels), torch.from_numpy(masks / 255.0)


@dataclass
class Trained:
    """The student after the last epoch, and the seconds from the start of training to the end of each epoch."""

    student: nn.Module
    epoch_s: list[float] = field(default_factory=list)


def train_from_disk(
    student: nn.Module, data: TaughtVideos, *, epochs: int, batch: int, rates: Sequence[float], seed: int
) -> Trained:
    """Train a copy of a student for some epochs. ``rates``: the learning rate of each update."""
    twin = authors_student(student).train()
    adam = torch.optim.Adam(twin.parameters())
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(data, batch_size=batch, shuffle=True, drop_last=True, generator=order)
    done, step, start = Trained(twin), 0, time.perf_counter()
    for _ in range(epochs):
        for video, target_prob in loader:
            for group in adam.param_groups:
                group["lr"] = rates[step]
            adam.zero_grad()
            F.binary_cross_entropy_with_logits(twin(video).mask_logits[:, :, 0], target_prob).backward()
            adam.step()
            step += 1
        done.epoch_s.append(time.perf_counter() - start)
    return done
