"""Echo levels of a wild clip: of every structure, and of the ventricle's wall by the angle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from echodfkd.sources.phantom.wild.heart import angles, ripples, window
from echodfkd.sources.phantom.wild.ranges import WildDraws

_MATERIALS = (
    "myocardium",
    "blood",
    "around",
    "right_wall",
    "atrial_wall",
    "atrial_septum",
    "pericardium",
    "lung",
    "floor",
    "crux",
    "leaflet",
)


@dataclass(frozen=True)
class Levels:
    """Levels in dB by the structure's name, and tables over the angle (K,).

    ``wall`` is the wall's level, ``lost`` the share of it that is not seen, ``behind`` the level just outside it,
    ``rough`` the reach of trabeculae into the cavity in mm. A wall that is lost shows ``lost_level``.
    """

    of: dict[str, float]
    wall: torch.Tensor
    lost: torch.Tensor
    behind: torch.Tensor
    rough: torch.Tensor
    lost_level: float


def draw_levels(draw: WildDraws) -> Levels:
    """Draw them: as in most recordings, or each from one wide range."""
    free = draw.chance("any_contrast")
    of = {name: draw("any_level", place) if free else draw(name) for place, name in enumerate(_MATERIALS)}
    for number, name in enumerate(("lv_blood", "la_blood", "rv_blood", "ra_blood"), start=50):
        of[name] = draw("any_level", number) if free else of["blood"] + draw.between(name, -3.0, 6.0)
    if abs(of["lv_blood"] - of["myocardium"]) < 7.0:  # else there is no wall to see
        of["lv_blood"] = of["myocardium"] - draw.between("least contrast", 8.0, 25.0)
    theta = angles()
    septum = draw("septum") * window(theta, -1.5, 0.75)
    side = draw("lateral_loss") * window(theta, draw.between("lateral loss", 0.4, 1.9), 0.9)
    wall = of["myocardium"] + 3.5 * ripples(draw, "wall level", theta) + septum - side
    lateral = window(theta, 1.9, 0.75)
    behind = torch.maximum(of["lung"] + 25.0 * (lateral - 1.0), torch.full_like(theta, of["around"] - 12.0))
    rough = draw("trabeculae") * (1.0 + 0.8 * ripples(draw, "rough", theta, 1, 3)).clamp(min=0.0)
    # Trabeculae are coarse at the apex and absent at the septum's base.
    rough = rough * (0.3 + window(theta, 0.3, 1.0))
    lost_level = of["lv_blood"] if draw.share("lost level") < 0.6 else of["around"]
    lost = _lost(draw, theta)
    # A recording is adjusted until its structures are seen.
    seen = [float((wall - 40.0 * lost).max()), *(of[name] for name in ("right_wall", "lung", "floor", "lv_blood"))]
    move = draw("brightest") - max(seen)
    of = {name: level + move for name, level in of.items()}
    return Levels(of, wall + move, lost, behind + move, rough, lost_level + move)


def _lost(draw: WildDraws, theta: torch.Tensor) -> torch.Tensor:
    """Share of the wall that is not seen (K,), 0..1."""
    lost = torch.zeros_like(theta)
    for number in range(round(draw("dropouts"))):
        place = math.radians(draw("dropout_place", number))
        if number == 0 and draw.chance("septal_dropout"):
            place -= math.pi / 1.5
        bump = window(theta, place, math.radians(draw("dropout_width", number)))
        lost = torch.maximum(lost, draw("dropout", number) * bump)
    return lost.clamp(0.0, 1.0)
