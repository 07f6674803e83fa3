"""Frames a second of the teacher: our path against the published loop, with the same weights."""

from __future__ import annotations

import copy
import functools
import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from echodfkd.core.mask_codes import PROBABILITY
from echodfkd.models.teachers.build import echonet_teacher
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

TARGETS = {"cpu": {"fp32": 1.8, "bf16": 3.5}, "cuda": {"bf16": 8.0}}
"""Times that our frames a second must be those of the published loop, a clip at a time in float32."""
TARGET_OF_CEILING = 0.35
"""Share of the device's measured bfloat16 matrix product, on a GPU."""
CLIP_FRAMES = 176
"""Of a video of EchoNet-Dynamic, on average: the published loop passes whole ones, so that their length counts."""
SAME_MASK = 1.0 / 255
"""Largest difference of a float32 probability, where a GPU rounds no factor (TF32): a level of the stored masks."""


def random_network(seed: int) -> DeepLabV3:
    """EchoNet-Dynamic's network with random weights whose logits spread over frames and pixels as a teacher's do."""
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
    """Write `random_network` as EchoNet-Dynamic's checkpoints are published. Returns the path."""
    state = {f"module.{name}": value for name, value in random_network(0).state_dict().items()}
    torch.save({"state_dict": state}, path)
    return path


def macs_per_frame(network: DeepLabV3, size: int) -> int:
    """Multiply-accumulates of a frame of size x size pixels, but for taps that always lie in the padding (`Conv`)."""
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
    """Frames a second of DeepLabV3-ResNet50 at 112 x 112 against the published loop, a clip at a time in float32."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clips, frames, rounds = (64, 64, 5) if device == "cuda" else (1, 16, 2) if quick else (1, CLIP_FRAMES, 5)
    video = np.random.default_rng(0).integers(0, 256, (clips, frames, INPUT_SIZE, INPUT_SIZE), dtype=np.uint8)
    network = random_network(0)
    ceiling = matmul_flops(device, torch.bfloat16)
    macs = macs_per_frame(network, INPUT_SIZE)
    found = compare(network, video, device=device, rounds=rounds, compiles=not quick)
    of_ceiling = {name: 2.0 * macs * rate / ceiling for name, rate in found["frames_s"].items()}
    report(f"{'path':<28} {'frames/s':>9} {'of the bf16 ceiling':>20}   {device}, {torch.get_num_threads()} threads")
    for name, rate in found["frames_s"].items():
        report(f"{name:<28} {rate:>9.2f} {100 * of_ceiling[name]:>18.0f} %")
    report(f"{clips} clips of {frames} frames; {macs / 1e9:.2f} GMAC a frame; ceiling {ceiling / 1e9:.0f} GFLOP/s")
    for name, ratio in found["ratios"].items():
        report(f"{name:<44} {ratio}")
    for name, apart in found["apart"].items():
        report(f"largest difference of a probability, {name}: {apart:.5f} ({255 * apart:.2f} levels)")
    targets = TARGETS[device]
    reached = {name: found["ratios"][f"ours {name} / as published"].median for name in targets}
    holds = all(reached[name] >= target for name, target in targets.items()) and found["apart"]["fp32"] <= SAME_MASK
    if device == "cuda":
        holds = holds and of_ceiling["ours bf16"] >= TARGET_OF_CEILING
    return {
        "value": reached,
        "unit": "frames/s over those of the published per-clip float32 loop, median of paired rounds",
        "target": targets,
        "holds": holds,
        "device": device,
        "frames_s": {name: round(rate, 2) for name, rate in found["frames_s"].items()},
        "ratios": {name: asdict(ratio) for name, ratio in found["ratios"].items()},
        "of_ceiling": {name: round(share, 4) for name, share in of_ceiling.items()},
        "ceiling_flops": ceiling,
        "apart": found["apart"],
    }


def compare(
    network: DeepLabV3, video: np.ndarray, *, device: str, rounds: int, compiles: bool = False
) -> dict[str, Any]:
    """Both ways over the same clips in turn: frames/s, ratios (of wall and of CPU time), differences of the masks.

    Ours runs in a process with the environment of a run's workers, the published loop in one as it comes.
    """
    published = copy.deepcopy(network).to(device)
    works = {
        "as published": timed(lambda: list(teach_clips(published, video, device=device, records_graph=True))),
        "per clip": timed(lambda: list(teach_clips(published, video, device=device))),
    }
    with process_apart(kept_memory()) as there:
        ours = works_apart(there, functools.partial(our_works, compiles=compiles), network, video, device)
        times = interleave({**works, **ours}, rounds)
    frames = video.shape[0] * video.shape[1]
    wall = {name: [seconds for seconds, _ in found] for name, found in times.items()}
    cpu = {name: [seconds for _, seconds in found] for name, found in times.items()}
    ratios = {}
    for fast in ours:
        for slow in ("per clip", "as published"):
            ratios[f"{fast} / {slow}"] = Ratio.of(wall[slow], wall[fast])
            ratios[f"{fast} / {slow}, CPU seconds"] = Ratio.of(cpu[slow], cpu[fast])
    with exact_products():
        expected = np.stack([teach_clip(published, clip, device=device) for clip in video[:1]])
        apart = {
            name: float(np.abs(teacher.soft_masks(video[:1]) - expected).max())
            for name, teacher in our_teachers(network, device, compiles=False).items()
        }
    rates = {name: frames / float(np.median(seconds)) for name, seconds in wall.items()}
    return {"frames_s": rates, "ratios": ratios, "apart": apart}


def our_teachers(network: DeepLabV3, device: str, *, compiles: bool) -> dict[str, TorchTeacher]:
    """By precision, and likewise compiled."""
    frames = 1024 if device == "cuda" else CLIP_FRAMES // 2
    teachers = {}
    for precision, is_compiled in itertools.product(("fp32", "bf16"), (False, True) if compiles else (False,)):
        teacher = echonet_teacher(copy.deepcopy(network), device=device, batch_frames=frames, precision=precision)
        if is_compiled:
            teacher.compile()
        teachers[f"{precision} compiled" if is_compiled else precision] = teacher
    return teachers


def our_works(network: DeepLabV3, video: np.ndarray, device: str, *, compiles: bool = False) -> Works:
    """Masks of the video, as they cross to the students."""
    return {
        f"ours {name}": timed(functools.partial(teacher.clip_codes, video, (), PROBABILITY))
        for name, teacher in our_teachers(network, device, compiles=compiles).items()
    }
