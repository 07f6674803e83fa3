"""Options of `evaluation.judge_prompts`: the captions of the auxiliary judge."""

from __future__ import annotations

from dataclasses import dataclass, field

EF_PLACE = "<#>"
"""Stands for the number in a prompt on the ejection fraction."""


@dataclass(frozen=True)
class JudgePromptsConfig:
    """Captions that frames are compared with. The defaults are the published prompts of EchoDFKD and EchoCLIP."""

    wall: str = "WALL"
    """True of frames in which only the ventricle is blacked out."""
    nothing: str = "NOTHING"
    """True of frames with the dilated mask blacked out."""
    left_ventricle: str = "LEFT VENTRICLE"
    """No longer true of them."""
    valve_closed: str = "THE MITRAL VALVE IS CLOSED"
    """True while the ventricle ejects (systole)."""
    valve_open: str = "THE MITRAL VALVE IS OPEN"
    """True while it fills (diastole)."""
    ef: list[str] = field(
        default_factory=lambda: [
            "THE LEFT VENTRICULAR EJECTION FRACTION IS ESTIMATED TO BE <#>% ",
            "LV EJECTION FRACTION IS <#>%. ",
        ]
    )
    """Sentences on the ejection fraction, read with every number from 0 to 100 in place of <#>."""
