"""EchoCLIP's image tower at its full size, with random weights: frames a second, and what bfloat16 costs."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from echodfkd.models.judges.echoclip import WEIGHT_FILES, OpenClipTowers, load_towers
from echodfkd.models.judges.protocol import PROMPTS
from echodfkd.models.teachers.torchvision_guard import import_torchvision
from echodfkd.sources.phantom.source import default_phantom
from tests.benchmarks.timing import Ratio, Report, Stopwatch, interleave

NETWORK = "convnext_base"
"""open_clip's name of the network that EchoCLIP is: ConvNeXt-Base at 224 pixels and a text tower of 12 layers."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's CLIP statistics, open_clip's default."""


MIN_COSINE = 0.999
"""bfloat16 has 8 bits of precision, 0.4 % of each value; over 512 coordinates that is a cosine of 1 - 0.004^2 / 2, and
some forty layers make it worse by at most their number squared."""


def write_random_folder(folder: Path, *, seed: int = 0) -> None:
    """A folder as open_clip saves it, 606 MB, of a full-size network whose weights are drawn at random."""
    import_torchvision()
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    model = open_clip.create_model(NETWORK)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHT_FILES[0])
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "size": [224, 224]}
    config = {"model_cfg": open_clip.get_model_config(NETWORK), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def echoclip(report: Report, *, quick: bool = False) -> dict[str, Any]:
    """Frames a second of EchoCLIP's image tower (random weights) in fp32 and bf16, and how far their answers differ."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    count, rounds = (256, 8) if device == "cuda" else (8, 2 if quick else 5)
    frames = torch.from_numpy(
        default_phantom(seed=1, num_frames=count, fps=32.0, size=112, case_frames=8).clip(0).video
    )
    with tempfile.TemporaryDirectory() as folder:
        write_random_folder(Path(folder))
        towers = {name: load_towers(folder, device, precision=name) for name in ("fp32", "bf16")}
    with torch.inference_mode():
        embedded = {name: tower.embed_frames(frames) for name, tower in towers.items()}
        captions = {name: tower.embed_captions(list(PROMPTS)) for name, tower in towers.items()}
        works = {name: functools.partial(_embed, tower, frames, device) for name, tower in towers.items()}
        seconds = {name: [taken for (taken,) in found] for name, found in interleave(works, rounds).items()}
    rates = {name: count / min(taken) for name, taken in seconds.items()}
    faster = Ratio.of(seconds["fp32"], seconds["bf16"])
    cosine = float((embedded["fp32"] * embedded["bf16"]).sum(1).min())
    answers = {name: embedded[name] @ captions[name].T for name in towers}
    apart = float((answers["fp32"] - answers["bf16"]).abs().max())
    report(f"{'precision':<10} {'frames/s':>9}   {device}, {torch.get_num_threads()} threads, {count} frames")
    for name, rate in rates.items():
        report(f"{name:<10} {rate:>9.2f}")
    report(f"bf16 is {faster} times as fast; smallest cosine of a frame's two embeddings {cosine:.5f};")
    report(f"largest difference of a similarity to a caption {apart:.5f}")
    return {
        "value": cosine,
        "unit": "smallest cosine between a frame's embeddings in fp32 and bf16",
        "target": MIN_COSINE,
        "holds": cosine >= MIN_COSINE,
        "frames_s": {name: round(rate, 2) for name, rate in rates.items()},
        "faster": faster.median,
        "similarity_apart": round(apart, 6),
    }


def _embed(towers: OpenClipTowers, frames: torch.Tensor, device: str) -> tuple[float]:
    watch = Stopwatch(device)
    start = watch.mark()
    towers.embed_frames(frames)
    return (watch.seconds(start, watch.mark()),)
