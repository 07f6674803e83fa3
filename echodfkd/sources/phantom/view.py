"""Draw the phantom's probe position and machine settings from a scanner domain and the image quality.

Legend: N clips, T frames. All tensors here are float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from echodfkd.core.records import Conditions
from echodfkd.sources.phantom.anatomy import Anatomy, Motion, condition
from echodfkd.sources.phantom.chambers import Echo
from echodfkd.sources.phantom.domains import ScannerDomain
from echodfkd.sources.phantom.draws import Draws


@dataclass(frozen=True)
class Optics:
    """Sector, settings and artefacts of a clip, each (N,): mm, dB, rad or as named."""

    side: torch.Tensor
    """Side of the square image."""
    probe_x: torch.Tensor
    probe_y: torch.Tensor
    depth: torch.Tensor
    half_angle: torch.Tensor
    probe_u: torch.Tensor
    """Position of the probe in the heart's axes at end-diastole."""
    probe_v: torch.Tensor
    gain: torch.Tensor
    dynamic_range: torch.Tensor
    contrast: torch.Tensor
    attenuation: torch.Tensor
    tgc: torch.Tensor
    tgc_phase: torch.Tensor
    axial: torch.Tensor
    lateral: torch.Tensor
    haze: torch.Tensor
    patches: torch.Tensor
    noise: torch.Tensor
    clutter: torch.Tensor
    shadow_1: torch.Tensor
    shadow_2: torch.Tensor
    shadow_angle_1: torch.Tensor
    shadow_angle_2: torch.Tensor
    shadow_width: torch.Tensor
    jpeg: torch.Tensor
    ecg: torch.Tensor
    text: torch.Tensor
    overlay_level: torch.Tensor


@dataclass(frozen=True)
class Pose:
    """Position of the heart against the probe, each (N, T): cos and sin of its tilt, apex in mm, scale of v and u."""

    cos: torch.Tensor
    sin: torch.Tensor
    apex_x: torch.Tensor
    apex_y: torch.Tensor
    stretch_u: torch.Tensor
    stretch_v: torch.Tensor


class _ScannerDraws:
    """Draws from a scanner's ranges for N patients, by the names of `ScannerDomain`'s fields."""

    def __init__(self, domain: ScannerDomain, patients: Sequence[Conditions], draws: Draws) -> None:
        self._domain, self._draws = domain, draws
        self._poor = 1.0 - condition(patients, "image_quality").clamp(0.0, 1.0)

    def any(self, name: str) -> torch.Tensor:
        """Uniform in the range."""
        return self._draws.uniform(name, *getattr(self._domain, name))

    def by_quality(self, name: str) -> torch.Tensor:
        """Near the range's start at image quality 1, near its end at quality 0."""
        low, high = getattr(self._domain, name)
        # Patients of one quality still differ: the place in the range is off by up to a fifth of it.
        share = (self._poor + self._draws.uniform(f"{name} quality", -0.2, 0.2)).clamp(0.0, 1.0)
        return low + (high - low) * share


def draw_optics(
    domain: ScannerDomain, patients: Sequence[Conditions], anatomy: Anatomy, draws: Draws
) -> tuple[Optics, Echo]:
    """Draw probe and machine settings such that the whole left ventricle is in the sector."""
    scanner = _ScannerDraws(domain, patients, draws)
    # Larger hearts lie further from the probe, and the sector ends near the floor of the left atrium.
    apex_y = draws.uniform("apex_y", 13.0, 20.0) * (anatomy.length / 79.0)
    depth = (apex_y + anatomy.length + anatomy.la_depth) * scanner.any("depth")
    side = depth * draws.uniform("side", 1.0, 1.06)
    half_angle = torch.deg2rad(scanner.any("half_angle"))
    shadow_1, shadow_2 = _shadows(domain, scanner.by_quality("shadows"), draws)
    optics = Optics(
        side=side,
        probe_x=side * draws.uniform("probe_x", 0.47, 0.53),
        probe_y=side * draws.uniform("probe_y", 0.0, 0.05),
        depth=depth,
        half_angle=half_angle,
        probe_u=torch.zeros_like(side),
        probe_v=-apex_y,
        gain=scanner.any("gain"),
        dynamic_range=scanner.any("dynamic_range"),
        contrast=scanner.any("contrast"),
        attenuation=scanner.any("attenuation"),
        tgc=scanner.any("tgc"),
        tgc_phase=draws.uniform("tgc phase", 0.0, 2.0 * math.pi),
        axial=scanner.any("axial"),
        lateral=scanner.any("lateral"),
        haze=scanner.any("haze"),
        patches=scanner.any("patches"),
        noise=scanner.by_quality("noise"),
        clutter=scanner.by_quality("clutter"),
        shadow_1=shadow_1,
        shadow_2=shadow_2,
        shadow_angle_1=half_angle * draws.uniform("shadow angle 1", -0.95, 0.95),
        shadow_angle_2=half_angle * draws.uniform("shadow angle 2", -0.95, 0.95),
        shadow_width=draws.uniform("shadow width", 0.06, 0.12),
        jpeg=scanner.any("jpeg"),
        ecg=draws.chance("ecg", domain.ecg),
        text=draws.chance("text", domain.text),
        overlay_level=scanner.any("overlay_level"),
    )
    return optics, _draw_echo(scanner, draws)


def _shadows(domain: ScannerDomain, count: torch.Tensor, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
    """Depths in dB of two rib shadows, 0 for one that is absent; ``count`` (N,) is their mean number, 0..2."""
    first = draws.chance("first shadow", count.clamp(0.0, 1.0)) * draws.uniform("shadow 1", *domain.shadow_depth)
    second = draws.chance("second shadow", (count - 1.0).clamp(0.0, 1.0))
    return first, second * draws.uniform("shadow 2", *domain.shadow_depth)


def _draw_echo(scanner: _ScannerDraws, draws: Draws) -> Echo:
    """Brightness of tissue and blood in these patients."""
    return Echo(
        myocardium=scanner.any("myocardium") - scanner.by_quality("weak"),
        blood=scanner.any("blood"),
        dropout=scanner.by_quality("dropout"),
        septal_dropout=scanner.any("septal_dropout"),
        dropout_level=draws.uniform("dropout level", 0.15, 0.85),
        patchiness=scanner.any("patchiness"),
        trabeculae=draws.uniform("trabeculae", 0.3, 1.1),
    )


def draw_pose(
    domain: ScannerDomain,
    patients: Sequence[Conditions],
    anatomy: Anatomy,
    motion: Motion,
    optics: Optics,
    draws: Draws,
    *,
    perturbed: bool,
) -> tuple[Pose, Optics]:
    """Tilt, off-axis, foreshortening, rotation, breathing and shake; upright and still if not ``perturbed``.

    Returns:
        The pose, and the optics with the probe's place in the heart's axes.
    """
    amount = 1.0 if perturbed else 0.0

    def draw(name: str) -> torch.Tensor:
        return draws.uniform(name, *getattr(domain, name))[:, None]

    seconds = motion.phase * 60.0 / condition(patients, "heart_rate_bpm")[:, None]
    breath = draw("breathing") * breath_cycle(seconds, draws)
    shake = draw("shake")
    rest = amount * torch.deg2rad(draw("tilt"))
    turn = torch.deg2rad(draw("rocking")) * motion.ejected + 0.015 * (shake * hand_wander("turn", seconds, draws))
    tilt = rest + amount * turn
    # Tilted to one side, the apex is moved to the same side of the sector, so that the base stays in it.
    apex_x = draw("off_axis") * anatomy.length[:, None] / 79.0
    place_x = amount * (apex_x + breath + shake * hand_wander("x", seconds, draws)) + 0.0 * tilt
    place_y = -optics.probe_v[:, None] + amount * (0.4 * breath + shake * hand_wander("y", seconds, draws))
    ones = torch.ones_like(tilt)
    pose = Pose(
        cos=torch.cos(tilt),
        sin=torch.sin(tilt),
        apex_x=place_x,
        apex_y=place_y,
        stretch_u=ones / (1.0 + amount * (draw("rotation") - 1.0)),
        stretch_v=ones / (1.0 + amount * (draw("foreshortening") - 1.0)),
    )
    x, y = -(amount * apex_x)[:, 0], optics.probe_v
    cos, sin = torch.cos(rest[:, 0]), torch.sin(rest[:, 0])
    return pose, replace(optics, probe_u=x * cos - y * sin, probe_v=x * sin + y * cos)


def breath_cycle(seconds: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Position in the breathing cycle, -1..1 (N, T): 12 to 21 breaths a minute."""
    rate, start = draws.uniform("breath rate", 0.2, 0.35), draws.uniform("breath", 0.0, 2.0 * math.pi)
    return torch.sin(2.0 * math.pi * seconds * rate[:, None] + start[:, None])


def hand_wander(name: str, seconds: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Unsteadiness of the hand in one coordinate, -1.5..1.5 (N, T): a slow and a fast oscillation."""

    def draw(part: str, low: float, high: float) -> torch.Tensor:
        return draws.uniform(f"{name} {part}", low, high)[:, None]

    slow = torch.sin(2.0 * math.pi * seconds * draw("slow", 0.5, 1.2) + draw("1", 0.0, 6.3))
    fast = torch.sin(2.0 * math.pi * seconds * draw("fast", 1.5, 4.0) + draw("2", 0.0, 6.3))
    return slow + 0.5 * fast
