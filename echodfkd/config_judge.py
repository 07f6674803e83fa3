"""The part of the config that says what the auxiliary judge is asked. `config` imports it; `check_judge` refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from echodfkd.errors import ConfigError

EF_PLACE = "<#>"
"""Stands for the number in a prompt on the ejection fraction."""


@dataclass(frozen=True)
class JudgePromptsConfig:
    """What frames are compared with. The defaults are the published prompts of EchoDFKD and EchoCLIP."""

    wall: str = "WALL"
    """True of frames whose ventricle is blacked out and nothing else."""
    nothing: str = "NOTHING"
    """True of frames with the dilated mask blacked out."""
    left_ventricle: str = "LEFT VENTRICLE"
    """No longer true of them."""
    valve_closed: str = "THE MITRAL VALVE IS CLOSED"
    valve_open: str = "THE MITRAL VALVE IS OPEN"
    ef: list[str] = field(
        default_factory=lambda: [
            "THE LEFT VENTRICULAR EJECTION FRACTION IS ESTIMATED TO BE <#>% ",
            "LV EJECTION FRACTION IS <#>%. ",
        ]
    )
    """Sentences on the ejection fraction, read with every number from 0 to 100 in place of <#>."""


JUDGES = ("embedded", "echoclip", "none")
PRECISIONS = ("auto", "fp32", "bf16")


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


def drop_unused_judge(values: dict[str, Any], default: Callable[[], Any]) -> None:
    """Take out of a config's values, before they are hashed, what does not change the scores.

    Options that stand at their defaults leave the hashes of older versions as they were; a judge is known by the hash
    of its weights in every row, not by their path. ``default`` makes a default `config.EvaluationConfig`.
    """
    evaluation, usual = values["evaluation"], asdict(default())
    evaluation.pop("judge_weights")
    evaluation.pop("judge_captions")
    for name in ("judge_precision", "judge_prompts", "judge_controls", "judge_phase_sign"):
        if evaluation[name] == usual[name]:
            evaluation.pop(name)
