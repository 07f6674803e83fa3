"""Checks of `evaluation.judge` and of `evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from echodfkd.config.sections.evaluate import EVERY_STEP, EvaluateConfig
from echodfkd.config.sections.judge import EF_PLACE, JUDGES, PRECISIONS
from echodfkd.core.errors import ConfigError


def check_judge(evaluation: Any) -> None:
    """Refuse a judge that cannot be asked. Raises `ConfigError`. ``evaluation`` is `config.EvaluationConfig`."""
    if evaluation.judge not in JUDGES:
        raise ConfigError(f"evaluation.judge: got {evaluation.judge!r}, allowed are {', '.join(JUDGES)}")
    if evaluation.judge_weights and evaluation.judge != "echoclip":
        raise ConfigError(
            f"evaluation.judge_weights: set, but evaluation.judge is {evaluation.judge}; only echoclip has weights of"
            " its own"
        )
    if evaluation.judge_precision not in PRECISIONS:
        raise ConfigError(
            f"evaluation.judge_precision: got {evaluation.judge_precision!r}, allowed are {', '.join(PRECISIONS)}"
        )
    for name, usual in (("judge_precision", "auto"), ("judge_captions", "")):
        if getattr(evaluation, name) != usual and evaluation.judge != "echoclip":
            raise ConfigError(f"evaluation.{name}: set, but evaluation.judge is {evaluation.judge}; it is for echoclip")
    if evaluation.judge_phase_sign not in (-1, 1):
        raise ConfigError(f"evaluation.judge_phase_sign: got {evaluation.judge_phase_sign}, allowed are -1, 1")
    prompts = evaluation.judge_prompts
    for name, text in asdict(prompts).items():
        if isinstance(text, str) and not text.strip():
            raise ConfigError(f"evaluation.judge_prompts.{name}: empty, expected a caption")
    if not prompts.ef or any(EF_PLACE not in text for text in prompts.ef):
        raise ConfigError(
            f"evaluation.judge_prompts.ef: got {prompts.ef}, expected sentences with {EF_PLACE} where the number stands"
        )


def check_evaluate(evaluate: EvaluateConfig, fps: float) -> None:
    """Refuse what cannot be scored. Raises `ConfigError`."""
    if evaluate.step < EVERY_STEP:
        raise ConfigError(
            f"evaluate.step: got {evaluate.step}, allowed are a step, 0 (the newest checkpoint) and {EVERY_STEP} (all)"
        )
    for name in ("tune_cases", "actors"):
        if getattr(evaluate, name) < 0:
            raise ConfigError(f"evaluate.{name}: got {getattr(evaluate, name)}, must be at least 0")
    if evaluate.masks and fps != 0:
        raise ConfigError(
            f"window.fps: got {fps:g}, but evaluate.masks are of the videos' own frames; only 0 (each video's own rate)"
            " leaves those in place"
        )
