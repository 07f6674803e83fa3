"""Scanner domains of the phantom: presets for the machine and the operator that image the same patients.

A domain changes speckle, gain, sector, artefacts and motion, never the patient: clip ``i`` shows the same heart in
every domain. With one domain as "real" and another as "synthetic" data, a domain gap can be measured offline.

A range ``(low, high)`` is drawn from uniformly for each clip; those marked *quality* go from ``low`` at image quality
1 to ``high`` at quality 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

Range = tuple[float, float]

GEOMETRY = (
    "half_angle",
    "depth",
    "tilt",
    "off_axis",
    "foreshortening",
    "rotation",
    "breathing",
    "shake",
    "rocking",
)
"""Fields that decide which pixel shows which tissue."""
_SILENT = -200.0
"""dB: nothing of it is seen."""
_FINE = 0.01
"""Grey levels: a quantisation that changes none."""


@dataclass(frozen=True)
class ScannerDomain:
    """One preset. Lengths in mm, levels in dB, angles in degrees unless said otherwise."""

    name: str
    half_angle: Range = (37.0, 45.0)
    """Half of the sector's opening."""
    depth: Range = (0.93, 1.08)
    """Depth of the sector, in distances from the probe to the floor of the left atrium."""
    gain: Range = (5.5, 11.5)
    dynamic_range: Range = (44.0, 56.0)
    contrast: Range = (0.35, 0.95)
    """Bend of the grey curve: 0 is linear in dB, 1 quadratic."""
    attenuation: Range = (2.0, 12.0)
    """Uncompensated loss at the bottom of the sector."""
    tgc: Range = (-2.5, 2.5)
    """Error of the time-gain compensation: a slow curve over depth."""
    axial: Range = (0.5, 0.9)
    """Standard deviation of the point spread along the beam."""
    lateral: Range = (0.014, 0.024)
    """Standard deviation of the point spread across the beams in rad: it widens with depth in mm."""
    myocardium: Range = (-14.0, -8.5)
    blood: Range = (-58.0, -48.0)
    haze: Range = (-46.0, -30.0)
    """Level around the heart."""
    weak: Range = (0.0, 5.0)
    """Loss of the walls in a patient who is hard to image, *quality*."""
    patches: Range = (3.0, 8.0)
    """Strength of the slow patches around the heart."""
    patchiness: Range = (1.5, 4.0)
    """Standard deviation of the echo level within walls."""
    noise: Range = (-67.0, -46.0)
    """Noise floor, *quality*."""
    clutter: Range = (-24.0, -8.0)
    """Reverberation at the probe, *quality*."""
    shadows: Range = (0.1, 1.3)
    """Mean number of rib shadows, at most two, *quality*."""
    shadow_depth: Range = (6.0, 22.0)
    dropout: Range = (0.0, 24.0)
    """Loss of the lateral wall, *quality*."""
    septal_dropout: Range = (-12.0, 8.0)
    """Loss of the septum; below 0 is none."""
    tilt: Range = (-6.0, 13.0)
    """Long axis against the vertical, apex to the left."""
    off_axis: Range = (-2.0, 11.0)
    """Apex off the middle beam."""
    foreshortening: Range = (0.92, 1.0)
    rotation: Range = (0.96, 1.04)
    """Change of width as the plane is rotated about the long axis."""
    breathing: Range = (0.0, 2.5)
    shake: Range = (0.0, 0.3)
    """Unsteadiness of the hand."""
    rocking: Range = (-3.0, 3.0)
    """Rotation of the heart between end-diastole and end-systole."""
    ecg: float = 0.12
    """Share of clips with an ECG trace."""
    text: float = 0.12
    """Share of clips with text in a corner."""
    overlay_level: Range = (0.35, 0.8)
    jpeg: Range = (2.0, 8.0)
    """Quantisation step of the lowest frequencies in grey levels."""

    def in_place_of(self, other: ScannerDomain) -> ScannerDomain:
        """This scanner, with the sector, pose and motion of the other one: it shows every tissue at the same pixel."""
        return replace(self, **{name: getattr(other, name) for name in GEOMETRY})

    def without_noise(self) -> ScannerDomain:
        """This scanner without noise floor, reverberation and artefacts of compression."""
        return replace(self, noise=(_SILENT, _SILENT), clutter=(_SILENT, _SILENT), jpeg=(_FINE, _FINE))

    def without_dropout(self) -> ScannerDomain:
        """This scanner without drop-out of the walls and shadows of ribs."""
        return replace(self, dropout=(0.0, 0.0), septal_dropout=(_SILENT, _SILENT), shadows=(0.0, 0.0))


DOMAINS: dict[str, ScannerDomain] = {
    domain.name: domain
    for domain in (
        ScannerDomain("default"),
        ScannerDomain(
            "clear",
            half_angle=(40.0, 46.0),
            gain=(3.0, 8.0),
            dynamic_range=(52.0, 62.0),
            axial=(0.35, 0.6),
            lateral=(0.010, 0.015),
            haze=(-46.0, -36.0),
            noise=(-70.0, -58.0),
            clutter=(-32.0, -18.0),
            shadows=(0.0, 0.3),
            dropout=(0.0, 10.0),
            septal_dropout=(-12.0, 2.0),
            breathing=(0.0, 1.2),
            shake=(0.0, 0.1),
            ecg=0.5,
            text=0.3,
            jpeg=(1.0, 3.0),
        ),
        ScannerDomain(
            "handheld",
            half_angle=(32.0, 39.0),
            depth=(1.02, 1.22),
            gain=(4.0, 11.0),
            dynamic_range=(34.0, 46.0),
            contrast=(0.1, 0.6),
            attenuation=(6.0, 18.0),
            axial=(0.9, 1.5),
            lateral=(0.024, 0.038),
            haze=(-42.0, -30.0),
            noise=(-52.0, -40.0),
            clutter=(-18.0, -2.0),
            shadows=(0.5, 1.8),
            shadow_depth=(10.0, 26.0),
            dropout=(6.0, 28.0),
            tilt=(-12.0, 17.0),
            off_axis=(-5.0, 13.0),
            foreshortening=(0.84, 1.0),
            rotation=(0.92, 1.06),
            breathing=(0.5, 4.0),
            shake=(0.2, 1.0),
            ecg=0.0,
            text=0.5,
            jpeg=(8.0, 20.0),
        ),
    )
}
"""The presets by name."""

WILD = "wild"
"""The domain of many looks, whose ranges lie in `echodfkd.sources.phantom.wild.ranges`."""

DOMAIN_NAMES = (*DOMAINS, WILD)
"""Every value of ``source.domain``."""
