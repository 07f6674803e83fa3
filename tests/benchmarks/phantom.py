"""Speed of the phantom, its agreement between devices, and its proof that clips show the conditions asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from echodfkd.sources.phantom.domains import DOMAINS
from echodfkd.sources.phantom.renderer import PhantomRenderer
from echodfkd.sources.phantom.source import default_phantom
from tests.benchmarks.phantom_proofs import (
    best_threshold_dice,
    rayleigh_distance,
    sweep_heart_rates,
    sweep_volumes,
    uniform_power,
)
from tests.benchmarks.timing import Report, best_time
from tests.helpers.teachers import lv_prob

CPU_TARGET, GPU_TARGET = 60.0, 20_000.0
"""Frames per second at 112 x 112, on one core and on a GPU."""
FRAMES = 32
LABELS_APART = 1e-3
"""Largest share of pixels with another label than on the CPU. Not 0: sines and logarithms differ in their last digits,
and a pixel's label may flip at a border."""
LEVELS_APART = 0.5
"""Largest mean difference of the pixels to the CPU's, in grey levels."""


def phantom(report: Report, *, quick: bool) -> dict[str, Any]:
    """Frames per second of the phantom beside those of the embedded teacher, on one core."""
    rates: dict[str, float] = {}
    clips, frames = (2, 16) if quick else (12, 96)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for size in (56, 112):
            rates[f"phantom_{size}"] = _phantom_rate("cpu", size=size, clips=clips)
            rates[f"teacher_{size}"] = _teacher_rate(size=size, frames=frames)
    finally:
        torch.set_num_threads(threads)
    for name, rate in rates.items():
        report(f"{name:<18} {rate:10.0f} frames/s")
    return {
        "value": round(rates["phantom_112"], 1),
        "unit": "frames/s at 112 x 112 on one core",
        "target": CPU_TARGET,
        "holds": rates["phantom_112"] >= CPU_TARGET,
        "ratio": round(rates["phantom_112"] / rates["teacher_112"], 2),
        "ratio_of": "phantom to embedded teacher at 112 x 112, one core each",
        "rates": {name: round(rate, 1) for name, rate in rates.items()},
    }


def phantom_gpu(report: Report, *, quick: bool) -> dict[str, Any]:
    """Clips per second of the phantom's renderer on a GPU, and its agreement with the renderer on a CPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    labels_apart, levels_apart = renderers_apart(device, clips=2 if quick else 16)
    report(f"{device} against cpu: labels differ at {labels_apart:.1e} of the pixels (limit {LABELS_APART:g}),")
    report(f"pixels by {levels_apart:.1e} grey levels on average (limit {LEVELS_APART:g})")
    rate = _phantom_rate(device, size=112, clips=2 if quick else 64)
    report(f"{device}: {rate / FRAMES:.1f} clips/s of {FRAMES} frames of 112 x 112, {rate:.0f} frames/s")
    agrees = labels_apart <= LABELS_APART and levels_apart <= LEVELS_APART
    return {
        "value": round(rate, 1),
        "unit": "frames/s at 112 x 112",
        "target": GPU_TARGET,
        "holds": agrees and rate >= GPU_TARGET,
        "agrees": agrees,
        "device": device,
        "clips_per_s": round(rate / FRAMES, 2),
        "labels_apart": labels_apart,
        "levels_apart": levels_apart,
    }


def renderers_apart(device: str, *, clips: int) -> tuple[float, float]:
    """Render the same clips on a device and on the CPU.

    Returns:
        The share of pixels whose labels differ, and the mean difference of the pixels in grey levels.
    """
    source = default_phantom(seed=2, num_frames=8, fps=32.0, size=112, case_frames=8)
    patients = [source.patient(index)[0] for index in range(clips)]
    here, there = (
        PhantomRenderer(name, domain=DOMAINS["default"], size=112).render(patients, num_frames=8)
        for name in ("cpu", device)
    )
    labels = (here.labels != there.labels.cpu()).float().mean()
    levels = (here.video.float() - there.video.cpu().float()).abs().mean()
    return float(labels), float(levels)


def _phantom_rate(device: str, *, size: int, clips: int) -> float:
    """Frames per second with all effects and label maps, best of three."""
    source = default_phantom(seed=0, num_frames=FRAMES, fps=32.0, size=size, case_frames=FRAMES)
    renderer = PhantomRenderer(device, domain=DOMAINS["default"], size=size)

    def work() -> None:
        renderer.render([source.patient(index)[0] for index in range(clips)], num_frames=FRAMES)

    return clips * FRAMES / best_time(work, device)


def _teacher_rate(*, size: int, frames: int) -> float:
    from echodfkd.models.teachers.build import build_teacher

    teacher = build_teacher(kind="embedded", weights="", device="cpu", batch_frames=frames)
    video = np.random.default_rng(0).integers(0, 256, (1, frames, size, size), dtype=np.uint8)
    return frames / best_time(lambda: lv_prob(teacher, video), "cpu")


def phantom_truth(report: Report, *, quick: bool) -> dict[str, Any]:
    """EF, volumes and heart rate asked for, against those measured on 1,000 clips' label maps; image statistics."""
    count, per_domain = (60, 10) if quick else (1000, 150)
    source = default_phantom(seed=31, num_frames=1, fps=0.0, size=112, case_frames=1)
    patients = [source.patient(index)[0] for index in range(count)]
    fine = PhantomRenderer("cpu", domain=DOMAINS["default"], size=224)
    coarse = PhantomRenderer("cpu", domain=DOMAINS["default"], size=112)
    sweep = sweep_volumes(patients, fine)
    asked = np.array([patient.conditions.heart_rate_bpm for patient in patients])
    errors = {
        "ef_points": np.abs(sweep.ef_found - sweep.ef_asked),
        "edv_percent": 100.0 * np.abs(sweep.edv_found / sweep.edv_asked - 1.0),
        "esv_percent": 100.0 * np.abs(sweep.esv_found / sweep.esv_asked - 1.0),
        "heart_rate_percent": 100.0 * np.abs(sweep_heart_rates(patients, coarse, fps=50.0) / asked - 1.0),
    }
    worst = {name: float(np.percentile(error, 99)) for name, error in errors.items()}
    for name, error in errors.items():
        report(f"{name:<20} median {np.median(error):.2f}  p99 {worst[name]:.2f}  largest {error.max():.2f}")
    images = {}
    for domain in DOMAINS:
        clips = default_phantom(seed=32, num_frames=2, fps=2.0, size=112, case_frames=2, domain=domain)
        made = [clips.clip(index) for index in range(per_domain)]
        video = np.stack([clip.video for clip in made])
        mask = np.stack([clip.truth_labels for clip in made if clip.truth_labels is not None]) == 1
        images[domain] = {
            "mean": round(float(video.mean()), 1),
            "sd": round(float(video.std()), 1),
            "threshold_dice": round(best_threshold_dice(video, mask), 3),
            "threshold_dice_worst_clip": round(max(map(best_threshold_dice, video, mask)), 3),
        }
        report(f"{domain:<10} " + "  ".join(f"{name} {value}" for name, value in images[domain].items()))
    sample = uniform_power(coarse, patients[:60])
    distance, critical = rayleigh_distance(sample), 1.36 / float(np.sqrt(sample.size))
    report(f"speckle: distance from Rayleigh {distance:.4f}, 5 % critical value {critical:.4f}, n {sample.size}")
    limits = {"ef_points": 2.0, "edv_percent": 3.0, "esv_percent": 3.0, "heart_rate_percent": 2.0}
    holds = all(worst[name] <= limit for name, limit in limits.items()) and distance <= critical
    holds &= all(row["threshold_dice"] <= 0.5 for row in images.values())
    return {
        "value": round(worst["ef_points"], 3),
        "unit": f"points of EF, 99th percentile of {count} clips",
        "target": 2.0,
        "holds": bool(holds),
        "p99": {name: round(value, 3) for name, value in worst.items()},
        "images": images,
        "rayleigh_distance": round(distance, 4),
    }
