"""Patients in, videos and truth out: the phantom's renderer, batched torch on a CPU or a GPU.

On a CPU clips are rendered one by one and a few frames at a time, so that the data of an operation stay in the cache;
the result then depends only on the clip. On a GPU each operation processes many clips at once.

Legend: N clips, T frames, H = W = size, K landmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch

from echodfkd.core.records import Conditions
from echodfkd.sources.phantom.anatomy import Anatomy, Motion, Timing, condition, draw_anatomy, draw_timing, move
from echodfkd.sources.phantom.chambers import Canvas, Echo, Heart
from echodfkd.sources.phantom.domains import ScannerDomain
from echodfkd.sources.phantom.draws import Draws
from echodfkd.sources.phantom.image import Still, compress, heart_axes, pixel_grid, prepare_still, tissue_texture
from echodfkd.sources.phantom.overlays import block_artefacts, draw_ecg, text_layer
from echodfkd.sources.phantom.truth import find_events, landmarks
from echodfkd.sources.phantom.view import Optics, Pose, draw_optics, draw_pose

_CPU_PIXELS = 1 << 17
_GPU_PIXELS = 1 << 26
_COUNTERS = ("speckle", "slow", "patches", "noise")


@dataclass(frozen=True)
class Patient:
    """One clip to render.

    ``conditions`` must be filled: EF, EDV, ESV, heart rate, age, view, image quality. ``key`` (64 bits) decides
    everything else about the patient, the probe and the noise (`draws.clip_key`). The clip starts ``start_phase`` beats
    after an end-diastole, or anywhere in a beat if it is None.

    Example: ``Patient(conditions, clip_key(0, "clip", 17), fps=50.0)``.
    """

    conditions: Conditions
    key: int
    fps: float
    start_phase: float | None = None


@dataclass(frozen=True)
class RenderedClips:
    """Rendered clips and their truth.

    ``video`` and ``labels`` are uint8 (N, T, H, W) on the renderer's device, labels into `PHANTOM_CLASSES`
    (``video`` is None if only labels were requested). float64 (N, T) on the CPU: ``phase`` (beats since an
    end-diastole), ``volume_ml``, ``length_mm`` (long axis), ``mitral_open`` 0..1 and ``aortic_open`` 0 or 1.
    ``landmarks_px`` (N, T, K, 2) are columns and rows in pixels, the first pixel's centre at 0. ``end_systole`` (N,)
    is its phase, ``spacing_mm`` (N,) the side of a pixel.
    """

    video: torch.Tensor | None
    labels: torch.Tensor
    phase: torch.Tensor
    volume_ml: torch.Tensor
    length_mm: torch.Tensor
    mitral_open: torch.Tensor
    aortic_open: torch.Tensor
    landmarks_px: torch.Tensor
    end_systole: torch.Tensor
    spacing_mm: torch.Tensor
    ed_frames: tuple[tuple[int, ...], ...]
    es_frames: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Scene:
    """All parameters of a batch of clips, float64 on the CPU."""

    anatomy: Anatomy
    timing: Timing
    motion: Motion
    optics: Optics
    echo: Echo
    pose: Pose


class PhantomRenderer:
    """Renders patients as imaged by one scanner.

    Args:
        device: where pixels are computed, e.g. "cpu" or "cuda".
        domain: the scanner.
        size: H = W of a frame in pixels, 16 or more.
    """

    def __init__(self, device: torch.device | str, *, domain: ScannerDomain, size: int) -> None:
        self.device = torch.device(device)
        self.domain = domain
        self.size = size

    @torch.inference_mode()
    def render(
        self, patients: Sequence[Patient], *, num_frames: int, perturbed: bool = True, labels_only: bool = False
    ) -> RenderedClips:
        """Render ``num_frames`` frames of each patient.

        Args:
            patients: one or more; a clip is the same in any batch (on a CPU, bit for bit).
            num_frames: T.
            perturbed: False leaves out all deviations of the view (tilt, off-axis, foreshortening, rotation,
                breathing, shake, rocking): the long axis is upright at its true length.
            labels_only: True computes no video.
        """
        clips = 1 if self.device.type == "cpu" else max(1, _GPU_PIXELS // (num_frames * self.size**2))
        groups = [patients[start : start + clips] for start in range(0, len(patients), clips)]
        return _join([self._render(group, num_frames, perturbed, labels_only) for group in groups])

    def scene(self, patients: Sequence[Patient], *, num_frames: int, perturbed: bool = True) -> Scene:
        """Draw anatomy, motion, probe and machine of these patients."""
        draws = Draws([patient.key for patient in patients])
        conditions = [patient.conditions for patient in patients]
        anatomy = draw_anatomy(conditions, draws)
        rate = condition(conditions, "heart_rate_bpm")
        timing = draw_timing(rate, draws)
        start = draws.uniform("start", 0.0, 1.0)
        for number, patient in enumerate(patients):
            if patient.start_phase is not None:
                start[number] = patient.start_phase
        fps = torch.tensor([patient.fps for patient in patients], dtype=torch.float64)
        frames = torch.arange(num_frames, dtype=torch.float64)
        phase = start[:, None] + (rate / 60.0 / fps)[:, None] * frames
        motion = move(anatomy, timing, conditions, draws, phase=phase)
        optics, echo = draw_optics(self.domain, conditions, anatomy, draws)
        pose, optics = draw_pose(self.domain, conditions, anatomy, motion, optics, draws, perturbed=perturbed)
        return Scene(anatomy, timing, motion, optics, echo, pose)

    def _render(
        self, patients: Sequence[Patient], num_frames: int, perturbed: bool, labels_only: bool
    ) -> RenderedClips:
        scene = self.scene(patients, num_frames=num_frames, perturbed=perturbed)
        stage = PreparedScene(patients, scene, device=self.device, size=self.size)
        shape = (len(patients), num_frames, self.size, self.size)
        labels = torch.empty(shape, dtype=torch.uint8, device=self.device)
        video = None if labels_only else torch.empty_like(labels)
        pixels = _CPU_PIXELS if self.device.type == "cpu" else _GPU_PIXELS
        step = max(1, pixels // (len(patients) * self.size**2))
        for first in range(0, num_frames, step):
            part = slice(first, min(first + step, num_frames))
            heart = stage.heart(part)
            labels[:, part] = heart.labels()
            if video is not None:
                video[:, part] = stage.image(heart, part)
        return _result(video, labels, scene, self.size)


class PreparedScene:
    """A scene on a device, float32, from which its pixels are computed.

    Args:
        patients: the patients of the scene.
        scene: their parameters.
        device: where pixels are computed.
        size: H = W of a frame in pixels.
    """

    def __init__(self, patients: Sequence[Patient], scene: Scene, *, device: torch.device, size: int) -> None:
        self._patients, self._scene, self._device = patients, scene, device
        self._draws = Draws([patient.key for patient in patients])
        self._anatomy, self._motion = _on_device(scene.anatomy, device), _on_device(scene.motion, device)
        self._pose, self._echo = _on_device(scene.pose, device), _on_device(scene.echo, device)
        self.optics: Optics = _on_device(scene.optics, device)
        self.grid = pixel_grid(self.optics, size)

    def heart(self, part: slice = slice(None)) -> Heart:
        """Chambers at the pixels of some frames."""
        axes = heart_axes(self.grid, _frames(self._pose, part))
        return Heart(*axes, self._anatomy, _frames(self._motion, part))

    @cached_property
    def still(self) -> Still:
        """Fields that are the same in all frames."""
        return prepare_still(
            self.grid, self.optics, {name: self._draws.counters(name, self._device) for name in _COUNTERS}
        )

    def image(self, heart: Heart, part: slice) -> torch.Tensor:
        """Video uint8 (N, T, H, W) of these frames: echo levels, then the machine's image, then its overlays."""
        still, optics = self.still, self.optics
        speckle, slow = tissue_texture(heart, self.grid, optics, still.texture)
        level = Canvas(heart, self._echo, self.grid.pixel, still.haze, slow).paint_all()
        frame_numbers = torch.arange(part.start, part.stop, dtype=torch.int32, device=self._device)
        grey = compress(level, speckle, still, optics, frame_numbers)
        if self._text is not None:
            grey = torch.maximum(grey, self._text)
        if bool(self._scene.optics.ecg.any()):
            draw_ecg(grey, heart.motion.phase, optics.ecg * optics.overlay_level)
        grey = block_artefacts(grey.mul_(255.0), optics.jpeg)
        return grey.round_().clamp_(0.0, 255.0).to(torch.uint8)

    @cached_property
    def _text(self) -> torch.Tensor | None:
        """Text overlays (N, 1, H, W), or None if no clip has text."""
        optics, size = self._scene.optics, self.grid.size
        if not bool(optics.text.any()):
            return None
        right = self._draws.chance("text right", 0.4)
        layers = torch.zeros(len(self._patients), 1, size, size)
        for number, patient in enumerate(self._patients):
            if optics.text[number] > 0.0:
                rate, depth = patient.conditions.heart_rate_bpm, float(optics.depth[number])
                lines = (f"FR {patient.fps:.0f}HZ", f"{depth / 10.0:.0f}CM", f"HR {rate:.0f}")
                layer = text_layer(lines, size, right=bool(right[number] > 0.0))
                layers[number, 0] = layer * float(optics.overlay_level[number])
        return layers.to(self._device)


def _result(video: torch.Tensor | None, labels: torch.Tensor, scene: Scene, size: int) -> RenderedClips:
    motion = scene.motion
    events = [
        find_events(phase, volume, float(end))
        for phase, volume, end in zip(motion.phase, motion.volume, scene.timing.end_systole, strict=True)
    ]
    return RenderedClips(
        video=video,
        labels=labels,
        phase=motion.phase,
        volume_ml=motion.volume,
        length_mm=motion.length,
        mitral_open=motion.mitral_open,
        aortic_open=motion.aortic_open,
        landmarks_px=landmarks(scene.anatomy, scene.motion, scene.optics, scene.pose, size),
        end_systole=scene.timing.end_systole,
        spacing_mm=scene.optics.side / size,
        ed_frames=tuple(ed for ed, _ in events),
        es_frames=tuple(es for _, es in events),
    )


def _on_device(record: Any, device: torch.device) -> Any:
    """A dataclass of (N,) or (N, T) tensors as float32 (N, 1, 1, 1) or (N, T, 1, 1), in one transfer."""
    names = [item.name for item in fields(record)]
    packed = torch.stack([getattr(record, name) for name in names]).to(device, torch.float32)
    packed = packed[..., None, None] if packed.dim() == 3 else packed[..., None, None, None]
    return type(record)(**dict(zip(names, packed.unbind(0), strict=True)))


def _frames(record: Any, part: slice) -> Any:
    return type(record)(**{item.name: getattr(record, item.name)[:, part] for item in fields(record)})


def _join(parts: list[RenderedClips]) -> RenderedClips:
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {}
    for item in fields(RenderedClips):
        values = [getattr(part, item.name) for part in parts]
        if isinstance(values[0], torch.Tensor):
            joined[item.name] = torch.cat(values)
        else:
            joined[item.name] = sum(values, ()) if values[0] is not None else None
    return RenderedClips(**joined)
