"""Ranges of the domain `wild`: every property of a clip's look as a distribution, and draws from them.

``(low, high)`` is drawn from uniformly. ``(low, high, power)`` is low + (high - low) x u^power with u uniform: a power
above 1 prefers values near ``low``. A single number is the share of clips that have the property. Lengths in mm, levels
in dB below white, angles in degrees, unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from echodfkd.sources.phantom.draws import share_of

Spread = tuple[float, float] | tuple[float, float, float]


@dataclass(frozen=True)
class WildRanges:
    """The distribution of appearances. The groups follow the parts of the drawing."""

    plain: float = 0.5
    """Share of clips that show the border well: `PLAIN` in place of these ranges. A network that sees hard clips only
    learns to trust its idea of a ventricle more than the image."""

    # Pose and proportions
    share: Spread = (0.26, 0.72)
    """Length of the ventricle in sides of the image: depth and zoom."""
    centre: Spread = (-0.55, 0.5)
    """Middle of the ventricle in half openings of the sector: below 0 is left of the middle beam."""
    apex_depth: Spread = (7.0, 40.0)
    """From the probe to the apex."""
    lean: Spread = (-17.0, 21.0)
    """Long axis against the beam through the ventricle's middle."""
    foreshortening: Spread = (1.0, 0.74, 2.0)
    rotation: Spread = (0.88, 1.12)
    mirrored: float = 0.06
    breathing: Spread = (0.0, 5.0, 2.0)
    shake: Spread = (0.0, 0.8, 2.0)
    rocking: Spread = (-6.0, 6.0)
    warp: Spread = (0.0, 4.5)
    """Smooth distortion of the whole anatomy."""

    # Left ventricle
    roundness: Spread = (0.72, 1.3)
    """Width over length against a normal heart; the volume stays."""
    widest: Spread = (0.5, 0.85)
    """Level of the largest width, in lengths from the apex: a ventricle is a bullet rather than an egg."""
    annulus: Spread = (0.6, 0.95)
    blunt_apex: Spread = (1.6, 2.5)
    """Exponent of the super-ellipse above the widest level: 2 is an ellipse."""
    blunt_base: Spread = (1.8, 2.9)
    skew: Spread = (-0.12, 0.12)
    """Excess of the lateral over the septal half width."""
    apex_shift: Spread = (-0.1, 0.8)
    """Of the apex towards the septum, in half widths: the septum is straight, the lateral wall is curved."""
    bend: Spread = (-0.05, 0.05)
    slope: Spread = (-0.30, 0.20)
    """Slant of the annular plane."""
    ripple: Spread = (0.0, 0.07)
    """Irregularity of the outline."""
    septal_bulge: Spread = (0.0, 0.22, 2.5)
    aneurysm: float = 0.10
    aneurysm_size: Spread = (0.08, 0.28)
    wall: Spread = (7.0, 14.0)
    hypertrophy: float = 0.12
    """Share of hearts whose wall is 1.3 to 2 times as thick."""
    septal_wall: Spread = (0.5, 1.15)
    """Thickness of the septum against the mean."""
    lateral_wall: Spread = (0.8, 2.2)
    """Thickness of the lateral wall against the mean, with its trabeculated layer, which readers leave outside."""
    apical_wall: Spread = (0.8, 3.2)
    """Thickness beside the apex, on its lateral side, against the mean."""
    wall_ripple: Spread = (0.05, 0.35)
    shortening: Spread = (0.2, 0.42)
    """Of the long axis in systole, over the ejection fraction."""
    apex_motion: Spread = (0.0, 0.6)
    """Share of that shortening that the apex of the cavity moves, as its wall thickens; the annulus moves the rest."""
    apical_narrowing: Spread = (0.0, 0.7)
    """Loss of width towards the apex in systole, beyond that of the base, over the ejection fraction."""

    # Rhythm and regional motion
    akinesia: float = 0.3
    kinesis: Spread = (-0.3, 0.7)
    """Motion of a segment at fault, against the others."""
    fibrillation: float = 0.10
    premature: float = 0.12
    pause: float = 0.05
    irregular: Spread = (0.0, 0.08)

    # Other chambers
    rv_width: Spread = (12.0, 40.0)
    rv_reach: Spread = (0.5, 0.85)
    tricuspid: Spread = (0.0, 12.0)
    la_width: Spread = (13.0, 36.0, 1.3)
    la_depth: Spread = (24.0, 85.0, 1.3)
    ra_width: Spread = (13.0, 36.0, 1.3)
    ra_depth: Spread = (22.0, 80.0, 1.3)
    atrial_shift: Spread = (-9.0, 7.0)
    aortic_root: float = 0.25
    descending_aorta: float = 0.25

    # Levels of echoes, which are then moved together until the brightest structure has its level
    brightest: Spread = (-16.0, -6.0)
    any_contrast: float = 0.08
    """Share of clips in which every structure's level is drawn from one wide range, so that none can be trusted."""
    any_level: Spread = (-56.0, -2.0)
    myocardium: Spread = (-34.0, -9.0)
    septum: Spread = (-2.0, 16.0)
    """Gain of the septum over the rest of the wall."""
    lateral_loss: Spread = (-4.0, 14.0)
    """Loss of the lateral wall, which lies along the beams."""
    inner_loss: Spread = (-4.0, 16.0, 1.2)
    """Loss of the wall at its inner border against its outer one."""
    bloom: Spread = (0.0, 1.2)
    """Width of the wall's inner edge that the point spread smears into the cavity: readers trace inside of it, so that
    the wall is drawn this far outside of the truth."""
    spongy: Spread = (0.0, 7.0)
    """Thickness of the trabeculated layer, grey between blood and wall: inside of the truth at end-diastole, outside of
    it at end-systole (readers trace the compacted wall, Lang et al. 2015)."""
    endocardium: Spread = (0.0, 8.0, 2.0)
    """Bright inner border."""
    blood: Spread = (-64.0, -36.0, 0.8)
    around: Spread = (-58.0, -16.0)
    """Tissue around the heart."""
    right_wall: Spread = (-38.0, -10.0)
    atrial_wall: Spread = (-36.0, -10.0)
    atrial_septum: Spread = (-22.0, -3.0)
    pericardium: Spread = (-26.0, -2.0)
    lung: Spread = (-40.0, -6.0)
    """Bright haze behind the lateral wall."""
    lung_decay: Spread = (0.2, 1.6)
    """Its loss per mm."""
    floor: Spread = (-45.0, -4.0)
    """Liver and lung below the atria."""
    crux: Spread = (-18.0, 0.0)
    leaflet: Spread = (-22.0, -3.0)
    dissolve: Spread = (0.0, 0.9, 1.5)
    """Loss of the atria's walls per mm below the base."""
    patchiness: Spread = (1.0, 7.0)
    patches: Spread = (2.0, 11.0)

    # Border of the cavity
    dropouts: Spread = (0.0, 2.2)
    """Number of places at which the wall is lost."""
    dropout: Spread = (0.2, 1.5)
    """Loss there: from 1 on nothing of the wall is left."""
    dropout_place: Spread = (-20.0, 140.0)
    """Clockwise from the apex: 90 is the middle of the lateral wall."""
    dropout_width: Spread = (12.0, 60.0)
    septal_dropout: float = 0.15
    trabeculae: Spread = (0.0, 1.8, 1.5)
    papillary: Spread = (0.0, 6.0)
    papillary_level: Spread = (0.30, 0.65)
    second_papillary: float = 0.4
    tendon: float = 0.25
    moderator_band: float = 0.3
    leaflet_length: Spread = (0.8, 1.5)
    leaflet_bow: Spread = (-0.35, 0.2)
    tenting: Spread = (0.0, 0.5)
    """Angle of shut leaflets against the annular plane, rad."""
    chordae: float = 0.4

    # Machine
    half_angle: Spread = (34.0, 50.0)
    uneven: Spread = (0.8, 1.15)
    """Right half opening against the left one."""
    depth: Spread = (0.86, 1.25)
    """Depth of the sector in sides of the image: beyond 1 the image cuts it."""
    probe_x: Spread = (0.40, 0.62)
    probe_y: Spread = (-0.05, 0.09)
    dead_zone: Spread = (1.0, 10.0, 2.0)
    gain: Spread = (-2.0, 12.0)
    dynamic_range: Spread = (28.0, 60.0)
    contrast: Spread = (-0.5, 1.1)
    """Bend of the grey curve: 0 is linear in dB, 1 quadratic."""
    attenuation: Spread = (-4.0, 22.0)
    tgc: Spread = (0.0, 6.0)
    axial: Spread = (0.35, 1.5)
    lateral: Spread = (0.009, 0.045, 1.3)
    """Point spread across the beams in rad."""
    noise: Spread = (-78.0, -42.0)
    clutter: Spread = (-44.0, -38.0)
    clutter_reach: Spread = (5.0, 22.0)
    streaks: Spread = (0.0, 0.4)
    fogs: Spread = (0.0, 0.55)
    """Number of patches of fog fixed to the probe."""
    fog: Spread = (-48.0, -24.0)
    shadows: Spread = (0.0, 0.6)
    shadow: Spread = (4.0, 34.0, 1.3)
    shadow_width: Spread = (0.04, 0.22)
    shadow_drift: Spread = (0.0, 0.12, 2.0)
    side_shadow: float = 0.35
    """Share of clips with the lung's or a rib's shadow over one side of the sector."""
    side_place: Spread = (0.3, 1.0)
    side_loss: Spread = (8.0, 45.0)

    # Picture and furniture
    sharpen: Spread = (-0.8, 1.0)
    """Below 0 blurs, above 0 sharpens."""
    reduced: float = 0.25
    """Share of clips that were stored smaller and enlarged again."""
    reduction: Spread = (0.45, 0.9)
    jpeg: Spread = (0.5, 18.0, 2.0)
    outside: float = 0.03
    """Share of clips whose outside is not black."""
    outside_level: Spread = (0.02, 0.3)
    ruler: float = 0.6
    probe_mark: float = 0.6
    ecg: float = 0.2
    text: float = 0.25
    calipers: float = 0.06
    colour_bar: float = 0.12
    ink: Spread = (0.3, 1.0)


PLAIN: dict[str, Spread | float] = {
    "share": (0.36, 0.7), "mirrored": 0.0, "aneurysm": 0.0, "akinesia": 0.1, "any_contrast": 0.0,
    "lateral_loss": (0.0, 8.0), "inner_loss": (0.0, 4.0), "blood": (-64.0, -46.0), "dropouts": (0.0, 0.0),
    "septal_dropout": 0.0, "trabeculae": (0.0, 0.8), "gain": (0.0, 10.0), "dynamic_range": (36.0, 60.0),
    "attenuation": (0.0, 8.0), "noise": (-78.0, -60.0), "clutter": (-44.0, -44.0), "streaks": (0.0, 0.0),
    "fogs": (0.0, 0.0), "shadows": (0.0, 0.0), "side_shadow": 0.0,
}  # fmt: skip
"""Ranges of the clips that are `WildRanges.plain`."""


class WildDraws:
    """Numbers of one clip, each a hash of its key and a name."""

    def __init__(self, key: int, ranges: WildRanges) -> None:
        self._key, self._ranges = key, ranges
        if self.chance("plain"):  # a range that somebody chose counts in every clip
            plain = {name: value for name, value in PLAIN.items() if getattr(ranges, name) == getattr(WildRanges, name)}
            self._ranges = replace(ranges, **plain)  # type: ignore[arg-type]

    def __call__(self, name: str, number: int = 0) -> float:
        """A value of the range ``name``; ``number`` gives further independent ones."""
        low, high, *power = getattr(self._ranges, name)
        share = self.share(f"{name} {number}")
        return low + (high - low) * share ** (power[0] if power else 1.0)

    def chance(self, name: str) -> bool:
        """Whether this clip has the property ``name``."""
        return self.share(f"chance {name}") < getattr(self._ranges, name)

    def share(self, name: str) -> float:
        """Uniform in [0, 1)."""
        return share_of(self._key, f"wild {name}")

    def between(self, name: str, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self.share(name)
