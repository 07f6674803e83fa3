"""The embedded generator of clips: a beating heart phantom in an apical view, made from (seed, index) alone.

It stands in for a generative model wherever there is no download, no patient data and no GPU. Truth is known for
every frame: chambers, wall, end-diastole and end-systole, volumes. It is made to be learned by shape: the other
chambers and the outside are as dark as the left ventricle, so that no threshold on grey levels finds it. Torch only.
"""

from __future__ import annotations

from echodfkd.config.sections.source import ConditionsConfig
from echodfkd.core.errors import ConfigError
from echodfkd.core.records import Conditions, VideoClip
from echodfkd.sources.patients.sampler import ConditionSampler
from echodfkd.sources.phantom.chambers import PHANTOM_CLASSES
from echodfkd.sources.phantom.domains import DOMAINS
from echodfkd.sources.phantom.draws import Draws, clip_key
from echodfkd.sources.phantom.renderer import Patient, PhantomRenderer, RenderedClips


class PhantomSource:
    """Endless, pure source of phantom clips (see `echodfkd.sources.clip_source.ClipSource`).

    Args:
        seed: first half of every clip's identity, 0 or more.
        num_frames: frames T of a training window; 0 draws each clip's own length.
        fps: frame rate; 0 takes each patient's own.
        size: side of a frame in pixels, 16 or more.
        case_frames: frames of an evaluation case. Where they last a beat or more, a case holds a whole beat.
        sampler: draws the patients.
        domain: name of a scanner in `DOMAINS`.

    Raises:
        ConfigError: a value is out of range.
    """

    name = "phantom"

    def __init__(
        self,
        *,
        seed: int,
        num_frames: int,
        fps: float,
        size: int,
        case_frames: int,
        sampler: ConditionSampler,
        domain: str,
    ) -> None:
        least = (("seed", seed, 0), ("window.frames", num_frames, 0), ("window.fps", fps, 0), ("window.size", size, 16))
        for option, value, low in (*least, ("evaluation.frames", case_frames, 1)):
            if not value >= low:
                raise ConfigError(f"{option}: got {value}, the phantom needs at least {low}")
        if domain not in DOMAINS:
            raise ConfigError(f"source.domain: got {domain!r}, the phantom has {', '.join(DOMAINS)}")
        self.seed = seed
        self.num_frames = num_frames
        self.fps = fps
        self.case_frames = case_frames
        self.domain = domain
        self._sampler = sampler
        self._renderer = PhantomRenderer("cpu", domain=DOMAINS[domain], size=size)

    @property
    def num_cases(self) -> int | None:
        """None: there is no end to the cases."""
        return None

    def clip(self, index: int) -> VideoClip:
        """Training window ``index``; a beat may start anywhere in it."""
        return self._make(index, "clip", self.num_frames)

    def case(self, index: int) -> VideoClip:
        """Evaluation case ``index``, of its own identity space."""
        return self._make(index, "case", self.case_frames)

    def patient(self, index: int, purpose: str = "clip") -> tuple[Patient, float]:
        """The patient of a clip or case as the renderer takes it, and its sample weight."""
        draw = self._sampler.draw(index, purpose=purpose)
        key = clip_key(self.seed, purpose, index)
        fps = self.fps or draw.fps
        start = None
        rate = draw.conditions.heart_rate_bpm
        assert rate is not None
        if purpose == "case" and (self.case_frames - 1) / fps * rate / 60.0 < 1.0:
            start = -0.05 * float(Draws([key]).uniform("start", 0.0, 1.0))  # short: begin just before end-diastole
        return Patient(draw.conditions, key, fps, start), draw.sample_weight

    def _make(self, index: int, purpose: str, num_frames: int) -> VideoClip:
        patient, weight = self.patient(index, purpose)
        length = num_frames or self._sampler.draw(index, purpose=purpose).num_frames
        clips = self._renderer.render([patient], num_frames=length)
        tag = "i" if purpose == "clip" else "case"
        return as_clip(
            clips,
            0,
            clip_id=f"phantom-{self.domain}-s{self.seed}-{tag}{index}-e0-w0",
            index=index,
            seed=self.seed,
            fps=patient.fps,
            domain=self.domain,
            conditions=patient.conditions,
            sample_weight=weight,
        )


def as_clip(
    clips: RenderedClips,
    number: int,
    *,
    clip_id: str,
    index: int,
    seed: int,
    fps: float,
    domain: str,
    conditions: Conditions,
    sample_weight: float,
) -> VideoClip:
    """Clip ``number`` of a rendered batch as a record."""
    assert clips.video is not None
    return VideoClip(
        clip_id=clip_id,
        index=index,
        seed=seed,
        epoch=0,
        window_start=0,
        video=clips.video[number].cpu().numpy(),
        fps=fps,
        source=PhantomSource.name,
        domain=domain,
        spacing_mm=float(clips.spacing_mm[number]),
        conditions=conditions,
        sample_weight=sample_weight,
        truth_labels=clips.labels[number].cpu().numpy(),
        class_names=PHANTOM_CLASSES,
        ed_frames=clips.ed_frames[number],
        es_frames=clips.es_frames[number],
    )


def default_phantom(
    *, seed: int, num_frames: int, fps: float, size: int, case_frames: int, domain: str = "default"
) -> PhantomSource:
    """A phantom of the default patients (see `PhantomSource`)."""
    return PhantomSource(
        seed=seed,
        num_frames=num_frames,
        fps=fps,
        size=size,
        case_frames=case_frames,
        sampler=ConditionSampler(ConditionsConfig(), seed=seed),
        domain=domain,
    )
