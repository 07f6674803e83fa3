"""Builds a judge by its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from echodfkd.core.errors import ConfigError
from echodfkd.core.precision import AUTO, PRECISIONS, faster, seconds_in_turn
from echodfkd.models.judges.protocol import Judge

TIMED_SHAPE = (32, 112, 112)
"""Frames: two clips of PanEcho, one of EchoPrime."""


def load_judge(
    name: str,
    *,
    weights: str = "",
    device: str = "cpu",
    prompts: Mapping[str, Any] | None = None,
    phase_sign: int = -1,
    precision: str = "fp32",
    captions: str = "",
) -> Judge | None:
    """The auxiliary model that scores masks without truth; None for "none".

    Args:
        name: one of `echodfkd.config.sections.evaluation.JUDGES`.
        weights: a folder; embedded: a file, "" is the shipped one; echoclip: also an ``hf-hub:`` name, "" is the
            published one.
        device: cpu or cuda.
        prompts: the fields of `echodfkd.config.sections.judge.JudgePromptsConfig`; None takes the published ones.
        phase_sign: see `echodfkd.models.judges.reading.valve_cycle`.
        precision: one of `echodfkd.core.precision.CHOICES`, of echoclip, echoprime and panecho.
        captions: folder or URL of embedded prompts (`echodfkd.models.judges.captions`); "" stores none.

    Raises:
        InputError: the judge's weights cannot be used, or a package that it needs is not installed.
        ConfigError: no such judge.
    """
    from echodfkd.config.sections.judge import JudgePromptsConfig

    if name not in _JUDGES:
        raise ConfigError(f"evaluation.judge: got {name!r}, allowed are {', '.join(_JUDGES)}")
    asked = {**asdict(JudgePromptsConfig()), **(prompts or {})}
    if precision == AUTO:
        precision = faster(judge_seconds(name, weights, device=device)) if name in _FRAMES else PRECISIONS[0]
    options = {"phase_sign": phase_sign, "precision": precision, "captions": captions}
    return _JUDGES[name](weights, device, asked, options)


def judge_seconds(name: str, weights: str, *, device: str) -> dict[str, float]:
    """Seconds of some frames through the judge's network in each precision, for the judges of `_FRAMES`."""
    frames = torch.randint(0, 256, TIMED_SHAPE, generator=torch.Generator().manual_seed(0)).byte()
    networks = {precision: _FRAMES[name](weights, device, precision) for precision in PRECISIONS}

    def work(network: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], object]:
        return lambda: network(frames).cpu()

    with torch.inference_mode():
        return seconds_in_turn({precision: work(network) for precision, network in networks.items()})


def _embedded_judge(weights: str, device: str, prompts: dict[str, Any], options: dict[str, Any]) -> Judge:
    """Always runs on the CPU."""
    from echodfkd.models.judges.embedded import embedded_judge, read_towers

    towers = read_towers(Path(weights), option="evaluation.judge_weights") if weights else read_towers()
    return embedded_judge(towers, prompts=prompts, phase_sign=options["phase_sign"])


def _embedded_wild_judge(weights: str, device: str, prompts: dict[str, Any], options: dict[str, Any]) -> Judge:
    """Likewise on the CPU."""
    from echodfkd.models.judges.embedded import WILD_WEIGHTS, embedded_judge, read_towers

    return embedded_judge(read_towers(WILD_WEIGHTS), prompts=prompts, phase_sign=options["phase_sign"])


def _echoclip_judge(weights: str, device: str, prompts: dict[str, Any], options: dict[str, Any]) -> Judge:
    from echodfkd.models.judges.echoclip import load_towers

    return _with_captions("echoclip", load_towers(weights, device, precision=options["precision"]), prompts, options)


def _echoprime_judge(weights: str, device: str, prompts: dict[str, Any], options: dict[str, Any]) -> Judge:
    from echodfkd.models.judges.echoprime import load_towers

    return _with_captions("echoprime", load_towers(weights, device, precision=options["precision"]), prompts, options)


def _with_captions(name: str, towers: Any, prompts: dict[str, Any], options: dict[str, Any]) -> Judge:
    """A judge of towers whose text tower is dropped once the prompts are embedded."""
    from echodfkd.models.judges.captions import CaptionStore
    from echodfkd.models.judges.reading import ReadingJudge
    from echodfkd.models.teachers.torch_teacher import hash_weights

    judge_id = f"{name}{_suffix(options)}-{hash_weights(towers)}"
    if options["captions"]:
        towers.captions = CaptionStore(options["captions"], judge_id)
    judge = ReadingJudge(towers, judge_id=judge_id, prompts=prompts, phase_sign=options["phase_sign"])
    towers.drop_text_tower()
    return judge


def _suffix(options: dict[str, Any]) -> str:
    """Scores in another precision are other scores."""
    return "" if options["precision"] == PRECISIONS[0] else f"_{options['precision']}"


def _echoclip_frames(weights: str, device: str, precision: str) -> Callable[[torch.Tensor], torch.Tensor]:
    from echodfkd.models.judges.echoclip import load_towers

    return load_towers(weights, device, precision=precision).embed_frames


def _echoprime_frames(weights: str, device: str, precision: str) -> Callable[[torch.Tensor], torch.Tensor]:
    from echodfkd.models.judges.echoprime import load_towers

    return load_towers(weights, device, precision=precision).embed_frames


def _panecho_frames(weights: str, device: str, precision: str) -> Callable[[torch.Tensor], torch.Tensor]:
    from echodfkd.models.judges.panecho import load_network

    return load_network(weights, device, precision=precision).read


def _onnx_judge(weights: str, device: str, prompts: dict[str, Any], options: dict[str, Any]) -> Judge:
    from echodfkd.models.judges.onnx_judge import OnnxTowers
    from echodfkd.models.judges.reading import ReadingJudge

    towers = OnnxTowers(weights, device)
    judge_id = f"onnx-judge-{towers.weights_hash}"
    return ReadingJudge(towers, judge_id=judge_id, prompts=prompts, phase_sign=options["phase_sign"])


def _panecho_judge(weights: str, device: str, prompts: dict[str, Any], options: dict[str, Any]) -> Judge:
    from echodfkd.models.judges.panecho import PanEchoJudge, load_network
    from echodfkd.models.teachers.torch_teacher import hash_weights

    network = load_network(weights, device, precision=options["precision"])
    return PanEchoJudge(network, judge_id=f"panecho{_suffix(options)}-{hash_weights(network)}")


_JUDGES: dict[str, Callable[[str, str, dict[str, Any], dict[str, Any]], Judge | None]] = {
    "embedded": _embedded_judge,
    "embedded_wild": _embedded_wild_judge,
    "echoclip": _echoclip_judge,
    "echoprime": _echoprime_judge,
    "panecho": _panecho_judge,
    "onnx": _onnx_judge,
    "none": lambda weights, device, prompts, options: None,
}
_FRAMES: dict[str, Callable[[str, str, str], Callable[[torch.Tensor], torch.Tensor]]] = {
    "echoclip": _echoclip_frames,
    "echoprime": _echoprime_frames,
    "panecho": _panecho_frames,
}
"""Judges that compute in any precision: weights, device and precision -> what takes frames, uint8 (N, H, W)."""
