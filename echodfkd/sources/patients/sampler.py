"""Draw patients from a distribution: the conditions of a clip, a pure function of (config, seed, index, purpose).

A clip's patient can therefore be drawn again on any machine from the clip's id. Conditions that physiology ties
together are drawn through a Gaussian copula: correlated standard normals z, of which each is turned into a probability
u = Phi(z) and then into a value, the u-quantile of that condition's own distribution. So the correlations never change
the distribution of a single condition (Nelsen, An Introduction to Copulas, 2006, sections 2.3, 2.5).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from echodfkd.config.rules.source import check_conditions, choice_shares
from echodfkd.config.sections.source import CHOICES, NUMERIC, ConditionsConfig
from echodfkd.core.errors import ConfigError
from echodfkd.core.records import Conditions
from echodfkd.sources.patients.marginals import Empirical, Marginal, build_marginal

if TYPE_CHECKING:
    from echodfkd.sources.patients.table import PatientTable

STREAMS = {"clip": 0, "case": 1, "strata": 2}
"""Training windows, evaluation cases and the draws that count strata are separate streams of one seed."""

CORRELATED = ("ef_percent", "edv_ml", "heart_rate_bpm", "age_years", "sex", "bsa_m2")
"""Conditions that the copula correlates; the others are settings of the machine, drawn independently."""

CORRELATIONS: dict[tuple[str, str], float] = {
    ("ef_percent", "edv_ml"): -0.65,
    ("ef_percent", "heart_rate_bpm"): -0.2,
    ("ef_percent", "age_years"): -0.1,
    ("ef_percent", "sex"): -0.1,
    ("sex", "bsa_m2"): 0.55,
    ("edv_ml", "bsa_m2"): 0.35,
    ("edv_ml", "sex"): 0.3,
    ("heart_rate_bpm", "age_years"): -0.05,
}
"""Correlations of the underlying normals; "sex" grows from F to M, pairs not named have 0.

EF with EDV is chosen so that the derived end-systolic volume has the mean and sd that EchoNet-Dynamic reports (43 +-
36 mL) with its other marginals: failing ventricles dilate. The others are chosen: their signs are those of the
chamber quantification guideline of Lang et al. (2015), which indexes volumes by body surface and gives men larger
ventricles and an ejection fraction two points lower, and of a heart that beats faster as its stroke fails. Their
sizes are plausible and not measured.
"""

_NORMAL = NormalDist()
_TINY = 1e-12


@dataclass(frozen=True)
class PatientDraw:
    """One patient and one recording.

    ``conditions`` has every field filled. ``sample_weight`` is 1, or, if rare patients are over-sampled, the
    probability of this patient's stratum divided by the share it is drawn with. ``fps`` and ``num_frames`` are those
    of the whole recording.

    Example: ``ConditionSampler(ConditionsConfig(), seed=0).draw(17).conditions.ef_percent``.
    """

    conditions: Conditions
    sample_weight: float
    fps: float
    num_frames: int


class ConditionSampler:
    """Draws patients.

    Args:
        config: the distributions.
        seed: 0 or more; each draw is identified by seed and index.

    Raises:
        ConfigError: the distributions contradict each other or the table.
        InputError: the table cannot be read.
    """

    def __init__(self, config: ConditionsConfig, *, seed: int) -> None:
        if seed < 0:
            raise ConfigError(f"seed: got {seed}, must be at least 0")
        check_conditions("conditions", config)
        self._seed = seed
        self._correlate = config.correlate
        self._table = _read_table(config) if config.table else None
        columns = self._table.columns if self._table else {}
        for name in columns:
            if getattr(config, name) != getattr(ConditionsConfig(), name):
                raise ConfigError(
                    f"conditions.{name}: set, and a column of conditions.table too ({config.table}); remove one of them"
                )
        self._marginals: dict[str, Marginal] = {
            name: build_marginal(f"conditions.{name}", getattr(config, name), name) for name in NUMERIC
        }
        self._shares = {name: choice_shares(f"conditions.{name}", getattr(config, name), name) for name in CHOICES}
        self._empirical = {name: _empirical(name, values) for name, values in columns.items()}
        self._strata = _Strata(config, self._law_of(config.stratify.condition)) if config.stratify.condition else None
        self._order = self._row_order(config.stratify.condition) if self._strata else ()

    def draw(self, index: int, *, purpose: str = "clip", attempt: int = 0) -> PatientDraw:
        """Patient ``index``, 0 or more.

        Args:
            index: which patient.
            purpose: a key of `STREAMS`.
            attempt: 1, 2 ... are other patients of the same index, of a table by chance.
        """
        u, row, weight = self._probabilities(index, purpose, attempt)
        return self._finish({name: row.get(name, self._value(name, u[name])) for name in u}, weight)

    def some(self, index: int, names: Iterable[str], *, purpose: str, attempt: int) -> dict[str, float | str]:
        """These conditions of the patient of `draw`, without the work for the others."""
        u, row, _ = self._probabilities(index, purpose, attempt)
        return {name: row[name] if name in row else self._value(name, u[name]) for name in names}

    def _probabilities(
        self, index: int, purpose: str, attempt: int
    ) -> tuple[dict[str, float], dict[str, float | str], float]:
        """Of a patient: the probability at which each condition's quantile is taken, known values, sample weight."""
        words = np.random.SeedSequence([self._seed, STREAMS[purpose], index, attempt])
        rng = np.random.Generator(np.random.PCG64(words))
        noise = dict(zip(CORRELATED, rng.standard_normal(len(CORRELATED)).tolist(), strict=True))
        free = [name for name in (*NUMERIC, *CHOICES) if name not in CORRELATED]
        u = dict(zip(free, rng.random(len(free)).tolist(), strict=True))
        pick = float(rng.random())
        weight = 1.0
        known: dict[str, float] = {}
        row: dict[str, float | str] = {}
        if self._strata:
            stratified = self._strata.condition
            start = u[stratified] if stratified in u else _phi(noise[stratified])
            target, weight = self._strata.choose(start)
            if stratified in self._empirical:
                pick = target
            elif stratified in u:
                u[stratified] = target
            else:
                known[stratified] = _inverse_phi(target)
        if self._table:
            row = self._row(index, purpose, pick, by_chance=bool(self._order) or attempt > 0)
            for name in row:
                if name in CORRELATED:
                    known[name] = _inverse_phi(self._middle(name, row[name]))
        u |= {name: _phi(z) for name, z in self._correlated(noise, known).items()}
        return u, row, weight

    def _finish(self, values: dict[str, float | str], weight: float) -> PatientDraw:
        number = {name: float(values[name]) for name in NUMERIC}
        return PatientDraw(
            conditions=Conditions(
                ef_percent=number["ef_percent"],
                edv_ml=number["edv_ml"],
                esv_ml=number["edv_ml"] * (1.0 - number["ef_percent"] / 100.0),
                heart_rate_bpm=number["heart_rate_bpm"],
                age_years=number["age_years"],
                sex=str(values["sex"]),
                bsa_m2=number["bsa_m2"],
                view=str(values["view"]),
                image_quality=number["image_quality"],
            ),
            sample_weight=weight,
            fps=number["fps"],
            num_frames=round(number["num_frames"]),
        )

    def _correlated(self, noise: dict[str, float], known: dict[str, float]) -> dict[str, float]:
        """The copula's normals: known ones unchanged, the others from their distribution given these."""
        if not self._correlate:
            return {**noise, **known}
        names, factor = _factor(tuple(name for name in CORRELATED if name in known))
        white = np.array([noise[name] for name in names])
        if known:
            first = len(known)
            white[:first] = np.linalg.solve(factor[:first, :first], [known[name] for name in names[:first]])
        return {**dict(zip(names, (factor @ white).tolist(), strict=True)), **known}

    def _value(self, name: str, u: float) -> float | str:
        """The u-quantile of a condition."""
        if name in self._marginals:
            return self._marginals[name].quantile(u)
        shares = self._shares[name]
        total = 0.0
        for word, share in shares.items():
            total += share
            if u < total:
                return word
        return [word for word, share in shares.items() if share > 0.0][-1]

    def _law_of(self, name: str) -> Marginal:
        if name not in self._empirical:
            return self._marginals[name]
        assert self._table
        if None in self._table.columns[name]:
            raise ConfigError(f"conditions.stratify.condition: {name} is empty in some rows of conditions.table")
        return self._empirical[name]

    def _row_order(self, name: str) -> tuple[int, ...]:
        """Numbers of the table's rows by ascending value of the stratified condition."""
        if name not in self._empirical:
            return ()
        assert self._table
        values = [float(value) for value in self._table.columns[name] if value is not None]
        return tuple(sorted(range(len(values)), key=values.__getitem__))

    def _row(self, index: int, purpose: str, pick: float, *, by_chance: bool) -> dict[str, float | str]:
        """The table's row of this index, without its empty cells.

        n indices in a row from a multiple of n visit each of n rows once; ``by_chance`` a row may come at any time.
        """
        assert self._table
        rows = self._table.num_rows
        if by_chance:
            place = min(int(pick * rows), rows - 1)
            number = self._order[place] if self._order else place
        else:
            number = _shuffled_row(self._seed, index, purpose, rows)
        return _without_empty(self._table, number)

    def _middle(self, name: str, value: float | str) -> float:
        """Rank of a table's value in its column, 0..1."""
        return self._empirical[name].middle(float(CHOICES[name].index(str(value))) if name in CHOICES else float(value))


class _Strata:
    """Chooses strata by their shares, and computes sample weights."""

    def __init__(self, config: ConditionsConfig, law: Marginal) -> None:
        self.condition = config.stratify.condition
        shares = config.stratify.shares
        edges = [0.0, *(law.below(edge) for edge in config.stratify.edges), 1.0]
        self._bounds = list(pairwise(edges))
        self._shares = [share / sum(shares) for share in shares]
        for place, (low, high) in enumerate(self._bounds):
            if high - low < 1e-9:
                raise ConfigError(
                    f"conditions.stratify.shares[{place}]: no patient of conditions.{self.condition} lies in this"
                    f" stratum (edges {config.stratify.edges}); remove the stratum or change the distribution"
                )

    def choose(self, u: float) -> tuple[float, float]:
        """Map u, uniform in 0..1, to the probability at which to take the quantile, and the sample weight."""
        place, below = 0, 0.0
        while place < len(self._shares) - 1 and u >= below + self._shares[place]:
            below += self._shares[place]
            place += 1
        low, high = self._bounds[place]
        inside = min(max((u - below) / self._shares[place], _TINY), 1.0 - _TINY)
        return low + inside * (high - low), (high - low) / self._shares[place]


@functools.lru_cache(maxsize=64)
def _factor(first: tuple[str, ...]) -> tuple[tuple[str, ...], np.ndarray]:
    """Cholesky factor of the correlations with the known conditions first, so that the rest are drawn given these."""
    names = (*first, *(name for name in CORRELATED if name not in first))
    matrix = np.eye(len(names))
    for (a, b), rho in CORRELATIONS.items():
        i, j = names.index(a), names.index(b)
        matrix[i, j] = matrix[j, i] = rho
    return names, np.linalg.cholesky(matrix)


def _read_table(config: ConditionsConfig) -> PatientTable:
    from echodfkd.sources.patients.table import read_patient_table  # pyarrow: not needed without a table

    return read_patient_table(config.table, config.table_sha256)


def _empirical(name: str, values: tuple[float | str | None, ...]) -> Empirical:
    numbers = [CHOICES[name].index(str(v)) if name in CHOICES else v for v in values if v is not None]
    return Empirical(tuple(sorted(float(number) for number in numbers)))


def _without_empty(table: PatientTable, number: int) -> dict[str, float | str]:
    cells = {name: column[number] for name, column in table.columns.items()}
    return {name: value for name, value in cells.items() if value is not None}


def _shuffled_row(seed: int, index: int, purpose: str, count: int) -> int:
    from echodfkd.sources.video.windows import permuted_index  # brings torch in, which draws without a table do without

    epoch, position = divmod(index, count)
    return permuted_index(seed, 2 * epoch + STREAMS[purpose], position, count)


def _phi(z: float) -> float:
    return min(max(_NORMAL.cdf(z), _TINY), 1.0 - _TINY)


def _inverse_phi(u: float) -> float:
    return _NORMAL.inv_cdf(min(max(u, _TINY), 1.0 - _TINY))
