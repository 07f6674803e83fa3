"""The source whose clips a generator makes: conditions and noise of a clip follow from (seed, index) only."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable

import numpy as np

from echodfkd.config.identity import difference
from echodfkd.config.sections.source import PartConfig
from echodfkd.core.errors import ClipError
from echodfkd.core.records import VideoClip
from echodfkd.models.generators.protocol import ClipRequest, Generator
from echodfkd.sources.clip_source import WindowSettings
from echodfkd.sources.patients.sampler import ConditionSampler, PatientDraw
from echodfkd.sources.phantom.draws import clip_key
from echodfkd.sources.phantom.source import PhantomSource, clip_tag

NO_TRUTH = (
    "a generator makes these clips: they have no truth, and their conditions (such as EF) are those that were asked for"
)


class GeneratedSource:
    """Endless source of generated clips (see `echodfkd.sources.clip_source.ClipSource`).

    A clip has no truth: a label map that was asked for is no measurement of the clip.

    Args:
        part: kind, conditions and generator.
        sampler: draws the patients.
        window: shape of clips and cases; ``frames`` 0 draws each clip's own length, ``fps`` 0 each patient's own rate.
        seed: first half of every clip's identity.
        generator: gives the loaded generator, called with the first clip; None leaves clips ``pending``: black, for
            the generator's own actors to fill.
        step: number of a training clip -> updates of the generator that makes it; None if none changes during the run.
    """

    notes: tuple[str, ...] = (NO_TRUTH,)

    def __init__(
        self,
        part: PartConfig,
        sampler: ConditionSampler,
        window: WindowSettings,
        *,
        seed: int,
        generator: Callable[[], Generator] | None,
        step: Callable[[int], int] | None = None,
    ) -> None:
        self.name = part.kind
        self._phantom = PhantomSource(sampler, window, seed=seed, domain=part.domain)
        self._sampler = sampler
        self._window = window
        self._seed = seed
        self._generator = generator
        self._step = step
        text = json.dumps(difference(part.generator), sort_keys=True)
        self._version = hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def num_cases(self) -> int | None:
        """None: there is no end to the cases."""
        return None

    def clip(self, index: int, draw: int = 0) -> VideoClip:
        """Training window ``index``; ``draw`` 1, 2 ... show other patients. Raises `ClipError` if it cannot be made."""
        return self._make(index, "clip", draw)

    def case(self, index: int) -> VideoClip:
        """Evaluation case ``index``. Raises `ClipError` if the generator fails."""
        return self._make(index, "case")

    def request(self, index: int, purpose: str = "clip", *, label_map: bool = False, attempt: int = 0) -> ClipRequest:
        """What the generator is asked for; with a label map only if it wants one."""
        draw = self._sampler.draw(index, purpose=purpose, attempt=attempt)
        fps, frames = self._window.fps or draw.fps, self._frames(draw, purpose)
        drawn = {name: value for name, value in dataclasses.asdict(draw.conditions).items() if value is not None}
        ef = draw.conditions.ef_percent
        return ClipRequest(
            clip_id=self._clip_id(index, purpose, attempt),
            seed=clip_key(self._seed, self.name, purpose, index),
            frames=frames,
            fps=fps,
            size=self._window.size,
            ef=None if ef is None else ef / 100.0,
            conditions=drawn,
            label_map=self._phantom.label_map(index, purpose, frames, attempt) if label_map else None,
            generator_step=self._step(index) if self._step and purpose == "clip" else None,
        )

    def _make(self, index: int, purpose: str, attempt: int = 0) -> VideoClip:
        draw = self._sampler.draw(index, purpose=purpose, attempt=attempt)
        shape = (self._frames(draw, purpose), self._window.size, self._window.size)
        return VideoClip(
            clip_id=self._clip_id(index, purpose, attempt),
            index=index,
            seed=self._seed,
            epoch=0,
            window_start=0,
            video=np.zeros(shape, np.uint8) if self._generator is None else self._generate(index, purpose, attempt),
            fps=self._window.fps or draw.fps,
            source=self.name,
            domain=self.name,
            conditions=draw.conditions,
            sample_weight=draw.sample_weight,
            pending=self._generator is None,
        )

    def _generate(self, index: int, purpose: str, attempt: int) -> np.ndarray:
        assert self._generator is not None
        generator = self._generator()
        request = self.request(index, purpose, label_map=generator.wants_label_map, attempt=attempt)
        (clip,) = generator.generate([request])
        if isinstance(clip, ClipError):
            clip.clip_id, clip.stage = request.clip_id, "generator"  # type: ignore[attr-defined]
            raise clip
        return clip

    def _frames(self, draw: PatientDraw, purpose: str) -> int:
        return self._window.case_frames if purpose == "case" else self._window.frames or draw.num_frames

    def _clip_id(self, index: int, purpose: str, attempt: int) -> str:
        tag = clip_tag(index, purpose, attempt) + (f"-g{self._step(index)}" if self._step and purpose == "clip" else "")
        return f"{self.name}-{self._version}-s{self._seed}-{tag}-e0-w0"
