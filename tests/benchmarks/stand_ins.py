"""A stand-in source and a stand-in teacher, which cost almost nothing, for the scale benchmark.

Unpickling a `StandInConfig` in a process imports this module, which adds both to the kinds of sources and teachers. No
product code knows them.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np

from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.source import PartConfig
from echodfkd.config.sections.teacher import TeacherModelConfig
from echodfkd.core.records import CLASS_NAMES, VideoClip
from echodfkd.models.teachers.protocol import Teacher
from echodfkd.sources import build as sources
from echodfkd.sources.clip_source import ClipSource, WindowSettings
from echodfkd.teaching import build as teachers
from echodfkd.teaching.recorded import Placement
from tests.helpers.teachers import FloatTeacher


class StandInConfig(RunConfig):
    """A run config that imports the stand-ins in each process it is sent to."""


def stand_in_config(overrides: list[str], *, teach_s: float = 0.0) -> StandInConfig:
    """Build a config with the stand-in source and a teacher that takes ``teach_s`` seconds per block.

    Held-out cases remain phantoms.
    """
    config = load_config(None, overrides)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values["source"] = dataclasses.replace(config.source, kind="stand_in")
    values["teacher"] = dataclasses.replace(config.teacher, kind="stand_in", weights=str(teach_s))
    return StandInConfig(**values)


class StandInSource:
    """Noise drawn once, brightened by index: a clip costs one copy of its pixels."""

    name, notes = "stand_in", ()
    num_cases = 0

    def __init__(self, window: WindowSettings, seed: int) -> None:
        shape = (window.frames, window.size, window.size)
        self.noise = np.random.default_rng(seed).integers(0, 128, shape, dtype=np.uint8)
        self.seed, self.fps = seed, window.fps

    def clip(self, index: int) -> VideoClip:
        """The noise, brighter by index modulo 128."""
        return VideoClip(
            clip_id=f"stand_in-s{self.seed}-i{index}-e0-w0",
            index=index,
            seed=self.seed,
            epoch=0,
            window_start=0,
            video=self.noise + np.uint8(index % 128),
            fps=self.fps,
            source=self.name,
            domain="noise",
        )

    def case(self, index: int) -> VideoClip:
        """Never called: there are no cases."""
        raise AssertionError("the stand-in source has no cases")


class DiscTeacher(FloatTeacher):
    """Sleeps, then returns a disc in the middle of each frame."""

    teacher_id = "stand-in"
    class_names: tuple[str, ...] = CLASS_NAMES

    def __init__(self, teach_s: float) -> None:
        self.teach_s = teach_s

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        """(N, T, H, W) probabilities."""
        time.sleep(self.teach_s)
        H, W = video_NTHW.shape[-2:]
        y, x = np.mgrid[:H, :W]
        disc = ((y - H / 2) ** 2 + (x - W / 2) ** 2 < (H / 4) ** 2).astype(np.float32)
        return np.broadcast_to(disc, video_NTHW.shape).copy()


def _source(part: PartConfig, settings: WindowSettings, seed: int) -> ClipSource:
    return StandInSource(settings, seed)


def _teacher(model: TeacherModelConfig, device: str, placement: Placement | None) -> Teacher:
    return DiscTeacher(float(Path(model.weights).name))  # weights are a path, and its name the seconds


sources._BUILDERS["stand_in"] = _source
teachers.BUILDERS["stand_in"] = _teacher
