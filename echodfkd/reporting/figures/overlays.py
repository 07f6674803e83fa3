"""Videos with the contours of teacher, student and truth, and the area of the left ventricle over time.

Legend: T frames, H rows, W columns of the clip; h, w those of the drawing, 4 H and 4 W unless said otherwise.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from echodfkd.core.errors import ClipError
from echodfkd.core.records import VideoClip
from echodfkd.evaluation.scored_models import ScoredModel
from echodfkd.evaluation.scorer import CaseScorer
from echodfkd.models.teachers.build import build_teacher
from echodfkd.sources.video.container import open_video
from echodfkd.sources.video.encode import encode_mp4
from echodfkd.sources.video.sheets import in_rows, png

SCALE = 4
STRIP_PX = 56
TICK_PX = 9
TICK = "#f0e442"
COLOURS = {"truth": "#ffffff", "teacher": "#e69f00", "student": "#56b4e9"}
"""Hue and brightness both differ, for any kind of colour vision (Okabe and Ito, 2008)."""


def overlay_mp4(case: VideoClip, student_mask: np.ndarray, teacher_mask: np.ndarray | None) -> bytes:
    """A case as a video with the contours and areas of student, teacher and truth, and ticks at its ED and ES frames.

    Args:
        case: with any truth it has.
        student_mask: bool (T, H, W).
        teacher_mask: likewise; None if the teacher has none of this case.
    """
    masks = {"student": student_mask}
    if teacher_mask is not None:
        masks["teacher"] = teacher_mask
    if case.truth_labels is not None:
        masks["truth"] = case.truth_labels == 1
    drawing = draw_overlay(case.video, masks, ed_frames=case.ed_frames or (), es_frames=case.es_frames or ())
    return encode_mp4(drawing, case.fps)


def case_overlay(scorer: CaseScorer, student: ScoredModel, number: int) -> tuple[str, bytes]:
    """Name in the run folder and MP4 bytes of a student's overlay for one case. Raises `ClipError`."""
    return f"overlays/{student.name}-{number:04d}.mp4", overlay_mp4(*scorer.masks(student, number))


def draw_overlay(
    video: np.ndarray,
    masks: Mapping[str, np.ndarray],
    *,
    strip: bool = True,
    scale: float = SCALE,
    ed_frames: Sequence[int] = (),
    es_frames: Sequence[int] = (),
) -> np.ndarray:
    """Draw contours on an enlarged video, and the masks' areas on a strip below it.

    Args:
        video: uint8 (T, H, W).
        masks: bool (T, H, W) by name, among those of `COLOURS`. Frames whose "truth" is empty count as
            not annotated: nothing is drawn there.
        strip: add the area curves, with a bar at the current frame.
        scale: side of the drawing over that of the video.
        ed_frames: marked by a tick from above the curves.
        es_frames: marked by a tick from below them.

    Returns:
        uint8 (T, h, w, 3) RGB, `STRIP_PX` rows more with a strip.
    """
    grey = _resize(video.astype(np.float32), scale).clip(0, 255).round().astype(np.uint8)
    canvas = np.repeat(grey[..., None], 3, axis=-1)
    for name, colour in COLOURS.items():
        if name in masks:
            canvas[_contour(masks[name], scale)] = _rgb(colour)
    if not strip:
        return canvas
    below = _draw_strip(masks, frames=len(video), width=canvas.shape[2])
    for frames, rows in ((ed_frames, slice(0, TICK_PX)), (es_frames, slice(STRIP_PX - TICK_PX, STRIP_PX))):
        for frame in frames:
            at = _place(frame, len(video), canvas.shape[2])
            below[:, rows, max(0, at - 1) : at + 1] = _rgb(TICK)
    return np.concatenate([canvas, below], axis=1)


def stills_png(mp4: bytes, frames: Sequence[int], *, name: str) -> bytes:
    """Some frames of a stored overlay side by side as PNG, without the strip of areas.

    Args:
        mp4: a video of `draw_overlay` with its strip.
        frames: numbers of the frames wanted; those beyond the end give the last one.
        name: the file's name, for the error's sentence.

    Raises:
        ClipError: it is not such a video.
    """
    from PIL import Image

    drawing = []
    with open_video(mp4, name=name) as (container, stream):
        for frame in itertools.islice(container.decode(stream), 1 + max(0, *frames)):
            drawing.append(frame.to_ndarray(format="rgb24"))
    if not drawing:
        raise ClipError(f"{name} has no readable frame")
    chosen = [drawing[min(max(frame, 0), len(drawing) - 1)][:-STRIP_PX] for frame in frames]
    sink = io.BytesIO()
    Image.fromarray(np.concatenate(chosen, axis=1)).save(sink, format="PNG", optimize=True)
    return sink.getvalue()


def _resize(frames: np.ndarray, scale: float) -> np.ndarray:
    """Float (T, H, W) at another scale, (T, h, w)."""
    x = torch.from_numpy(np.ascontiguousarray(frames)).unsqueeze(1)
    size = [max(1, round(scale * side)) for side in frames.shape[1:]]
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)[:, 0].numpy()


def _contour(mask: np.ndarray, scale: float) -> np.ndarray:
    """The border, two pixels wide, of the mask at that scale: bool (T, h, w)."""
    inside = torch.from_numpy(_resize(mask.astype(np.float32), scale) > 0.5).float().unsqueeze(1)
    grown = F.max_pool2d(inside, 3, stride=1, padding=1)
    shrunk = -F.max_pool2d(-inside, 3, stride=1, padding=1)
    return (grown - shrunk)[:, 0].numpy() > 0


def _draw_strip(masks: Mapping[str, np.ndarray], *, frames: int, width: int) -> np.ndarray:
    """Area curves on one scale: uint8 (T, `STRIP_PX`, w, 3)."""
    base = np.full((STRIP_PX, width, 3), 24, np.uint8)
    area = {name: masks[name].sum((1, 2)).astype(np.float64) for name in COLOURS if name in masks}
    top = max([1.0, *(curve.max() for curve in area.values())])
    x = np.linspace(0, frames - 1, width)
    for name, curve in area.items():
        known = curve > 0 if name == "truth" else np.ones(frames, bool)
        y = np.rint((STRIP_PX - 6) - (STRIP_PX - 12) * np.interp(x, np.arange(frames), curve) / top).astype(int)
        drawn = known[np.floor(x).astype(int)] & known[np.ceil(x).astype(int)]
        for column in np.flatnonzero(drawn):
            before = y[max(0, column - 1)] if column and drawn[column - 1] else y[column]
            low, high = sorted((int(before), int(y[column])))
            base[low : high + 2, column] = _rgb(COLOURS[name])
    strip = np.repeat(base[None], frames, axis=0)
    for t in range(frames):
        at = _place(t, frames, width)
        strip[t, :, at : at + 1] = 150
    return strip


def _place(frame: int, frames: int, width: int) -> int:
    """Column of a frame in the strip."""
    return round(min(frame, frames - 1) * (width - 1) / max(1, frames - 1))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def teacher_row(clips: Sequence[VideoClip], kind: str) -> bytes:
    """PNG: a row of clips at end-diastole with the contours of the truth and of a shipped teacher.

    Args:
        clips: with truth labels and ED frames.
        kind: of the teacher.
    """
    teacher = build_teacher(kind=kind, weights="", device="cpu", batch_frames=8)
    tiles = []
    for clip in clips:
        assert clip.truth_labels is not None
        assert clip.ed_frames
        frame = slice(clip.ed_frames[0], clip.ed_frames[0] + 1)
        prob = teacher.teach(clip.video[None, frame], classes=("LV",)).masks[0, :, 0]
        masks = {"teacher": prob > 0.5, "truth": clip.truth_labels[frame] == 1}
        tiles.append(draw_overlay(clip.video[frame], masks, strip=False, scale=2)[0])
    return png(in_rows(tiles, columns=len(tiles)), colours=64)
