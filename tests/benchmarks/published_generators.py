"""EchoNet-Synthetic's networks in their published sizes, with random weights: seconds and memory of one clip."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echodfkd.models.generators.echonet_synthetic import STEPS, load_echonet_synthetic
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.models.generators.schedulers import Sampling
from echodfkd.models.generators.weight_files import import_diffusers
from tests.benchmarks.timing import Report

FRAMES, SIDE, FPS = 64, 112, 32.0
FEW = 4
"""Steps of the clip that is made on a CPU; a step's time does not depend on how many there are."""
PUBLISHED_WEIGHTS = {"vae": 62e6, "lidm_dynamic": 73e6, "lvdm": 144e6}
"""Numbers of weights that the sizes of the published files tell."""
WIDTHS = [128, 256, 256, 512]


def published_networks() -> dict[str, Any]:
    """The three networks, by the authors' configs, with random weights."""
    diffusers = import_diffusers()
    vae = diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[128, 256, 256, 512],
        layers_per_block=2,
        sample_size=SIDE,
    )
    lidm = diffusers.UNet2DModel(
        sample_size=14,
        in_channels=4,
        out_channels=4,
        down_block_types=["AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D"],
        block_out_channels=WIDTHS,
        downsample_type="resnet",
        upsample_type="resnet",
    )
    lvdm = diffusers.UNetSpatioTemporalConditionModel(
        sample_size=14,
        block_out_channels=WIDTHS,
        addition_time_embed_dim=1,
        projection_class_embeddings_input_dim=1,
        cross_attention_dim=1,
        num_attention_heads=[8, 16, 16, 32],
        num_frames=FRAMES,
    )
    return {"vae": vae, "lidm_dynamic": lidm, "lvdm": lvdm}


def published_generators(report: Report, *, quick: bool) -> dict[str, Any]:
    """EchoNet-Synthetic's published sizes, random weights: one clip, its seconds, its memory."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    counts, rows = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name, network in published_networks().items():
            counts[name] = sum(values.numel() for values in network.parameters())
            network.save_pretrained(Path(folder) / name)
            report(f"{name:<14}{counts[name] / 1e6:>8.1f} M weights, published {PUBLISHED_WEIGHTS[name] / 1e6:.0f} M")
        counted = "seconds" if device == "cuda" else "seconds of processor time"
        report(
            f"one clip of {FRAMES} frames of {SIDE} x {SIDE}, {device}, {torch.get_num_threads()} threads, {counted}"
        )
        report(f"{'precision':<11}{'batch':>6}{'steps':>7}{'s a clip':>10}{f's, {STEPS} steps':>13}{'peak memory':>13}")
        for precision, batch, steps in _settings(device, quick):
            rows.append(_measure(folder, Sampling(device, precision, "dpm_solver", steps), batch))
            row = rows[-1]
            report(
                f"{precision:<11}{batch:>6}{steps:>7}{row['seconds']:>10.1f}{row['published_seconds']:>13.1f}"
                f"{row['memory_mb']:>10.0f} MB"
            )
    near = all(abs(counts[name] / size - 1) < 0.02 for name, size in PUBLISHED_WEIGHTS.items())
    return {"value": rows[0]["seconds"], "target": None, "holds": near, "weights": counts, "rows": rows}


def _settings(device: str, quick: bool) -> list[tuple[str, int, int]]:
    if device == "cpu":
        return [("fp32", 1, 1 if quick else FEW)]
    return [("fp32", 1, STEPS), ("bf16", 1, STEPS), ("bf16", 8, STEPS), ("bf16", 8, FEW)]


def _measure(folder: str, sampling: Sampling, batch: int) -> dict[str, float]:
    """Seconds a clip, those that the published number of steps takes, and the process's or device's peak memory."""
    generator = load_echonet_synthetic(folder, sampling)
    asked = [ClipRequest(f"clip-{place}", place, FRAMES, FPS, SIDE, ef=0.55) for place in range(batch)]
    with _seconds(sampling.device) as latents_s:
        latents = generator.make_latents(asked)
    with _seconds(sampling.device) as decode_s:
        videos = generator._autoencoder.decode_clips(latents)
    assert all(np.isfinite(video.numpy()).all() and video.shape == (FRAMES, SIDE, SIDE) for video in videos)
    a_step = latents_s[0] / sampling.steps
    memory = torch.cuda.max_memory_allocated() / 1e6 if sampling.device == "cuda" else _peak_rss_mb()
    return {
        "batch": batch,
        "steps": sampling.steps,
        "seconds": (latents_s[0] + decode_s[0]) / batch,
        "published_seconds": (a_step * STEPS + decode_s[0]) / batch,
        "step_seconds": a_step / batch,
        "decode_seconds": decode_s[0] / batch,
        "memory_mb": memory,
    }


@contextmanager
def _seconds(device: str) -> Iterator[list[float]]:
    """On a CPU those of all its cores together, however many other programs they have to serve."""
    taken: list[float] = []
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    yield taken
    if device == "cuda":
        torch.cuda.synchronize()
    taken.append(clock() - start)


def _peak_rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
