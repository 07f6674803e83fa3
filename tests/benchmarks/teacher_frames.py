"""Frames per second of the DeepLabV3 teacher: our path against the published loop, with the same weights."""

from __future__ import annotations

import copy
import functools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from echodfkd.core.mask_codes import PROBABILITY
from echodfkd.models.teachers.build import fold_echonet
from echodfkd.models.teachers.deeplabv3 import INPUT_SIZE, Conv, DeepLabV3
from echodfkd.models.teachers.torch_teacher import TorchTeacher
from echodfkd.runtime.cluster.host_memory import kept_memory
from tests.benchmarks.authors_teacher import teach_clip, teach_clips
from tests.benchmarks.timing import (
    Ratio,
    Report,
    Works,
    exact_products,
    interleave,
    matmul_flops,
    process_apart,
    timed,
    works_apart,
)
from tests.helpers.teachers import lv_prob

TARGETS = {"cpu": {"fp32": 1.8, "bf16": 3.5}, "cuda": {"bf16": 8.0}}
"""Required speed-up over the published loop, which takes one clip at a time in float32."""
TARGET_OF_CEILING = 0.35
"""On a GPU, the required share of the measured rate of a bfloat16 matrix product."""
CLIP_FRAMES = 176
"""Mean length of EchoNet-Dynamic's videos. The published loop passes whole videos, so the length matters."""
SAME_MASK = 1.0 / 255
"""Limit of the difference of a float32 probability, without TF32: one level of the stored masks."""


def random_network(seed: int) -> DeepLabV3:
    """EchoNet-Dynamic's network with random weights, scaled so that its logits spread as a teacher's do."""
    torch.manual_seed(seed)
    network = DeepLabV3().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    head = network.classifier[-1]
    assert isinstance(head, nn.Conv2d)
    with torch.inference_mode():
        logits = network(torch.randn(1, 3, INPUT_SIZE, INPUT_SIZE))
    assert head.bias is not None
    with torch.no_grad():
        head.bias.sub_(logits.mean()).mul_(2 / logits.std())
        head.weight.mul_(2 / logits.std())
    return network


def write_random_weights(path: Path) -> Path:
    """Write `random_network` in the format of EchoNet-Dynamic's checkpoints. Returns the path."""
    state = {f"module.{name}": value for name, value in random_network(0).state_dict().items()}
    torch.save({"state_dict": state}, path)
    return path


def macs_per_frame(network: DeepLabV3, size: int) -> int:
    """Multiply-accumulates per frame of size x size pixels, without kernel taps that only see padding (`Conv`)."""
    macs = 0

    def count(module: Conv, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal macs
        taps = 9 if module.kernel_size == (3, 3) and min(module.dilation) >= max(inputs[0].shape[-2:]) else 1
        macs += module.weight.numel() // taps * output.shape[-1] * output.shape[-2]

    handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, Conv)]
    with torch.inference_mode():
        network(torch.zeros(1, 3, size, size, device=next(network.parameters()).device))
    for handle in handles:
        handle.remove()
    return macs


def teacher_frames(report: Report, *, quick: bool) -> dict[str, Any]:
    """Frames per second of DeepLabV3-ResNet50 at 112 x 112 against the published float32 loop over clips."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clips, frames, rounds = (64, 64, 5) if device == "cuda" else (1, 16, 2) if quick else (1, CLIP_FRAMES, 5)
    video = np.random.default_rng(0).integers(0, 256, (clips, frames, INPUT_SIZE, INPUT_SIZE), dtype=np.uint8)
    network = random_network(0)
    ceiling = matmul_flops(device, torch.bfloat16)
    macs = macs_per_frame(network, INPUT_SIZE)
    report(f"{clips} clips of {frames} frames; {macs / 1e9:.2f} GMAC a frame; ceiling {ceiling / 1e9:.0f} GFLOP/s bf16")
    apart = masks_apart(network, video, device)
    for name, difference in apart.items():
        report(f"largest difference of a probability, {name}: {difference:.5f} ({255 * difference:.2f} levels)")
    report(f"{'path':<28} {'frames/s':>9} {'of the ceiling':>15}   {device}, {torch.get_num_threads()} threads")
    rates: dict[str, float] = {}
    ratios: dict[str, Ratio] = {}
    for compiled in (False,) if quick else (False, True):  # compiling may take minutes: the rest is reported first
        found_rates, found_ratios = compare(network, video, device=device, rounds=rounds, compiled=compiled)
        for name, rate in found_rates.items():
            report(f"{name:<28} {rate:>9.2f} {100 * 2.0 * macs * rate / ceiling:>13.0f} %")
        for name, ratio in found_ratios.items():
            report(f"{name:<44} {ratio}")
        rates, ratios = {**found_rates, **rates}, {**found_ratios, **ratios}
    of_ceiling = {name: 2.0 * macs * rate / ceiling for name, rate in rates.items()}
    targets = TARGETS[device]
    reached = {name: ratios[f"ours {name} / as published"].median for name in targets}
    agrees = apart["fp32"] <= SAME_MASK
    holds = agrees and all(ratios[f"ours {name} / as published"].low >= target for name, target in targets.items())
    if device == "cuda":
        holds = holds and of_ceiling["ours bf16"] >= TARGET_OF_CEILING
    return {
        "value": reached,
        "unit": "frames/s over those of the published per-clip float32 loop, median of paired rounds",
        "target": targets,
        "holds": holds,
        "agrees": agrees,
        "device": device,
        "frames_s": {name: round(rate, 2) for name, rate in rates.items()},
        "ratios": {name: asdict(ratio) for name, ratio in ratios.items()},
        "of_ceiling": {name: round(share, 4) for name, share in of_ceiling.items()},
        "ceiling_flops": ceiling,
        "apart": apart,
    }


def masks_apart(network: DeepLabV3, video: np.ndarray, device: str) -> dict[str, float]:
    """Largest difference of a probability to the published loop's on the first clip, without TF32, by precision."""
    published = copy.deepcopy(network).to(device)
    with exact_products():
        expected = teach_clip(published, video[0], device=device)
        return {
            name: float(np.abs(lv_prob(teacher, video[:1])[0] - expected).max())
            for name, teacher in our_teachers(network, device).items()
        }


def compare(
    network: DeepLabV3, video: np.ndarray, *, device: str, rounds: int, compiled: bool = False
) -> tuple[dict[str, float], dict[str, Ratio]]:
    """Time the published loop and our teachers in turn on the same clips.

    Ours runs in a process with the environment of a run's workers, the published loop in this one.

    Returns:
        Frames per second by path, and the speed-up of ours over the published loop, in wall and in CPU time.
    """
    published = copy.deepcopy(network).to(device)
    works = {
        "as published": timed(lambda: list(teach_clips(published, video, device=device, records_graph=True))),
        "per clip": timed(lambda: list(teach_clips(published, video, device=device))),
    }
    with process_apart(kept_memory()) as there:
        ours = works_apart(there, functools.partial(our_works, compiled=compiled), network, video, device)
        times = interleave({**works, **ours}, rounds)
    frames = video.shape[0] * video.shape[1]
    wall = {name: [seconds for seconds, _ in found] for name, found in times.items()}
    cpu = {name: [seconds for _, seconds in found] for name, found in times.items()}
    ratios = {}
    for fast in ours:
        for slow in works:
            ratios[f"{fast} / {slow}"] = Ratio.of(wall[slow], wall[fast])
            ratios[f"{fast} / {slow}, CPU seconds"] = Ratio.of(cpu[slow], cpu[fast])
    return {name: frames / float(np.median(seconds)) for name, seconds in wall.items()}, ratios


def our_teachers(weights: DeepLabV3, device: str, *, compiled: bool = False) -> dict[str, TorchTeacher]:
    """Our teachers by precision; names of compiled ones end in "compiled"."""
    frames = 1024 if device == "cuda" else CLIP_FRAMES // 2
    teachers = {}
    for precision in ("fp32", "bf16"):
        network, spec = fold_echonet(copy.deepcopy(weights))
        teacher = TorchTeacher(network, spec, device=device, batch_frames=frames, precision=precision)
        if compiled:
            teacher.compile()
        teachers[f"{precision} compiled" if compiled else precision] = teacher
    return teachers


def our_works(network: DeepLabV3, video: np.ndarray, device: str, *, compiled: bool = False) -> Works:
    """Masks of the video as they are sent to the students, by path."""
    return {
        f"ours {name}": timed(functools.partial(teacher.teach, video, code=PROBABILITY))
        for name, teacher in our_teachers(network, device, compiled=compiled).items()
    }
