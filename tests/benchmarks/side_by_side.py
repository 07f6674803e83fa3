"""Public clips shown beside the same clip with a mask painted in blue, and the Dice of our masks with those.

Such are the clips on EchoNet-Dynamic's page: docs/media/0X*.mp4 of its repository, 112 x 224 pixels. The blue mask is
that of the published network, no human reader's.

Legend: T frames, H rows, W columns of one half.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from echodfkd.core.errors import InputError
from echodfkd.inference.segmentation import segment
from echodfkd.inference.student import load_student
from echodfkd.metrics.overlap import dice
from echodfkd.metrics.plausibility import largest_part, stray_share
from echodfkd.models.teachers.build import NETWORKS, build_teacher
from echodfkd.models.teachers.protocol import Teacher
from echodfkd.sources.video.container import open_video
from echodfkd.sources.video.windows import resize_video
from echodfkd.teaching.plausible import PlausibleTeacher
from echodfkd.training.conversion import SHIPPED_STUDENTS

FRAMES = 64
"""Frames of a clip that count."""
BLUE = 60
"""Grey levels by which blue exceeds red and green in the painted mask."""

Predict = Callable[[np.ndarray, int, float], np.ndarray]
"""Video uint8 (T, H, W), side of the frames that the model is shown (0: a teacher the video's, a student that of its
training), and frames a second (0: a student takes each frame as one of its own rate) -> mask bool (T, H, W)."""


@dataclass(frozen=True)
class PaintedClip:
    """``video`` uint8 (T, H, W) and the painted mask, bool (T, H, W)."""

    name: str
    video: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class ClipScore:
    """Mean Dice over frames of one clip: of all parts, and of the part that is largest over the clip.

    ``area`` is that of our masks over that of the painted ones, ``painted`` the painted ones' share of the frame,
    ``stray`` the share outside the largest part. ``filled`` and ``emptied`` are the ratio of areas in the tenth of the
    frames in which the painted mask is largest, and smallest.
    """

    clip: str
    dice: float
    one_part: float
    area: float
    painted: float
    stray: float
    filled: float
    emptied: float


def read_painted_clips(folder: str) -> list[PaintedClip]:
    """All clips of a folder by name. Raises `InputError` if there is none, or one has another shape."""
    clips = []
    for path in sorted(Path(folder).glob("*.mp4")):
        with open_video(path.read_bytes(), name=path.name) as (container, stream):
            frames = [frame.to_ndarray(format="rgb24") for frame in itertools.islice(container.decode(stream), FRAMES)]
        pictures = np.stack(frames)
        _, H, W, _ = pictures.shape
        if W != 2 * H:
            raise InputError(f"--clips: {path.name} has {H} x {W} pixels, expected two squares side by side")
        video = pictures[:, :, :H].mean(-1).round().astype(np.uint8)
        red, green, blue = np.moveaxis(pictures[:, :, H:].astype(np.int16), -1, 0)
        clips.append(PaintedClip(path.stem, video, blue - np.maximum(red, green) > BLUE))
    if not clips:
        raise InputError(f"--clips: {folder} holds no .mp4 file")
    return clips


def score_clip(predict: Predict, clip: PaintedClip, *, side: int, every: int) -> ClipScore:
    """Every so many frames of one clip."""
    video, painted = clip.video[::every], clip.mask[::every]
    mask = predict(video, side, 0.0)
    ours, theirs = mask.sum((1, 2)), painted.sum((1, 2))
    by_size, tenth = np.argsort(theirs), math.ceil(len(theirs) / 10)
    return ClipScore(
        clip.name,
        float(dice(mask, painted).mean()),
        float(dice(largest_part(mask), painted).mean()),
        float(ours.sum() / max(1, theirs.sum())),
        float(painted.mean()),
        stray_share(mask),
        *(float(ours[few].sum() / max(1, theirs[few].sum())) for few in (by_size[-tenth:], by_size[:tenth])),
    )


def size_slope(scores: Sequence[ClipScore]) -> float:
    """Slope of the logarithm of our area over that of the painted one, clip by clip: 1 follows every size, 0 none.

    NaN if a mask is empty or all painted ones have one size.
    """
    painted = np.array([score.painted for score in scores])
    ours = painted * [score.area for score in scores]
    if not ours.all() or np.ptp(painted) == 0.0:
        return float("nan")
    return float(np.polyfit(np.log(painted), np.log(ours), 1)[0])


def teacher_of(name: str, *, plausible: bool = False) -> Teacher:
    """A shipped teacher by its kind, or a file of an embedded one of any size and number of classes."""
    if name in NETWORKS:
        teacher: Teacher = build_teacher(kind=name, weights="", device="cpu", batch_frames=8)
    else:
        try:
            teacher = build_teacher(kind="embedded_chambers", weights=name, device="cpu", batch_frames=8)
        except InputError:
            teacher = build_teacher(kind="embedded", weights=name, device="cpu", batch_frames=8)
    return PlausibleTeacher(teacher) if plausible else teacher


def teacher_masks(teacher: Teacher) -> Predict:
    """A teacher at any side: frames are resized to it, probabilities back."""

    def predict(video_THW: np.ndarray, side: int, fps: float) -> np.ndarray:
        shown = resize_video(video_THW, side) if side else video_THW
        prob = teacher.teach(shown[None], classes=("LV",)).masks[0, :, 0]
        if prob.shape != video_THW.shape:
            size = video_THW.shape[1:]
            wide = F.interpolate(torch.from_numpy(prob)[:, None], size=size, mode="bilinear", align_corners=False)
            prob = wide[:, 0].numpy()
        return prob > 0.5

    return predict


def student_masks(name: str) -> Predict:
    """``RUN:STUDENT``, a student.safetensors, or one that ships with the package."""
    is_one = name.endswith(".safetensors") or name in SHIPPED_STUDENTS
    where, _, student = (name, "", "") if is_one else name.rpartition(":")

    def predict(video_THW: np.ndarray, side: int, fps: float) -> np.ndarray:
        return segment(load_student(where, name=student, size=side), video_THW, fps=fps).mask()

    return predict
