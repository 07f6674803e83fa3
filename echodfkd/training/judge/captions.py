"""Captions that the embedded judge is trained on, for every condition of the phantom.

Each `Choice` or `Number` is a kind of caption. Captions compete only with others of their kind: "THE MITRAL VALVE IS
OPEN" and "LV EJECTION FRACTION IS 55%. " may both be true of a frame. The prompts of a run are trained word for word as
in `echodfkd.config.sections.judge.JudgePromptsConfig`.

Legend: B images of a batch, N captions, V numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from echodfkd.config.sections.judge import EF_PLACE, JudgePromptsConfig
from echodfkd.models.judges.reading import EF_VALUES, fill_prompts

_PROMPTS = JudgePromptsConfig()

FINDINGS = (
    (_PROMPTS.left_ventricle, "THE LEFT VENTRICLE IS SEEN", "LV CAVITY VISIBLE"),
    (_PROMPTS.wall, "WALL AROUND A HIDDEN CAVITY", "MYOCARDIUM BUT NO CAVITY"),
    (_PROMPTS.nothing, "NOTHING OF THE VENTRICLE", "NEITHER CAVITY NOR WALL"),
    ("HIDDEN", "THE HEART IS COVERED", "IMAGE COVERED"),
)
"""Captions of the anatomy that a blackout leaves visible, in the order of `contrastive.finding_chances`."""


@dataclass(frozen=True)
class Choice:
    """Two captions, one of which is true; ``fact`` is the chance of the second, 0..1."""

    fact: str
    captions: tuple[str, str]


@dataclass(frozen=True)
class Number:
    """Sentences with a number, for each of ``values``.

    How true a caption is of a frame is a Gaussian around the frame's number, of standard deviation ``width``: if 55 is
    right, 54 is nearly so.
    """

    fact: str
    templates: tuple[str, ...]
    values: tuple[float, ...]
    width: float

    def captions(self) -> tuple[list[str], torch.Tensor]:
        """All captions (N,) and their numbers, float32 (N,)."""
        captions, numbers = fill_prompts(self.templates, EF_PLACE, self.values)
        return captions, torch.from_numpy(numbers).float()


CHOICES = (
    Choice("valve_open", (_PROMPTS.valve_closed, _PROMPTS.valve_open)),
    Choice("emptied", ("END-DIASTOLE", "END-SYSTOLE")),
    Choice("two_chamber", ("APICAL FOUR-CHAMBER VIEW", "APICAL TWO-CHAMBER VIEW")),
    Choice("male", ("THE PATIENT IS FEMALE", "THE PATIENT IS MALE")),
)
EF = Number("ef_percent", tuple(_PROMPTS.ef), EF_VALUES, 3.0)
NUMBERS = (
    Number("image_quality_percent", ("THE IMAGE QUALITY IS <#>%. ",), tuple(range(0, 101, 5)), 5.0),
    Number("edv_ml", ("THE END-DIASTOLIC VOLUME IS <#> ML. ",), tuple(range(20, 421, 20)), 20.0),
    Number("esv_ml", ("THE END-SYSTOLIC VOLUME IS <#> ML. ",), tuple(range(0, 341, 20)), 20.0),
    Number("heart_rate_bpm", ("THE HEART RATE IS <#> BPM. ",), tuple(range(40, 141, 5)), 5.0),
    Number("age_years", ("THE PATIENT IS <#> YEARS OLD. ",), tuple(range(20, 101, 5)), 5.0),
    Number("bsa_m2", ("THE BODY SURFACE AREA IS <#> M2. ",), tuple(round(0.1 * v, 1) for v in range(12, 29)), 0.1),
)


def draw_findings(chances_BN: torch.Tensor, generator: torch.Generator) -> tuple[list[str], torch.Tensor]:
    """One caption of each finding, and how true it is of each image, float (B, N)."""
    ways = torch.randint(0, len(FINDINGS[0]), (len(FINDINGS),), generator=generator).tolist()
    return [captions[way] for captions, way in zip(FINDINGS, ways, strict=True)], chances_BN


def draw_choice(kind: Choice, chance_B: torch.Tensor) -> tuple[list[str], torch.Tensor]:
    """Both captions of a choice, and how true they are of each image, float (B, 2)."""
    return list(kind.captions), torch.stack([1 - chance_B, chance_B], dim=1)


def draw_numbers(
    kind: Number, truth_B: torch.Tensor, count: int, generator: torch.Generator
) -> tuple[list[str], torch.Tensor]:
    """``count`` captions of a number, all different, and how true they are of each image, float (B, count)."""
    captions, numbers = kind.captions()
    pick = torch.randperm(len(captions), generator=generator)[:count]
    near = truth_B.clamp(kind.values[0], kind.values[-1])[:, None] - numbers[pick]
    return [captions[place] for place in pick.tolist()], torch.exp(-0.5 * (near / kind.width) ** 2)
