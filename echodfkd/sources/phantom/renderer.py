"""Patients in, videos and truth out: the phantom's renderer, batched torch on a CPU or a GPU.

On a CPU clips are rendered one by one and a few frames at a time, so that what an operation reads still lies in the
cache; the result then depends on nothing but the clip. On a GPU many clips go through each operation at once.

Legend: N clips, T frames, H = W = size, K landmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from echodfkd.core.records import Conditions
from echodfkd.sources.phantom.anatomy import Anatomy, Motion, Timing, condition, draw_anatomy, draw_timing, move
from echodfkd.sources.phantom.chambers import Canvas, Echo, Heart
from echodfkd.sources.phantom.domains import ScannerDomain
from echodfkd.sources.phantom.draws import Draws
from echodfkd.sources.phantom.image import Grid, Still, compress, heart_axes, pixel_grid, prepare_still, tissue_texture
from echodfkd.sources.phantom.overlays import block_artefacts, draw_ecg, text_layer
from echodfkd.sources.phantom.truth import find_events, landmarks
from echodfkd.sources.phantom.view import Optics, Pose, draw_optics, draw_pose

_CPU_PIXELS = 1 << 17
_GPU_PIXELS = 1 << 26
_COUNTERS = ("speckle", "slow", "patches", "noise")


@dataclass(frozen=True)
class Patient:
    """One clip to render.

    ``conditions`` must be filled: EF, EDV, ESV, heart rate, age, view, image quality. ``key`` (64 bits) decides all
    else about the patient, the probe and the noise (`phantom_draws.clip_key`). The clip starts ``start_phase`` beats
    after an end-diastole, or, where None, anywhere in a beat.

    Example: ``Patient(conditions, clip_key(0, "clip", 17), fps=50.0)``.
    """

    conditions: Conditions
    key: int
    fps: float
    start_phase: float | None = None


@dataclass(frozen=True)
class RenderedClips:
    """Clips and all that is true of them.

    ``video`` and ``labels`` are uint8 (N, T, H, W) on the renderer's device, labels into `PHANTOM_CLASSES`
    (``video`` is None where only labels were asked for). float64 (N, T) on the CPU: ``phase`` (beats since an
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
    """All numbers of a batch of clips before any pixel: float64 on the CPU."""

    anatomy: Anatomy
    timing: Timing
    motion: Motion
    optics: Optics
    echo: Echo
    pose: Pose


class PhantomRenderer:
    """Renders patients as one scanner sees them.

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
            patients: one or more; each clip is the same alone and in any batch (on a CPU, bit for bit).
            num_frames: T.
            perturbed: False leaves out what a hand does to the view (tilt, off-axis, foreshortening, rotation,
                breathing, shake, rocking): the long axis stands upright at its true length.
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
        anatomy, optics = _on_device(scene.anatomy, self.device), _on_device(scene.optics, self.device)
        echo, grid = _on_device(scene.echo, self.device), pixel_grid(optics, self.size)
        motion, pose = _on_device(scene.motion, self.device), _on_device(scene.pose, self.device)
        shape = (len(patients), num_frames, self.size, self.size)
        labels = torch.empty(shape, dtype=torch.uint8, device=self.device)
        video = None if labels_only else torch.empty_like(labels)
        still = text = None
        if not labels_only:
            draws = Draws([patient.key for patient in patients])
            still = prepare_still(grid, optics, {name: draws.counters(name, self.device) for name in _COUNTERS})
            text = self._text(patients, scene, draws)
        pixels = _CPU_PIXELS if self.device.type == "cpu" else _GPU_PIXELS
        step = max(1, pixels // (len(patients) * self.size**2))
        for first in range(0, num_frames, step):
            part = slice(first, min(first + step, num_frames))
            moving = _frames(motion, part)
            heart = Heart(*heart_axes(grid, _frames(pose, part)), anatomy, moving)
            labels[:, part] = heart.labels()
            if video is not None and still is not None:
                numbers = torch.arange(part.start, part.stop, dtype=torch.int32, device=self.device)
                video[:, part] = self._image(heart, grid, still, optics, echo, numbers, text, scene)
        return _result(video, labels, scene, self.size)

    def _image(
        self,
        heart: Heart,
        grid: Grid,
        still: Still,
        optics: Optics,
        echo: Echo,
        frame_numbers: torch.Tensor,
        text: torch.Tensor | None,
        scene: Scene,
    ) -> torch.Tensor:
        """Video uint8 (N, T, H, W) of these frames."""
        speckle, slow = tissue_texture(heart, grid, optics, still.texture)
        level = Canvas(heart, echo, grid.pixel, still.haze, slow).paint_all()
        grey = compress(level, speckle, still, optics, frame_numbers)
        if text is not None:
            grey = torch.maximum(grey, text)
        if bool(scene.optics.ecg.any()):
            draw_ecg(grey, heart.motion.phase, optics.ecg * optics.overlay_level)
        grey = block_artefacts(grey.mul_(255.0), optics.jpeg)
        return grey.round_().clamp_(0.0, 255.0).to(torch.uint8)

    def _text(self, patients: Sequence[Patient], scene: Scene, draws: Draws) -> torch.Tensor | None:
        """What the machine writes, (N, 1, H, W), or None where no clip has text."""
        if not bool(scene.optics.text.any()):
            return None
        right = draws.chance("text right", 0.4)
        layers = torch.zeros(len(patients), 1, self.size, self.size)
        for number, patient in enumerate(patients):
            if scene.optics.text[number] > 0.0:
                rate, depth = patient.conditions.heart_rate_bpm, float(scene.optics.depth[number])
                lines = (f"FR {patient.fps:.0f}HZ", f"{depth / 10.0:.0f}CM", f"HR {rate:.0f}")
                layer = text_layer(lines, self.size, right=bool(right[number] > 0.0))
                layers[number, 0] = layer * float(scene.optics.overlay_level[number])
        return layers.to(self.device)


def prepare_frames(
    renderer: PhantomRenderer, patients: Sequence[Patient], scene: Scene
) -> tuple[Heart, Grid, Optics, Still]:
    """What all pixels of a scene are computed from, for a look at the fields behind an image."""
    device = renderer.device
    draws = Draws([patient.key for patient in patients])
    anatomy, optics = _on_device(scene.anatomy, device), _on_device(scene.optics, device)
    grid = pixel_grid(optics, renderer.size)
    heart = Heart(*heart_axes(grid, _on_device(scene.pose, device)), anatomy, _on_device(scene.motion, device))
    still = prepare_still(grid, optics, {name: draws.counters(name, device) for name in _COUNTERS})
    return heart, grid, optics, still


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
