"""Checks of `evaluation.judge`."""

from __future__ import annotations

from dataclasses import asdict

from echodfkd.config.sections.evaluation import EvaluationConfig
from echodfkd.config.sections.judge import EF_PLACE
from echodfkd.core.errors import ConfigError


def check_judge(evaluation: EvaluationConfig) -> None:
    """Refuse options that the judge does not have, and empty prompts. Raises `ConfigError`."""
    if evaluation.judge_weights and evaluation.judge != "echoclip":
        raise ConfigError(
            f"evaluation.judge_weights: set, but evaluation.judge is {evaluation.judge}; only echoclip has weights of"
            " its own"
        )
    for name, usual in (("judge_precision", "auto"), ("judge_captions", "")):
        if getattr(evaluation, name) != usual and evaluation.judge != "echoclip":
            raise ConfigError(f"evaluation.{name}: set, but evaluation.judge is {evaluation.judge}; it is for echoclip")
    prompts = evaluation.judge_prompts
    for name, text in asdict(prompts).items():
        if isinstance(text, str) and not text.strip():
            raise ConfigError(f"evaluation.judge_prompts.{name}: empty, expected a caption")
    if not prompts.ef or any(EF_PLACE not in text for text in prompts.ef):
        raise ConfigError(
            f"evaluation.judge_prompts.ef: got {prompts.ef}, expected sentences with {EF_PLACE} in place of the number"
        )
