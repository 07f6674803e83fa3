"""Segment a video of any size and rate with a student.

Legend: T frames of the video, t those at the student's rate, C classes, H rows, W columns, s the student's side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F

from echodfkd.core.errors import ClipError
from echodfkd.inference.beats import Rhythm, find_rhythm
from echodfkd.inference.flags import Flag, find_flags, most_doubt
from echodfkd.inference.signals import mask_signals, picture_signals
from echodfkd.inference.student import CHUNK_FRAMES, LoadedStudent
from echodfkd.metrics.spacing import Spacing, known_sides, pixel_sides
from echodfkd.sources.video.cine import Cine
from echodfkd.sources.video.dicom_reference import DicomReference
from echodfkd.sources.video.windows import resample_positions, resize_video, sample_video

THRESHOLD = 0.5
_BEAT_SECONDS = 2.0
"""A video of this length shows a whole beat of any heart that beats 40 times a minute."""


@dataclass(frozen=True)
class Segmentation:
    """Masks of one video, and the rhythm in them.

    Shapes: ``video`` uint8 (T, H, W). ``codes`` uint8 (T, H, W) by class: round(255 p), at the video's own size and
    rate. ``fps`` is 0 if unknown, ``spacing_mm`` None. ``signals`` are the numbers that `echodfkd.inference.flags`
    judges by, ``flags`` the reasons to doubt the masks, ``notes`` further sentences that a reader must know.
    ``reference`` is that of a DICOM image, if it was kept. ``pixel_aspect`` is the width of a pixel over its height: it
    counts if the lengths are not known.
    """

    video: np.ndarray
    codes: dict[str, np.ndarray]
    fps: float
    spacing_mm: Spacing | None
    rhythm: Rhythm
    signals: Mapping[str, float] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()
    notes: tuple[str, ...] = ()
    reference: DicomReference | None = None
    pixel_aspect: float = 1.0

    def mask(self, name: str = "LV", *, threshold: float = THRESHOLD) -> np.ndarray:
        """Pixels whose probability is above ``threshold``: bool (T, H, W)."""
        return self.codes[name] > 255.0 * threshold

    @property
    def stray_share(self) -> float:
        """Share of the ventricle's mask outside its largest part over the video; NaN if the mask is empty."""
        return self.signals.get("parts", math.nan)

    @property
    def doubt(self) -> float:
        """The largest doubt of any signal: 0 for a clip like those that the student knows, above 1 it is flagged."""
        return most_doubt(self.signals)

    @property
    def sentences(self) -> tuple[str, ...]:
        """All that a reader must know: the flags' sentences, then the notes."""
        return (*(flag.sentence for flag in self.flags), *self.notes)

    @property
    def sides(self) -> Spacing:
        """Of a pixel: in millimetres, or of area 1."""
        return known_sides(self.spacing_mm, self.pixel_aspect)

    @property
    def area(self) -> np.ndarray:
        """Area of the left ventricle, float64 (T,): mm2 if the sides of a pixel are known, else pixels."""
        return self.mask().sum((1, 2)) * math.prod(pixel_sides(self.sides))


def segment(
    student: LoadedStudent,
    video_THW: np.ndarray,
    *,
    fps: float,
    spacing_mm: Spacing | None = None,
    pixel_aspect: float = 1.0,
) -> Segmentation:
    """Segment one video. Every frame of it gets a mask.

    The frames are padded with black until they are square as they are shown, resized to the student's size and
    resampled to its rate; its probabilities are brought back the same way, linear in time and in space.

    Args:
        student: of `load_student`.
        video_THW: uint8 grey, at least one frame.
        fps: its rate; 0 if unknown: the frames are then taken to have the student's rate, and no beat is looked for.
        spacing_mm: of a pixel, or None.
        pixel_aspect: its width over its height, which counts without ``spacing_mm``: shapes and the EF are then right,
            areas and volumes are in pixels.

    Raises:
        ClipError: it is no such video.
    """
    if video_THW.dtype != np.uint8 or video_THW.ndim != 3 or not video_THW.size:
        raise ClipError(f"a video must be uint8 (frames, height, width), got {video_THW.dtype} {video_THW.shape}")
    T, H, W = video_THW.shape
    sides = known_sides(spacing_mm, pixel_aspect)
    square = _square_shape(H, W, sides)
    small = np.concatenate([resize_video(_square(video_THW[part], square), student.size) for part in _parts(T)])
    resampled = fps > 0 and student.fps > 0 and fps != student.fps
    positions = resample_positions(T, fps=fps, target_fps=student.fps) if resampled else np.arange(float(T))
    prob = student.probabilities(sample_video(small, positions))
    places = np.interp(np.arange(T), positions, np.arange(len(positions)))
    codes = {name: _codes(prob[:, number], places, (H, W), square) for number, name in enumerate(student.classes)}
    mask = codes["LV"] > 255.0 * THRESHOLD
    rhythm = find_rhythm(mask, fps=fps, sides=sides, in_mm=spacing_mm is not None)
    signals = {
        **picture_signals(small, fps=fps),
        **mask_signals(prob[:, student.classes.index("LV")]),
        "empty": float((~mask.any((1, 2))).sum()),
        "beat": float(len(rhythm.beats)) if fps > 0 and T >= _BEAT_SECONDS * fps else math.nan,
        "slow": rhythm.heart_rate_bpm,
        "fast": rhythm.heart_rate_bpm,
        "size": student.size / max(H, W),
        "rate": student.fps / fps if fps > 0 else math.nan,
    }
    flags, notes = find_flags(signals), _notes(T, fps, student)
    return Segmentation(video_THW, codes, fps, spacing_mm, rhythm, signals, flags, notes, pixel_aspect=pixel_aspect)


def segment_cine(student: LoadedStudent, cine: Cine, *, fps: float = 0.0) -> Segmentation:
    """`segment` of a file that was read, with its warnings before the notes; ``fps`` counts if the file has none."""
    rate, aspect = cine.fps or fps, cine.pixel_aspect
    found = segment(student, cine.video, fps=rate, spacing_mm=cine.spacing_mm, pixel_aspect=aspect)
    return replace(found, notes=(*cine.warnings, *found.notes), reference=cine.reference)


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK_FRAMES, count)) for start in range(0, count, CHUNK_FRAMES))


def _square_shape(H: int, W: int, spacing: Spacing) -> tuple[int, int]:
    """Rows and columns of the square around a frame: a stretched heart is not one that the student knows."""
    down, across = pixel_sides(spacing)
    side = max(H * down, W * across)
    return max(H, round(side / down)), max(W, round(side / across))


def _square(video_THW: np.ndarray, square: tuple[int, int]) -> np.ndarray:
    """The frames in the middle of black ones of this shape."""
    shape = video_THW.shape[1:]
    if shape == square:
        return video_THW
    before = _margins(shape, square)
    margins = [(edge, whole - own - edge) for edge, whole, own in zip(before, square, shape, strict=True)]
    return np.pad(video_THW, [(0, 0), *margins])


def _margins(shape: tuple[int, ...], square: tuple[int, int]) -> tuple[int, int]:
    """Rows above and columns left of a frame in its square."""
    return (square[0] - shape[0]) // 2, (square[1] - shape[1]) // 2


def _between(values_tss: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values at positions, linear in time: float32 (len(at), s, s)."""
    below = np.floor(at).astype(np.int64)
    above = np.minimum(below + 1, len(values_tss) - 1)
    weight = (at - below).astype(np.float32)[:, None, None]
    return values_tss[below] * (1 - weight) + values_tss[above] * weight


def _codes(prob_tss: np.ndarray, places: np.ndarray, shape: tuple[int, int], square: tuple[int, int]) -> np.ndarray:
    """Codes uint8 (T, H, W) of one class; ``places`` (T,) are those of the video's frames among the student's."""
    codes = np.empty((len(places), *shape), np.uint8)
    for part in _parts(len(places)):
        codes[part] = _to_codes(_between(prob_tss, places[part]), shape, square)
    return codes


def _to_codes(prob_Tss: np.ndarray, shape: tuple[int, int], square: tuple[int, int]) -> np.ndarray:
    """Codes uint8 (T, H, W) of probabilities on the square: resized to the video's pixels, margins cut."""
    (H, W), (top, left) = shape, _margins(shape, square)
    prob = torch.from_numpy(np.ascontiguousarray(prob_Tss))[:, None]
    if prob.shape[-2:] != square:
        shrinks = min(square) < prob.shape[-1]
        prob = F.interpolate(prob, size=square, mode="bilinear", align_corners=False, antialias=shrinks)
    inner = prob[:, 0, top : top + H, left : left + W]
    return (inner * 255.0).round_().clamp_(0, 255).to(torch.uint8).numpy()


def _notes(num_frames: int, fps: float, student: LoadedStudent) -> tuple[str, ...]:
    notes = []
    if fps <= 0:
        notes.append("the video has no frame rate: no beat, rate or ejection fraction is given")
    if num_frames < 2:
        notes.append("a single frame shows no motion: no beat is given")
    trained = student.file.window
    if trained is not None:
        size = trained.size if student.network_side else student.size
        notes += [f"the student runs {change}" for change in trained.changes(size, student.fps)]
    return tuple(notes)
