"""Measurements of the phantom's claims: volumes, heart rates, speckle statistics. Used by tests and by `phantom_truth`.

Volumes and heart rates are measured on the label maps, as a reader of the masks would, never taken from the renderer's
own numbers.

Legend: N clips, T frames, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from echodfkd.sources.phantom.image import tissue_texture
from echodfkd.sources.phantom.renderer import Patient, PhantomRenderer, PreparedScene


@dataclass(frozen=True)
class VolumeSweep:
    """Asked for and found, float64 (N,) each: mL and %."""

    edv_asked: np.ndarray
    edv_found: np.ndarray
    esv_asked: np.ndarray
    esv_found: np.ndarray
    ef_asked: np.ndarray
    ef_found: np.ndarray


def sweep_volumes(patients: Sequence[Patient], renderer: PhantomRenderer) -> VolumeSweep:
    """End-diastolic and end-systolic volumes by the area-length rule 8 A^2 / (3 pi L) on unperturbed masks.

    A is the number of pixels, L the mean number of mask rows in the two columns nearest to the apex: the long axis of
    an unperturbed view is vertical.
    """
    found = []
    for patient in patients:
        first = replace(patient, start_phase=0.0)
        systole = float(renderer.scene([first], num_frames=1).timing.end_systole[0])
        rate = patient.conditions.heart_rate_bpm
        assert rate is not None
        events = replace(first, fps=rate / 60.0 / systole)  # frame 0 at end-diastole, frame 1 at end-systole
        clips = renderer.render([events], num_frames=2, perturbed=False, labels_only=True)
        mask = (clips.labels[0] == 1).cpu().numpy()
        apex = float(clips.landmarks_px[0, 0, 0, 0])
        length = mask[:, :, [math.floor(apex), math.ceil(apex)]].sum(1).mean(1)
        spacing = float(clips.spacing_mm[0])
        found.append(8.0 * mask.sum((1, 2)) ** 2 * spacing**3 / (3.0 * math.pi * length) / 1000.0)
    edv, esv = np.array(found).T
    asked = [(p.conditions.edv_ml, p.conditions.esv_ml, p.conditions.ef_percent) for p in patients]
    edv_asked, esv_asked, ef_asked = np.array(asked, dtype=np.float64).T
    return VolumeSweep(edv_asked, edv, esv_asked, esv, ef_asked, 100.0 * (1.0 - esv / edv))


def measure_heart_rate(area: np.ndarray, fps: float) -> float:
    """Beats per minute of an area curve (T,) with at least two ejections; NaN with fewer.

    The area falls once per beat. The mean time between falls through the mid level is taken, by linear interpolation;
    between two falls the area must rise to three quarters.
    """
    level = (area - area.min()) / max(float(area.max() - area.min()), 1e-9)
    times, ready = [], False
    for frame in range(1, len(level)):
        ready = ready or level[frame - 1] > 0.75
        if ready and level[frame - 1] >= 0.5 > level[frame]:
            times.append(frame - 1 + (level[frame - 1] - 0.5) / (level[frame - 1] - level[frame]))
            ready = False
    if len(times) < 2:
        return math.nan
    return 60.0 * fps * (len(times) - 1) / (times[-1] - times[0])


def sweep_heart_rates(patients: Sequence[Patient], renderer: PhantomRenderer, *, fps: float) -> np.ndarray:
    """Heart rate (N,) measured on the mask area over three beats of each patient, unperturbed."""
    found = []
    for patient in patients:
        rate = patient.conditions.heart_rate_bpm
        assert rate is not None
        frames = math.ceil(3.0 * 60.0 / rate * fps)
        clips = renderer.render([replace(patient, fps=fps)], num_frames=frames, perturbed=False, labels_only=True)
        area = (clips.labels[0] == 1).sum((1, 2)).cpu().numpy().astype(np.float64)
        found.append(measure_heart_rate(area, fps))
    return np.array(found)


def best_threshold_dice(video: np.ndarray, mask: np.ndarray) -> float:
    """Best Dice of any grey-level threshold, in either polarity, against a mask."""
    inside = np.bincount(video[mask], minlength=256).cumsum()
    chosen = np.bincount(video.ravel(), minlength=256).cumsum()
    total = int(mask.sum())
    dark = 2 * inside / (chosen + total)
    bright = 2 * (total - inside) / (video.size - chosen + total)
    return float(max(dark.max(), bright.max()))


def rayleigh_distance(power: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of amplitudes to the Rayleigh distribution of equal mean power.

    Args:
        power: squared amplitudes, any shape. The power of a Rayleigh amplitude is exponential; the distance is the
            same for both.
    """
    sample = np.sort(power, axis=None).astype(np.float64)
    expected = 1.0 - np.exp(-sample / sample.mean())
    steps = np.arange(len(sample) + 1) / len(sample)
    return float(max((steps[1:] - expected).max(), (expected - steps[:-1]).max()))


def uniform_power(renderer: PhantomRenderer, patients: Sequence[Patient]) -> np.ndarray:
    """Squared speckle amplitudes in the first frame of each patient, every seventh pixel in the middle of the sector.

    Seven pixels are more than a speckle grain, so that samples are independent.
    """
    samples = []
    for patient in patients:
        scene = renderer.scene([patient], num_frames=1)
        stage = PreparedScene([patient], scene, device=renderer.device, size=renderer.size)
        power = tissue_texture(stage.heart(), stage.grid, stage.optics, stage.still.texture)[0]
        half = renderer.size // 4
        samples.append(power[0, 0, half:-half:7, half:-half:7].cpu().numpy().ravel())
    return np.concatenate(samples)
