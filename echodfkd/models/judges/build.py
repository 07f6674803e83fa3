"""Builds a judge by its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from echodfkd.core.errors import ConfigError
from echodfkd.models.judges.protocol import Judge


def load_judge(
    name: str,
    *,
    weights: str = "",
    device: str = "cpu",
    prompts: Mapping[str, Any] | None = None,
    phase_sign: int = -1,
    precision: str = "auto",
    captions: str = "",
) -> Judge | None:
    """The auxiliary model that scores masks without truth; None for "none".

    Args:
        name: one of `echodfkd.config.sections.evaluation.JUDGES`.
        weights: a folder; echoclip: also an ``hf-hub:`` name, or "" for the published one.
        device: cpu or cuda.
        prompts: the fields of `echodfkd.config.sections.judge.JudgePromptsConfig`; None takes the published ones.
        phase_sign: see `echodfkd.models.judges.reading.valve_cycle`.
        precision: auto, fp32 or bf16, of echoclip, echoprime and panecho.
        captions: folder or URL of embedded prompts (`echodfkd.models.judges.captions`); "" stores none.

    Raises:
        InputError: the judge's weights cannot be used, or a package that it needs is not installed.
        ConfigError: no such judge.
    """
    from echodfkd.config.sections.judge import JudgePromptsConfig

    if name not in _JUDGES:
        raise ConfigError(f"evaluation.judge: got {name!r}, allowed are {', '.join(_JUDGES)}")
    asked = {**asdict(JudgePromptsConfig()), **(prompts or {})}
    options = {"phase_sign": phase_sign, "precision": precision, "captions": captions}
    return _JUDGES[name](weights, device, asked, options)


def _embedded_judge(weights: str, device: str, prompts: dict[str, Any], options: dict[str, Any]) -> Judge:
    """Always runs on the CPU."""
    from echodfkd.models.judges.embedded import embedded_judge, read_towers

    return embedded_judge(read_towers(), prompts=prompts, phase_sign=options["phase_sign"])


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

    judge_id = f"{name}-{hash_weights(towers)}"
    if options["captions"]:
        towers.captions = CaptionStore(options["captions"], judge_id)
    judge = ReadingJudge(towers, judge_id=judge_id, prompts=prompts, phase_sign=options["phase_sign"])
    towers.drop_text_tower()
    return judge


def _onnx_judge(weights: str, device: str, prompts: dict[str, Any], options: dict[str, Any]) -> Judge:
    from echodfkd.models.judges.onnx_judge import OnnxTowers
    from echodfkd.models.judges.reading import ReadingJudge

    towers = OnnxTowers(weights, device)
    judge_id = f"onnx-judge-{towers.weights_hash}"
    return ReadingJudge(towers, judge_id=judge_id, prompts=prompts, phase_sign=options["phase_sign"])


def _panecho_judge(weights: str, device: str, prompts: dict[str, Any], options: dict[str, Any]) -> Judge:
    from echodfkd.models.judges.panecho import PanEchoJudge, load_network
    from echodfkd.models.teachers.torch_teacher import hash_weights

    network = load_network(weights, device)
    return PanEchoJudge(network, judge_id=f"panecho-{hash_weights(network)}", bf16=options["precision"] == "bf16")


_JUDGES: dict[str, Callable[[str, str, dict[str, Any], dict[str, Any]], Judge | None]] = {
    "embedded": _embedded_judge,
    "echoclip": _echoclip_judge,
    "echoprime": _echoprime_judge,
    "panecho": _panecho_judge,
    "onnx": _onnx_judge,
    "none": lambda weights, device, prompts, options: None,
}
