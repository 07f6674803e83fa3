"""Options of `source`: origin of the clips, and the distributions of their patients.

Defaults of the conditions follow the 10,030 apical four-chamber videos of EchoNet-Dynamic (Ouyang et al., Nature
2020): ejection fraction 55.7 +- 12.4 % (6.9 .. 97), end-diastolic volume 91 +- 46 mL, end-systolic volume 43 +- 36 mL,
50 frames a second in most videos, 177 +- 58 frames (28 .. 1002). Conditions that the paper's file list lacks (heart
rate, age, sex, body surface, quality) are chosen, and say so.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from echodfkd.config.sections.generator import GENERATORS, GeneratorConfig
from echodfkd.config.sections.option import MOST_SEED, MOST_WEIGHT, option
from echodfkd.config.sections.steering import SteeringConfig

NUMERIC = ("ef_percent", "edv_ml", "heart_rate_bpm", "age_years", "bsa_m2", "fps", "num_frames", "image_quality")
"""Names of the conditions that are numbers."""

SCANNERS = ("default", "clear", "handheld")
DOMAIN_NAMES = (*SCANNERS, "wild")
"""Scanners of the phantom, and the domain that has another look in every clip."""

RECORDED_KINDS = ("recorded", "camus", "folder", "dicom")
"""Kinds of a source that reads the files of a path."""
PART_KINDS = ("phantom", *RECORDED_KINDS, *GENERATORS)
"""Kinds of a source that makes clips itself."""


@dataclass(frozen=True)
class NumberSpec:
    """The distribution of one number; its kind follows from the options that are given.

    Only ``value``: always this number. Only ``low`` and ``high``: uniform between them. ``mean`` and ``sd``: a
    normal distribution, cut to low .. high if they are given (mean and sd are those before the cut);
    ``distribution: lognormal`` takes the log-normal with this mean and sd instead. Every distribution is cut to
    the possible range of its condition (`LIMITS`).
    """

    distribution: str = option("", choices=("", "fixed", "uniform", "normal", "lognormal", "mixture"))
    """fixed, uniform, normal, lognormal or mixture; empty reads it off the other options."""
    value: float | None = None
    """The number itself (fixed)."""
    low: float | None = None
    """Lower end."""
    high: float | None = None
    """Upper end."""
    mean: float | None = option(None, least=-MOST_WEIGHT, ceiling=MOST_WEIGHT)
    """Mean before the cut to low .. high."""
    sd: float | None = option(None, above=0, ceiling=MOST_WEIGHT)
    """Standard deviation, likewise."""


@dataclass(frozen=True)
class WeightedSpec(NumberSpec):
    """One component of a mixture."""

    weight: float = option(1.0, above=0, ceiling=MOST_WEIGHT)
    """Share of this component, relative to the others."""


@dataclass(frozen=True)
class ConditionSpec(NumberSpec):
    """The distribution of one condition: a `NumberSpec`, or a weighted mixture of several."""

    mixture: list[WeightedSpec] = field(default_factory=list)
    """Components of a mixture."""


@dataclass(frozen=True)
class ChoiceSpec:
    """The distribution of one condition that is a word: one ``value``, or relative shares; without, all are equal."""

    value: str = ""
    """Always this word."""
    shares: dict[str, float] = option(factory=dict, least=0, ceiling=MOST_WEIGHT)
    """Relative share of each word."""


@dataclass(frozen=True)
class StratifySpec:
    """Over-sample rare patients; every clip's ``sample_weight`` undoes it in means.

    ``edges`` cut the condition's range into strata (one more than edges; a stratum holds its lower edge). Stratum
    k is drawn with share ``shares[k]`` (relative) instead of its own probability p, and its clips get the weight
    p / share: a weighted mean over clips is the mean over patients of the configured distribution.
    """

    condition: str = option("", choices=("", *NUMERIC))
    """Name of a numeric condition; empty draws from the configured distribution itself."""
    edges: list[float] = field(default_factory=list)
    """Edges between strata, ascending."""
    shares: list[float] = option(factory=list, above=0, ceiling=MOST_WEIGHT)
    """Relative share of each stratum."""


def _mixture(*parts: WeightedSpec) -> ConditionSpec:
    return ConditionSpec(mixture=list(parts))


@dataclass(frozen=True)
class ConditionsConfig:
    """Distributions of patients and of the machine's settings. End-systolic volume follows: EDV * (1 - EF / 100).

    A condition that is given replaces the default's distribution as a whole; it does not select among default
    patients. (To select, give the default's component with a ``high`` or ``low``, or use ``stratify``.)
    """

    ef_percent: ConditionSpec = field(
        default_factory=lambda: _mixture(
            WeightedSpec(weight=0.88, mean=59.5, sd=7.0, low=6.9, high=97.0),
            WeightedSpec(weight=0.12, mean=28.0, sd=9.5, low=6.9, high=97.0),
        )
    )
    """Sound and failing hearts. The shares and moments are chosen, so that all together have the published mean and
    sd of EF, EDV and, through their correlation, ESV. (One bell each gives ESV an sd of 30 mL in place of 36.)"""
    edv_ml: ConditionSpec = field(
        default_factory=lambda: _mixture(
            WeightedSpec(weight=0.88, distribution="lognormal", mean=80.0, sd=28.0, low=15.0, high=450.0),
            WeightedSpec(weight=0.12, distribution="lognormal", mean=172.0, sd=72.0, low=15.0, high=450.0),
        )
    )
    """Sound and dilated ventricles, likewise."""
    heart_rate_bpm: ConditionSpec = field(
        default_factory=lambda: ConditionSpec(mean=70.0, sd=13.0, low=40.0, high=140.0)
    )
    """Chosen: resting adults."""
    age_years: ConditionSpec = field(default_factory=lambda: ConditionSpec(mean=68.0, sd=18.0, low=18.0, high=100.0))
    """Chosen: adults referred to echocardiography."""
    sex: ChoiceSpec = field(default_factory=ChoiceSpec)
    """F or M. Chosen: in equal shares."""
    bsa_m2: ConditionSpec = field(default_factory=lambda: ConditionSpec(mean=1.87, sd=0.24, low=1.2, high=2.8))
    """Chosen: body surface area of adults."""
    fps: ConditionSpec = field(
        default_factory=lambda: _mixture(
            WeightedSpec(value=50.0, weight=0.8),
            WeightedSpec(value=30.0, weight=0.07),
            WeightedSpec(value=40.0, weight=0.05),
            WeightedSpec(value=60.0, weight=0.08),
        )
    )
    """Frames a second of the recording, used if window.fps is 0. Published: 7,959 of 10,030 videos have 50."""
    num_frames: ConditionSpec = field(
        default_factory=lambda: ConditionSpec(distribution="lognormal", mean=177.0, sd=58.0, low=28.0, high=1002.0)
    )
    """Frames of the whole recording, for jobs that write whole videos; windows and cases have their own length."""
    view: ChoiceSpec = field(default_factory=lambda: ChoiceSpec(value="A4C"))
    """A4C or A2C (EchoNet-Dynamic holds only A4C)."""
    image_quality: ConditionSpec = field(default_factory=lambda: ConditionSpec(low=0.0, high=1.0))
    """0 (barely readable) .. 1 (textbook). Chosen: uniform."""
    correlate: bool = True
    """Draw conditions together, with the correlations of physiology (`echodfkd.sources.patients.sampler`); the
    distributions of the single conditions stay exactly as given. false draws each by itself."""
    table: str = option("", path="input", identity=False)  # known by table_sha256
    """CSV or Parquet file of patients (a path or an fsspec URL): its columns, named like conditions, replace them."""
    table_sha256: str = ""
    """sha256 of the table; filled in when the config is loaded, so that a run knows its patients by content."""
    stratify: StratifySpec = field(default_factory=StratifySpec)
    """Over-sampling of rare patients."""


@dataclass(frozen=True)
class PartConfig:
    """One source of clips."""

    kind: str = option("phantom", choices=PART_KINDS)
    """phantom (embedded generator), one of the generators in docs/how-to/generators.md, noise, guided or adversarial
    (docs/explanation/learned-generator.md), recorded (a folder in EchoNet's
    layout), camus (one in CAMUS's), folder (any folder of AVI, MP4, MOV, DICOM, NIfTI files and of PNG frames, without
    list or truth) or dicom (its DICOM files)."""
    path: str = option("", path="input")
    """recorded: the folder with Videos/ and FileList.csv; camus: that with the patients; folder, dicom: a file or
    a folder (a path or an fsspec URL)."""
    split: str = "TRAIN"
    """recorded: a value of FileList.csv's Split column, several with commas (0,1,2), or ALL; camus: TRAIN, VAL or TEST
    of its lists, or ALL; folder, dicom: TRAIN, VAL or TEST by a hash of the name, or ALL."""
    view: str = option("", choices=("", "2CH", "4CH"))
    """camus: 2CH or 4CH; empty takes both."""
    video_fps: float = option(0.0, least=0, most=10_000)
    """folder, dicom: frames a second of files that tell none (PNG, NIfTI); 0 quarantines them."""
    seed_offset: int = option(0, least=0, ceiling=MOST_SEED)
    """Added to the run's seed, so that held-out cases never repeat training clips."""
    domain: str = option("default", choices=DOMAIN_NAMES)
    """phantom: the scanner it imitates, default, clear or handheld, or wild: another look in every clip."""
    conditions: ConditionsConfig = field(default_factory=ConditionsConfig)
    """phantom, generators: their patients."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    """A generator's files, sampler and actor pool."""


@dataclass(frozen=True)
class MixturePart(PartConfig):
    """One source of a mixture; not a mixture itself."""

    weight: float = option(1.0, above=0, ceiling=MOST_WEIGHT)
    """Share of this part relative to the others; the shares are held exactly (`echodfkd.sources.mixture`)."""


@dataclass(frozen=True)
class SourceConfig(PartConfig):
    """One source of clips, or a mixture of several."""

    kind: str = option("phantom", choices=(*PART_KINDS, "mixture"))
    """As of a part, or mixture (of ``parts``)."""
    parts: dict[str, MixturePart] = field(default_factory=dict)
    """mixture: its sources by name."""
    cases_from: str = ""
    """mixture: the part that gives evaluation cases; empty takes all parts, in the shares of the clips."""
    clips: int = option(0, least=0, ceiling=1_000_000_000)
    """Number of training clips: with N of them the clip of index i is that of i mod N, as from a data set of this size.
    0: the indices decide, so that a drawn source never ends."""
    steering: SteeringConfig = field(default_factory=SteeringConfig)
    """phantom, generators: which patients are drawn more often while the run goes on."""

    @property
    def generated(self) -> dict[str, PartConfig]:
        """Its parts that a generator makes, by name; "" for the source itself."""
        parts = self.parts if self.kind == "mixture" else {"": self}
        return {name: part for name, part in parts.items() if part.kind in GENERATORS}

    def share(self, name: str) -> float:
        """Share of the clips that this part gives; 1 for the source itself."""
        return self.parts[name].weight / sum(part.weight for part in self.parts.values()) if name else 1.0

    def __hash__(self) -> int:
        """By value: a process builds each source once (dicts and lists have no hash of their own)."""
        return hash(json.dumps(dataclasses.asdict(self), sort_keys=True))


CHOICES: dict[str, tuple[str, ...]] = {"sex": ("F", "M"), "view": ("A4C", "A2C")}
"""Names of the conditions that are words, and their allowed words."""

LIMITS: dict[str, tuple[float, float]] = {
    "ef_percent": (1.0, 99.0),
    "edv_ml": (5.0, 1000.0),
    "esv_ml": (0.05, 990.0),
    "heart_rate_bpm": (20.0, 250.0),
    "age_years": (0.0, 120.0),
    "bsa_m2": (0.1, 4.0),
    "fps": (1.0, 1000.0),
    "num_frames": (1.0, 100_000.0),
    "image_quality": (0.0, 1.0),
}
"""Possible range of each condition: distributions are cut to it, and a data set's value outside of it is unknown.

Chosen wider than any published set: EchoNet-Dynamic has EF 6.9 .. 97 (above), EchoNet-Pediatric newborns with some
millilitres of volume and a body surface from 0.15 m2."""
