"""Where the phantom's probe stands and how the machine is set, drawn from a scanner domain and the image quality.

Legend: N clips, T frames. All tensors here are float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from echodfkd.core.records import Conditions
from echodfkd.sources.phantom.anatomy import Anatomy, Motion, condition
from echodfkd.sources.phantom.chambers import Echo
from echodfkd.sources.phantom.domains import Range, ScannerDomain
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
    """Place of the probe in the heart's axes at end-diastole."""
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
    """How the heart lies before the probe, each (N, T): cosine and sine of its tilt, apex in mm, scale of v and u."""

    cos: torch.Tensor
    sin: torch.Tensor
    apex_x: torch.Tensor
    apex_y: torch.Tensor
    stretch_u: torch.Tensor
    stretch_v: torch.Tensor


def draw_optics(
    domain: ScannerDomain, patients: Sequence[Conditions], anatomy: Anatomy, draws: Draws
) -> tuple[Optics, Echo]:
    """Draw probe and machine so that the whole left ventricle of these hearts is in the sector."""
    poor = 1.0 - condition(patients, "image_quality").clamp(0.0, 1.0)

    def draw(name: str) -> torch.Tensor:
        low, high = getattr(domain, name)
        return draws.uniform(name, low, high)

    def by_quality(name: str) -> torch.Tensor:
        low, high = getattr(domain, name)
        share = (poor + draws.uniform(f"{name} quality", -0.2, 0.2)).clamp(0.0, 1.0)
        return low + (high - low) * share

    scale = anatomy.length / 79.0
    apex_y = draws.uniform("apex_y", 13.0, 20.0) * scale
    floor = apex_y + anatomy.length + anatomy.la_depth
    depth = floor * draw("depth")
    side = depth * draws.uniform("side", 1.0, 1.06)
    half_angle = torch.deg2rad(draw("half_angle"))
    count = by_quality("shadows")
    first = draws.chance("first shadow", count.clamp(0.0, 1.0)) * draws.uniform("shadow 1", *domain.shadow_depth)
    second = draws.chance("second shadow", (count - 1.0).clamp(0.0, 1.0))
    optics = Optics(
        side=side,
        probe_x=side * draws.uniform("probe_x", 0.47, 0.53),
        probe_y=side * draws.uniform("probe_y", 0.0, 0.05),
        depth=depth,
        half_angle=half_angle,
        probe_u=torch.zeros_like(side),
        probe_v=-apex_y,
        gain=draw("gain"),
        dynamic_range=draw("dynamic_range"),
        contrast=draw("contrast"),
        attenuation=draw("attenuation"),
        tgc=draw("tgc"),
        tgc_phase=draws.uniform("tgc phase", 0.0, 2.0 * math.pi),
        axial=draw("axial"),
        lateral=draw("lateral"),
        haze=draw("haze"),
        patches=draw("patches"),
        noise=by_quality("noise"),
        clutter=by_quality("clutter"),
        shadow_1=first,
        shadow_2=second * draws.uniform("shadow 2", *domain.shadow_depth),
        shadow_angle_1=half_angle * draws.uniform("shadow angle 1", -0.95, 0.95),
        shadow_angle_2=half_angle * draws.uniform("shadow angle 2", -0.95, 0.95),
        shadow_width=draws.uniform("shadow width", 0.06, 0.12),
        jpeg=draw("jpeg"),
        ecg=draws.chance("ecg", domain.ecg),
        text=draws.chance("text", domain.text),
        overlay_level=draw("overlay_level"),
    )
    echo = Echo(
        myocardium=draw("myocardium") - by_quality("weak"),
        blood=draw("blood"),
        dropout=by_quality("dropout"),
        septal_dropout=draw("septal_dropout"),
        dropout_level=draws.uniform("dropout level", 0.15, 0.85),
        patchiness=draw("patchiness"),
        trabeculae=draws.uniform("trabeculae", 0.3, 1.1),
    )
    return optics, echo


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
    """Tilt, off-axis, foreshortening, rotation, breathing and shake; upright and still where not ``perturbed``.

    Returns:
        The pose, and the optics with the probe's place in the heart's axes.
    """
    amount = 1.0 if perturbed else 0.0

    def draw(name: str, limits: Range) -> torch.Tensor:
        return draws.uniform(name, *limits)[:, None]

    seconds = motion.phase * 60.0 / condition(patients, "heart_rate_bpm")[:, None]
    breath = draw("breathing", domain.breathing) * torch.sin(
        2.0 * math.pi * seconds * draw("breath rate", (0.2, 0.35)) + draw("breath", (0.0, 2.0 * math.pi))
    )
    shake = draw("shake", domain.shake)

    def wander(name: str) -> torch.Tensor:
        slow = torch.sin(2.0 * math.pi * seconds * draw(f"{name} slow", (0.5, 1.2)) + draw(f"{name} 1", (0.0, 6.3)))
        fast = torch.sin(2.0 * math.pi * seconds * draw(f"{name} fast", (1.5, 4.0)) + draw(f"{name} 2", (0.0, 6.3)))
        return shake * (slow + 0.5 * fast)

    rest = amount * torch.deg2rad(draw("tilt", domain.tilt))
    turn = torch.deg2rad(draw("rocking", domain.rocking)) * motion.ejected + 0.015 * wander("turn")
    tilt = rest + amount * turn
    # Tilted to one side, the apex is moved to the same side of the sector, so that the base stays in it.
    apex_x = draw("off_axis", domain.off_axis) * anatomy.length[:, None] / 79.0
    place_x = amount * (apex_x + breath + wander("x")) + 0.0 * tilt
    place_y = -optics.probe_v[:, None] + amount * (0.4 * breath + wander("y"))
    ones = torch.ones_like(tilt)
    foreshortening = 1.0 + amount * (draw("foreshortening", domain.foreshortening) - 1.0)
    rotation = 1.0 + amount * (draw("rotation", domain.rotation) - 1.0)
    pose = Pose(
        cos=torch.cos(tilt),
        sin=torch.sin(tilt),
        apex_x=place_x,
        apex_y=place_y,
        stretch_u=ones / rotation,
        stretch_v=ones / foreshortening,
    )
    x, y = -(amount * apex_x)[:, 0], optics.probe_v
    cos, sin = torch.cos(rest[:, 0]), torch.sin(rest[:, 0])
    here = {**optics.__dict__, "probe_u": x * cos - y * sin, "probe_v": x * sin + y * cos}
    return pose, Optics(**here)
