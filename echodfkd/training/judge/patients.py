"""Phantom patients of both views, to train and to measure the embedded judge.

Legend: N frames, T frames of a video, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from echodfkd.config.sections.source import ChoiceSpec, ConditionsConfig
from echodfkd.core.counter import Counter
from echodfkd.sources.clip_source import WindowSettings
from echodfkd.sources.patients.sampler import ConditionSampler
from echodfkd.sources.phantom.domains import DOMAINS, WILD
from echodfkd.sources.phantom.renderer import Patient, PhantomRenderer
from echodfkd.sources.phantom.source import PhantomSource
from echodfkd.sources.phantom.wild.renderer import WildClip, render_wild


@dataclass(frozen=True)
class JudgedPatient:
    """A video, uint8 (T, H, W), its ventricle, bool (T, H, W), and facts about it.

    ``facts`` are float32 (T,): numbers of the patient, the same in all frames (``image_quality_percent`` and
    ``two_chamber`` and ``male``, 0 or 1, among them), and of each frame ``valve_open``, 0 or 1, and ``emptied``: the
    share of the stroke volume that has left. Events are frame numbers.
    """

    video: torch.Tensor
    lv_mask: torch.Tensor
    facts: dict[str, torch.Tensor]
    fps: float
    ed_frames: tuple[int, ...]
    es_frames: tuple[int, ...]


class JudgedPatients:
    """Patients of the default distribution, but half of them in the A2C view.

    Args:
        seed: of the patients.
        num_frames: T.
        fps: frames a second.
        size: H = W in pixels.
        domain: of the phantom.
    """

    def __init__(self, *, seed: int, num_frames: int, fps: float, size: int, domain: str = "default") -> None:
        conditions = ConditionsConfig(view=ChoiceSpec(shares={"A4C": 0.5, "A2C": 0.5}))
        window = WindowSettings(num_frames, fps, size, num_frames)
        self._source = PhantomSource(ConditionSampler(conditions, seed=seed), window, seed=seed, domain=domain)
        self._renderer = None if domain == WILD else PhantomRenderer("cpu", domain=DOMAINS[domain], size=size)
        self._num_frames, self._size = num_frames, size

    def patient(self, index: int) -> JudgedPatient:
        """Patient ``index``."""
        patient, _ = self._source.patient(index)
        made = self._render(patient)
        known = patient.conditions
        edv, esv, quality = known.edv_ml, known.esv_ml, known.image_quality
        assert edv is not None
        assert esv is not None
        assert quality is not None
        volume = made.volume_ml.float()
        facts = {
            name: torch.full_like(volume, float(getattr(known, name)))
            for name in ("ef_percent", "edv_ml", "esv_ml", "heart_rate_bpm", "age_years", "bsa_m2")
        }
        facts["image_quality_percent"] = torch.full_like(volume, 100 * quality)
        facts["two_chamber"] = torch.full_like(volume, float(known.view == "A2C"))
        facts["male"] = torch.full_like(volume, float(known.sex == "M"))
        facts["valve_open"] = (made.mitral_open > 0).float()
        facts["emptied"] = ((edv - volume) / (edv - esv)).clamp(0, 1)
        return JudgedPatient(made.video, made.labels == 1, facts, patient.fps, made.ed_frames, made.es_frames)

    def _render(self, patient: Patient) -> WildClip:
        """Of any domain."""
        if self._renderer is None:
            return render_wild(patient, num_frames=self._num_frames, size=self._size)
        clips = self._renderer.render([patient], num_frames=self._num_frames)
        assert clips.video is not None
        curves = clips.phase[0], clips.volume_ml[0], clips.mitral_open[0]
        events = clips.ed_frames[0], clips.es_frames[0]
        return WildClip(clips.video[0], clips.labels[0], *curves, float(clips.spacing_mm[0]), *events)


@dataclass(frozen=True)
class FramePool:
    """Frames to draw batches from: uint8 and bool (N, H, W), and facts about each, float32 (N,)."""

    frames: torch.Tensor
    lv_mask: torch.Tensor
    facts: dict[str, torch.Tensor]

    @staticmethod
    def draw_from(source: JudgedPatients, count: int, say: Callable[[str], None]) -> FramePool:
        """All frames of so many patients."""
        patients = []
        with Counter("patients", count, say) as counter:
            for index in range(count):
                patients.append(source.patient(index))
                counter.show(index + 1)
        facts = {name: torch.cat([patient.facts[name] for patient in patients]) for name in patients[0].facts}
        frames = torch.cat([patient.video for patient in patients])
        return FramePool(frames, torch.cat([patient.lv_mask for patient in patients]), facts)

    def draw(self, count: int, generator: torch.Generator) -> FramePool:
        """Frames at random, half of them mirrored."""
        pick = torch.randint(0, len(self.frames), (count,), generator=generator)
        flip = torch.rand(count, 1, 1, generator=generator) < 0.5
        frames, mask = self.frames[pick], self.lv_mask[pick]
        facts = {name: values[pick] for name, values in self.facts.items()}
        return FramePool(torch.where(flip, frames.flip(2), frames), torch.where(flip, mask.flip(2), mask), facts)


def draw_pools(domains: Sequence[str], patients: int, *, seed: int, say: Callable[[str], None]) -> list[FramePool]:
    """The pools that take turns in training: of each domain three of 56 pixels and one of 112, as often as it is named.

    ``patients`` are those of a domain, four fifths of them at 56 pixels.
    """
    pools = []
    for domain in sorted(set(domains)):
        drawn = []
        for size, share in ((56, 0.8), (112, 0.2)):
            source = JudgedPatients(seed=seed + size, num_frames=4, fps=7.0, size=size, domain=domain)
            drawn.append(FramePool.draw_from(source, int(patients * share), say))
        pools += domains.count(domain) * [drawn[0], drawn[0], drawn[0], drawn[1]]
    return pools
