"""EchoDFKD in a notebook: students, their masks, phantom clips with truth, teachers, and a small distillation.

Nothing here needs Ray. Legend: T frames, H rows, W columns; h, w those of a drawing.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from echodfkd.config.file import config_from_dict
from echodfkd.config.sections.generator import GENERATORS
from echodfkd.core.errors import ClipError, ConfigError, InputError
from echodfkd.core.records import VideoClip
from echodfkd.inference import segmentation, student
from echodfkd.inference.inputs import find_videos
from echodfkd.metrics.spacing import Spacing
from echodfkd.models.teachers.protocol import Teacher
from echodfkd.reporting.segmented.video import area_chart, overlay_frames, overlay_mp4, shown_facts
from echodfkd.sources.build import build_source
from echodfkd.sources.clip_source import ClipSource
from echodfkd.sources.video.cine import Cine
from echodfkd.teaching.build import build_configured_teacher
from echodfkd.training.in_process import distil_clips

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Segmentation", "Student", "distil", "generated", "load_student", "load_teacher", "phantom", "phantoms"]


class Segmentation(segmentation.Segmentation):
    """Masks of one video and the rhythm in them; a notebook shows its overlay and numbers.

    ``mask()`` is bool (T, H, W), ``area`` (T,) in mm2, or in pixels if their size is unknown. ``rhythm`` has
    ``beats``, ``ed_frames``, ``es_frames``, ``heart_rate_bpm`` and ``ef_percent``. ``flags`` are reasons to doubt the
    masks, each with a ``name`` and a ``sentence``; ``doubt`` is above 1 if there is one.
    """

    def overlay(self) -> np.ndarray:
        """The video with contour, area curve and events: uint8 RGB (T, h, w, 3)."""
        return overlay_frames(self)

    def overlay_mp4(self) -> bytes:
        """`overlay` as an MP4 file."""
        return overlay_mp4(self)

    def plot(self) -> Figure:
        """Area over time, with the ED and ES frames."""
        figure = area_chart(self).figure
        assert figure is not None, "a chart of a segmentation always has its figure"
        return figure

    def _repr_html_(self) -> str:
        facts = "".join(
            f"<tr><th>{key}</th><td>{html.escape(text)}</td></tr>" for key, text in shown_facts(self).items()
        )
        notes = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences)
        data = base64.b64encode(self.overlay_mp4()).decode()
        video = f'<video controls loop muted src="data:video/mp4;base64,{data}"></video>'
        return f"{video}<table>{facts}</table>{notes}<p>Research software, no medical device.</p>"


class Student(student.LoadedStudent):
    """A trained student. ``classes``, ``size``, ``fps`` and ``network`` (torch) say what it is."""

    def segment(
        self, video: np.ndarray | VideoClip | str | Path, *, fps: float = 0.0, spacing_mm: Spacing | None = None
    ) -> Segmentation:
        """Segment one video; every frame gets a mask.

        Args:
            video: uint8 grey (T, H, W), a clip of `phantom`, or the path of an AVI, MP4, MOV, DICOM or NIfTI file or
                of a folder of PNG frames.
            fps: frames per second, if the video does not say it; 0 if unknown: no beat is then looked for.
            spacing_mm: side of a pixel in millimetres, or its height and width, likewise; None if unknown.

        Raises:
            ClipError: it is no such video.
            InputError: the path names no video, or several.
        """
        return Segmentation(**vars(segmentation.segment_cine(self, _as_cine(video, fps, spacing_mm))))

    def export(self, out: str | Path, *, formats: Sequence[str] = ()) -> dict[str, Any]:
        """Write it to a folder for other programs, see `echodfkd.inference.export.folder.export_folder`.

        Without formats only ``student.safetensors`` (which `load_student` reads), config.json and the model card.
        """
        from echodfkd.inference.export.folder import export_folder

        return export_folder(self, str(out), formats=formats)


def _as_cine(video: np.ndarray | VideoClip | str | Path, fps: float, spacing_mm: Spacing | None) -> Cine:
    """The video with its rate and the size of its pixels; ``fps`` and ``spacing_mm`` count if it has none."""
    if isinstance(video, np.ndarray):
        return Cine(video, fps, spacing_mm)
    if isinstance(video, VideoClip):
        return Cine(video.video, video.fps, video.spacing_mm)
    if not isinstance(video, str | Path):
        raise ClipError(f"video: got a {type(video).__name__}, allowed are an array, a clip and a path")
    files = find_videos([str(video)], hash_names=False)
    if len(files) != 1:
        raise InputError(f"video: {video} holds {len(files)} videos; name one, or use echodfkd predict for all")
    cine = files[0].open().decode()
    return dataclasses.replace(cine, fps=cine.fps or fps, spacing_mm=cine.spacing_mm or spacing_mm)


def load_student(source: str | Path, *, name: str = "", size: int = 0, fps: float | None = None) -> Student:
    """A published student.

    Args:
        source: embedded_large or embedded_small (shipped), a run folder (its newest checkpoint), a checkpoint's folder,
            a ``student.safetensors``, an exported ``.onnx``, or a ``.ckpt`` of the authors; a path, an fsspec URL, or
            ``hf://OWNER/NAME``.
        name: which student, if the run has several.
        size: side of its frames in pixels; 0 is that of its training.
        fps: rate of its frames; None is that of its training, 0 keeps a video's own.

    Raises:
        InputError: there is no such student.
    """
    return Student(**vars(student.load_student(str(source), name=name, size=size, fps=fps, option="source")))


def phantom(index: int = 0, **options: Any) -> VideoClip:
    """One phantom clip with its truth: ``truth_labels`` (1 is the left ventricle), ``ed_frames``, ``conditions``.

    Args:
        index: which one; the same index and options give the same clip.
        options: see `phantoms`.
    """
    return _source("phantom", **options).clip(index)


def phantoms(**options: Any) -> Iterator[VideoClip]:
    """Phantom clips without end, from index 0.

    Args:
        options: frames (48), size (112), fps (32), seed (0), and those of a source: domain ("default"), conditions
            (as in a config, such as ``{"ef_percent": [10, 40]}``).
    """
    return map(_source("phantom", **options).clip, itertools.count())


def generated(kind: str = "latent_video", **options: Any) -> Iterator[VideoClip]:
    """Clips of a generator without end, from index 0: they have no truth (docs/how-to/generators.md).

    Args:
        kind: of a source that a generator makes, but adversarial, whose painter only a run trains.
        options: those of `phantoms`, and ``generator``, e.g. ``{"weights": "/data/EchoNet-Synthetic", "steps": 16}``.

    Raises:
        ConfigError: there is no such generator, or an option is unknown or impossible.
        InputError: a file cannot be used.
    """
    kinds = [name for name in GENERATORS if name != "adversarial"]
    if kind not in kinds:
        raise ConfigError(f"kind: got {kind!r}, allowed are {', '.join(kinds)}")
    return map(_source(kind, **options).clip, itertools.count())


def _source(
    kind: str, *, frames: int = 48, size: int = 112, fps: float = 32.0, seed: int = 0, **options: Any
) -> ClipSource:
    window = {"frames": frames, "size": size, "fps": fps}
    config = config_from_dict(
        {"students": {"any": {"blocks": 1}}, "window": window, "source": {"kind": kind, **options}, "seed": seed}
    )
    return build_source(config.source, config.window, seed=config.seed, case_frames=frames)


def load_teacher(kind: str = "embedded", **options: Any) -> Teacher:
    """A teacher; its ``teach(video)`` takes uint8 (N, T, H, W) and gives ``masks`` (N, T, C, H, W), 0..1.

    Args:
        kind: embedded, embedded_chambers, onnx ...: see docs/how-to/teachers.md.
        options: further ones of ``teacher``, such as ``weights`` and ``sha256``.

    Raises:
        ConfigError: an option is unknown or impossible.
        InputError: a file cannot be used.
    """
    config = config_from_dict({"students": {"any": {}}, "teacher": {"kind": kind, **options}})
    return build_configured_teacher(config.teacher, device=config.teacher.device)


def distil(
    options: Mapping[str, Any],
    teacher: Teacher,
    clips: Iterable[VideoClip],
    *,
    steps: int,
    batch: int = 4,
    run: Mapping[str, Any] | None = None,
    report: Callable[[dict[str, Any]], None] = lambda numbers: None,
) -> Student:
    """Distil a student in this process, with the loop and the objective of a run. For more, use echodfkd distill.

    Args:
        options: of the student, such as ``{"blocks": 3, "layers": 1}`` (docs/reference/students.md).
        teacher: makes the soft masks.
        clips: such as `phantoms`; square, all of one shape and rate; steps * batch are drawn.
        steps: updates.
        batch: clips in an update.
        run: further sections of a run, such as ``{"optimizer": {"learning_rate": 1e-3}, "seed": 1}``.
        report: takes the numbers of the newest update (``step``, ``losses`` ...), at most once a second.

    Raises:
        ConfigError: an option is unknown or impossible, or the teacher lacks a class.
        RunError: the clips ended early, or the loss is not finite.
    """
    run = dict(run or {})
    train = {**run.get("train", {}), "steps": steps, "global_batch": batch}
    with tempfile.TemporaryDirectory() as folder:
        done = distil_clips(options, teacher, clips, folder, options={**run, "train": train}, report=report)
        return load_student(done)
