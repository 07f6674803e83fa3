"""The embedded generator of clips: a beating heart phantom in an apical view, made from (seed, index) only.

It replaces a generative model when there is no download, no patient data and no GPU. Truth is known for
every frame: chambers, wall, end-diastole and end-systole, volumes. It is made to be learned by shape: the other
chambers and the outside are as dark as the left ventricle, so that no threshold on grey levels finds it. Torch only.
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch

from echodfkd.config.sections.sees import SeesConfig
from echodfkd.config.sections.source import ConditionsConfig
from echodfkd.core.errors import ConfigError
from echodfkd.core.records import VideoClip
from echodfkd.sources.clip_source import WindowSettings
from echodfkd.sources.patients.sampler import ConditionSampler
from echodfkd.sources.phantom.chambers import PHANTOM_CLASSES
from echodfkd.sources.phantom.domains import DOMAIN_NAMES, DOMAINS, WILD
from echodfkd.sources.phantom.draws import Draws, clip_key
from echodfkd.sources.phantom.renderer import Patient, PhantomRenderer
from echodfkd.sources.phantom.wild.ranges import WildRanges
from echodfkd.sources.phantom.wild.renderer import render_wild

_Rendered = tuple[torch.Tensor, torch.Tensor, float, tuple[int, ...], tuple[int, ...]]
"""Video, labels, spacing in mm, ED frames, ES frames."""


class PhantomSource:
    """Endless, pure source of phantom clips (see `echodfkd.sources.clip_source.ClipSource`).

    Args:
        sampler: draws the patients.
        window: shape of clips and cases; ``frames`` 0 draws each clip's own length, ``fps`` 0 each patient's own rate.
            A case holds a whole beat if its frames last one or more.
        seed: first half of every clip's identity, 0 or more.
        domain: one of `DOMAIN_NAMES`.
        ranges: other ranges of the domain wild than its own.

    Raises:
        ConfigError: a value is out of range.
    """

    name = "phantom"
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        sampler: ConditionSampler,
        window: WindowSettings,
        *,
        seed: int,
        domain: str,
        ranges: WildRanges | None = None,
    ) -> None:
        for option, value, low in (
            ("seed", seed, 0),
            ("window.frames", window.frames, 0),
            ("window.fps", window.fps, 0),
            ("window.size", window.size, 16),
            ("evaluation.frames", window.case_frames, 1),
        ):
            if not value >= low:
                raise ConfigError(f"{option}: got {value}, the phantom needs at least {low}")
        if domain not in DOMAIN_NAMES:
            raise ConfigError(f"source.domain: got {domain!r}, the phantom has {', '.join(DOMAIN_NAMES)}")
        self.window = window
        self.seed = seed
        self.domain = domain
        self._sampler, self._ranges = sampler, ranges
        self._renderer = None if domain == WILD else PhantomRenderer("cpu", domain=DOMAINS[domain], size=window.size)

    @property
    def num_cases(self) -> int | None:
        """None: there is no end to the cases."""
        return None

    def clip(self, index: int, draw: int = 0) -> VideoClip:
        """Training window ``index``; a beat may start anywhere in it. ``draw`` 1, 2 ... show other patients."""
        return self._make(index, "clip", self.window.frames, draw)

    def case(self, index: int) -> VideoClip:
        """Evaluation case ``index``; cases and clips have separate identities."""
        return self._make(index, "case", self.window.case_frames)

    def patient(self, index: int, purpose: str = "clip", attempt: int = 0) -> tuple[Patient, float]:
        """The patient of a clip or case in the renderer's form, and its sample weight."""
        draw = self._sampler.draw(index, purpose=purpose, attempt=attempt)
        key = clip_key(self.seed, purpose, index)
        fps = self.window.fps or draw.fps
        start = None
        rate = draw.conditions.heart_rate_bpm
        assert rate is not None
        if purpose == "case" and (self.window.case_frames - 1) / fps * rate / 60.0 < 1.0:
            start = -0.05 * float(Draws([key]).uniform("start", 0.0, 1.0))  # short: begin just before end-diastole
        return Patient(draw.conditions, key, fps, start), draw.sample_weight

    def label_map(self, index: int, purpose: str, num_frames: int, draw: int = 0) -> np.ndarray:
        """The labels (T, H, W) of this clip's heart from an end-diastole on; the clip itself may start elsewhere."""
        patient = dataclasses.replace(self.patient(index, purpose, draw)[0], start_phase=0.0)
        if self._renderer is None:
            return self._render(patient, num_frames)[1].numpy()
        return self._renderer.render([patient], num_frames=num_frames, labels_only=True).labels[0].numpy()

    def seen_as(self, sees: SeesConfig) -> PhantomSource:
        """The source of the same clips in another rendering."""
        other = copy.copy(self)
        other.window = dataclasses.replace(self.window, size=sees.size or self.window.size)
        if self._renderer is not None:
            own = self._renderer.domain
            scanner = DOMAINS[sees.domain].in_place_of(own) if sees.domain else own
            scanner = scanner if sees.noise else scanner.without_noise()
            scanner = scanner if sees.dropout else scanner.without_dropout()
            other._renderer = PhantomRenderer("cpu", domain=scanner, size=other.window.size)
        return other

    def _make(self, index: int, purpose: str, num_frames: int, draw: int = 0) -> VideoClip:
        patient, weight = self.patient(index, purpose, draw)
        length = num_frames or self._sampler.draw(index, purpose=purpose, attempt=draw).num_frames
        video, labels, spacing_mm, ed_frames, es_frames = self._render(patient, length)
        return VideoClip(
            clip_id=f"phantom-{self.domain}-s{self.seed}-{clip_tag(index, purpose, draw)}-e0-w0",
            index=index,
            seed=self.seed,
            epoch=0,
            window_start=0,
            video=video.numpy(),
            fps=patient.fps,
            source=self.name,
            domain=self.domain,
            spacing_mm=spacing_mm,
            conditions=patient.conditions,
            sample_weight=weight,
            truth_labels=labels.numpy(),
            class_names=PHANTOM_CLASSES,
            ed_frames=ed_frames,
            es_frames=es_frames,
        )

    def _render(self, patient: Patient, num_frames: int) -> _Rendered:
        if self._renderer is None:
            wild = render_wild(patient, num_frames=num_frames, size=self.window.size, ranges=self._ranges)
            return wild.video, wild.labels, wild.spacing_mm, wild.ed_frames, wild.es_frames
        made = self._renderer.render([patient], num_frames=num_frames)
        assert made.video is not None
        return made.video[0], made.labels[0], float(made.spacing_mm[0]), made.ed_frames[0], made.es_frames[0]


def clip_tag(index: int, purpose: str, draw: int = 0) -> str:
    """The part of a drawn clip's id that says which one of its seed it is."""
    return f"{'i' if purpose == 'clip' else 'case'}{index}{f'd{draw}' if draw else ''}"


def default_phantom(
    *, seed: int, num_frames: int, fps: float, size: int, case_frames: int, domain: str = "default"
) -> PhantomSource:
    """A phantom of the default patients (see `PhantomSource`)."""
    window = WindowSettings(num_frames, fps, size, case_frames)
    return PhantomSource(ConditionSampler(ConditionsConfig(), seed=seed), window, seed=seed, domain=domain)
