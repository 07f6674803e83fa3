"""Teachers that misbehave, and a clock that jumps, for runs that must survive them.

A `FaultyConfig` is a run config whose arrival in a process imports this module, which adds the fakes to the kinds of
teachers: workers learn of them with the config itself, and nothing in the product knows of them. A fake keeps what
it has done once in the folder `teacher.weights`, and has the embedded teacher's weights and id.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import time
from pathlib import Path

import numpy as np

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.teacher import TeacherModelConfig
from echodfkd.models.teachers.build import build_teacher
from echodfkd.teaching.build import BUILDERS
from echodfkd.teaching.recorded import Placement
from tests.helpers.teachers import FloatTeacher

HANG_AT = 4
"""Call of an actor at which it hangs, if no other has."""


class FaultyConfig(RunConfig):
    """A config that brings the fakes along."""


class JumpingClockConfig(RunConfig):
    """A config that brings a wall clock along which is off by the seconds in the file ``clock`` of its storage."""

    def __reduce__(self) -> tuple[object, ...]:
        return (_with_jumping_clock, ({f.name: getattr(self, f.name) for f in dataclasses.fields(self)},))


def faulty(config: RunConfig, kind: str, folder: Path) -> FaultyConfig:
    """The config with a fake teacher that keeps its memory in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    teacher = dataclasses.replace(config.teacher, kind=kind, weights=str(folder))
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return FaultyConfig(**{**values, "teacher": teacher})


class _Fake(FloatTeacher):
    def __init__(self, model: TeacherModelConfig, device: str, placement: Placement | None) -> None:
        self.folder = Path(model.weights)
        self.real = build_teacher(kind="embedded", weights="", device=device, batch_frames=model.batch_frames)
        self.teacher_id, self.class_names = self.real.teacher_id, self.real.class_names
        self.calls = 0

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        self.calls += 1
        return self.misbehave(video_NTHW, self.real.teach(video_NTHW).masks)

    def misbehave(self, video_NTHW: np.ndarray, prob: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def first(self, what: str) -> bool:
        """Whether nobody has done this before: an exclusive file, with the doer's process id."""
        try:
            with (self.folder / what).open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return False
        return True

    def did(self, what: str) -> bool:
        """Whether this very process has done it."""
        path = self.folder / what
        return path.exists() and path.read_text() == str(os.getpid())


class StragglerAndHang(_Fake):
    """One actor sleeps before every answer; another, once, never answers, and keeps the interpreter lock meanwhile."""

    def misbehave(self, video_NTHW: np.ndarray, prob: np.ndarray) -> np.ndarray:
        if self.did("slow") or self.first("slow"):
            time.sleep(0.4)
        elif self.calls >= HANG_AT and self.first("hang"):
            ctypes.PyDLL(None).sleep(100_000)
        return prob


class NotFiniteThenMisshapen(_Fake):
    """Some clips, known by their pixels, get NaN; once, the masks lack a column."""

    def misbehave(self, video_NTHW: np.ndarray, prob: np.ndarray) -> np.ndarray:
        bad = [int(video.sum(dtype=np.int64)) % 16 == 0 for video in video_NTHW]
        prob[bad] = np.nan
        if self.calls >= HANG_AT and self.first("misshapen"):
            return prob[..., 1:]
        return prob


def _with_jumping_clock(values: dict[str, object]) -> JumpingClockConfig:
    config = JumpingClockConfig(**values)
    install_clock(Path(config.storage) / "clock")
    return config


def install_clock(path: Path) -> None:
    """Put the wall clock of this process under the rule of a file: the seconds it is off by."""
    if hasattr(time, "true_time"):
        return
    time.true_time = time.time
    time.time = lambda: time.true_time() + _offset(path)


def _offset(path: Path) -> float:
    try:
        return float(path.read_text() or 0)
    except FileNotFoundError:
        return 0.0


FAKES: dict[str, type[_Fake]] = {
    "fake_straggler_and_hang": StragglerAndHang,
    "fake_not_finite_then_misshapen": NotFiniteThenMisshapen,
}


BUILDERS.update(FAKES)
