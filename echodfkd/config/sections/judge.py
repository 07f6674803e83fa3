"""The part of the config that says what the auxiliary judge is asked. `config` imports it; `check_judge` refuses."""

from __future__ import annotations

from dataclasses import dataclass, field

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
