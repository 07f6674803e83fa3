"""Checks of `evaluation.judge`."""

from __future__ import annotations

from dataclasses import asdict

from echodfkd.config.sections.evaluation import JUDGES, NEED_WEIGHTS, EvaluationConfig
from echodfkd.config.sections.judge import EF_PLACE
from echodfkd.core.errors import ConfigError


def check_judge(evaluation: EvaluationConfig) -> None:
    """Refuse options that the judge does not have, and empty prompts. Raises `ConfigError`."""
    usual = EvaluationConfig()
    for name in sorted({option for options in JUDGES.values() for option in options}):
        readers = [kind for kind, options in JUDGES.items() if name in options]
        if getattr(evaluation, name) != getattr(usual, name) and evaluation.judge not in readers:
            raise ConfigError(
                f"evaluation.{name}: set, but evaluation.judge is {evaluation.judge}; it is for {', '.join(readers)}"
            )
    if evaluation.judge in NEED_WEIGHTS and not evaluation.judge_weights:
        raise ConfigError(
            f"evaluation.judge_weights: empty, but evaluation.judge is {evaluation.judge}; expected the folder with its"
            " files (docs/explanation/judge.md), which are not downloaded"
        )
    prompts = evaluation.judge_prompts
    for name, text in asdict(prompts).items():
        if isinstance(text, str) and not text.strip():
            raise ConfigError(f"evaluation.judge_prompts.{name}: empty, expected a caption")
    if not prompts.ef or any(EF_PLACE not in text for text in prompts.ef):
        raise ConfigError(
            f"evaluation.judge_prompts.ef: got {prompts.ef}, expected sentences with {EF_PLACE} in place of the number"
        )
