"""Patients from a distribution: marginals against scipy, the copula, strata, tables, and that a draw is pure.

Sample sizes and seeds are fixed, so that a Kolmogorov-Smirnov p-value above 0.001 is a fact and not a chance. With
6,000 draws it falls below 1e-6 where a mean is off by a tenth of the standard deviation.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from echodfkd.config.sections.source import (
    ChoiceSpec,
    ConditionsConfig,
    ConditionSpec,
    NumberSpec,
    StratifySpec,
    WeightedSpec,
)
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.sources.patients.marginals import build_marginal
from echodfkd.sources.patients.sampler import CORRELATED, CORRELATIONS, ConditionSampler, PatientDraw
from echodfkd.sources.patients.table import read_patient_table

ROOT = Path(__file__).parents[3]
N = 6000


def draws(config: ConditionsConfig, count: int = N, seed: int = 0) -> list[PatientDraw]:
    sampler = ConditionSampler(config, seed=seed)
    return [sampler.draw(index) for index in range(count)]


def values(found: list[PatientDraw], name: str) -> np.ndarray:
    return np.array([getattr(draw.conditions, name) for draw in found])


@pytest.fixture(scope="module")
def default() -> list[PatientDraw]:
    return draws(ConditionsConfig())


def truncated(law, low: float, high: float):
    """The distribution function of a scipy law, cut to low .. high."""
    first, last = law.cdf(low), law.cdf(high)
    return lambda x: (law.cdf(x) - first) / (last - first)


def lognormal(mean: float, sd: float):
    sigma = math.sqrt(math.log(1 + (sd / mean) ** 2))
    return stats.lognorm(sigma, scale=mean * math.exp(-(sigma**2) / 2))


def mixed(*parts):
    """The distribution function of a mixture of (share, distribution function)."""
    return lambda x: sum(share * law(x) for share, law in parts)


EF = mixed(
    (0.88, truncated(stats.norm(59.5, 7.0), 6.9, 97.0)),
    (0.12, truncated(stats.norm(28.0, 9.5), 6.9, 97.0)),
)
EDV = mixed((0.88, truncated(lognormal(80, 28), 15, 450)), (0.12, truncated(lognormal(172, 72), 15, 450)))


def test_default_marginals_are_the_closed_form_under_the_copula(default: list[PatientDraw]) -> None:
    laws = {
        "ef_percent": EF,
        "edv_ml": EDV,
        "heart_rate_bpm": truncated(stats.norm(70, 13), 40, 140),
        "age_years": truncated(stats.norm(68, 18), 18, 100),
        "bsa_m2": truncated(stats.norm(1.87, 0.24), 1.2, 2.8),
        "image_quality": stats.uniform.cdf,
    }
    for name, law in laws.items():
        assert stats.kstest(values(default, name), law).pvalue > 0.001, name
    women = values(default, "sex") == "F"
    assert abs(women.mean() - 0.5) < 3 * 0.5 / math.sqrt(N)
    assert set(values(default, "view")) == {"A4C"}


def test_defaults_have_the_published_moments(default: list[PatientDraw]) -> None:
    """EchoNet-Dynamic: EF 55.7 +- 12.4, EDV 91 +- 46, ESV 43 +- 36, median 50 fps, 177 +- 58 frames."""
    for name, mean, sd in (("ef_percent", 55.7, 12.4), ("edv_ml", 91.0, 46.0)):
        found = values(default, name)
        assert abs(found.mean() - mean) < 4 * sd / math.sqrt(N), name
        assert found.std() == pytest.approx(sd, rel=0.04), name
    esv = values(default, "esv_ml")  # derived: its moments decided the correlation of EF and EDV
    assert esv.mean() == pytest.approx(43.0, abs=1.5)
    assert esv.std() == pytest.approx(36.0, abs=1.5)
    frames = np.array([draw.num_frames for draw in default])
    assert frames.mean() == pytest.approx(177, abs=3)
    assert frames.std() == pytest.approx(58, rel=0.06)
    assert frames.min() >= 28
    assert frames.max() <= 1002
    fps = np.array([draw.fps for draw in default])
    assert np.median(fps) == 50.0
    assert (fps == 50.0).mean() == pytest.approx(0.8, abs=0.02)
    assert set(fps) == {30.0, 40.0, 50.0, 60.0}


def test_every_condition_is_filled_and_esv_follows(default: list[PatientDraw]) -> None:
    for draw in default[:200]:
        known = draw.conditions
        assert None not in vars(known).values()
        assert known.esv_ml == pytest.approx(known.edv_ml * (1 - known.ef_percent / 100))
        assert draw.sample_weight == 1.0


def test_correlations_are_those_of_the_copula(default: list[PatientDraw]) -> None:
    """Spearman's rank correlation of a Gaussian copula is 6 / pi * asin(rho / 2); standard error about 0.013."""
    columns = {name: values(default, name) for name in CORRELATED}
    columns["sex"] = (columns["sex"] == "M").astype(float)
    for (a, b), rho in CORRELATIONS.items():
        found = stats.spearmanr(columns[a], columns[b]).statistic
        if "sex" in (
            a,
            b,
        ):  # two halves of a normal keep 2 / sqrt(2 pi) of a linear correlation, a little more of ranks
            assert found * rho > 0, (a, b)
            assert abs(found) == pytest.approx(abs(rho) * 0.8, abs=0.06), (a, b)
        else:
            assert found == pytest.approx(6 / math.pi * math.asin(rho / 2), abs=0.05), (a, b)
    alone = draws(ConditionsConfig(correlate=False))
    assert abs(stats.spearmanr(values(alone, "ef_percent"), values(alone, "edv_ml")).statistic) < 0.05
    assert stats.kstest(values(alone, "ef_percent"), EF).pvalue > 0.001


def test_ranges_fixed_values_mixtures_and_shares() -> None:
    config = ConditionsConfig(
        ef_percent=ConditionSpec(low=20, high=40),
        heart_rate_bpm=ConditionSpec(value=95),
        edv_ml=ConditionSpec(
            mixture=[
                WeightedSpec(mean=80, sd=10, weight=3),
                WeightedSpec(low=150, high=250, weight=1),
                WeightedSpec(value=120, weight=1),
            ]
        ),
        image_quality=ConditionSpec(mean=-1.0, sd=1.0),
        view=ChoiceSpec(shares={"A4C": 1, "A2C": 3}),
        sex=ChoiceSpec(value="F"),
    )
    found = draws(config, 3000)
    assert stats.kstest(values(found, "ef_percent"), stats.uniform(20, 20).cdf).pvalue > 0.001
    assert set(values(found, "heart_rate_bpm")) == {95.0}
    assert set(values(found, "sex")) == {"F"}
    assert (values(found, "view") == "A2C").mean() == pytest.approx(0.75, abs=0.03)
    edv = values(found, "edv_ml")
    assert (edv == 120.0).mean() == pytest.approx(0.2, abs=0.025)  # an atom is met exactly
    rest = edv[edv != 120.0]
    parts = (0.75, stats.norm(80, 10)), (0.25, stats.uniform(150, 100))
    assert stats.kstest(rest, lambda x: sum(w * law.cdf(x) for w, law in parts)).pvalue > 0.001
    quality = truncated(stats.norm(-1, 1), 0, 1)  # cut to what is possible at all
    assert stats.kstest(values(found, "image_quality"), quality).pvalue > 0.001


@pytest.mark.parametrize(
    "spec",
    [
        ConditionSpec(low=20, high=40),
        ConditionSpec(mean=50, sd=9),
        ConditionSpec(distribution="lognormal", mean=40, sd=20, low=10, high=60),
        ConditionSpec(mixture=[WeightedSpec(value=30), WeightedSpec(low=30, high=60), WeightedSpec(value=60)]),
        ConditionSpec(value=33),
    ],
)
def test_below_and_quantile_are_inverse(spec: ConditionSpec) -> None:
    law = build_marginal("x", spec, "ef_percent")
    for u in np.linspace(0.001, 0.999, 97):
        x = law.quantile(float(u))
        assert law.below(x) <= u + 1e-9
        assert law.below(x + 1e-6) >= u - 1e-9
    assert law.below(1.0) == 0.0
    assert law.below(99.5) == 1.0
    assert law.quantile(0.0) <= law.quantile(0.5) <= law.quantile(1.0)


def test_a_draw_is_a_pure_function_of_seed_index_and_purpose() -> None:
    one, same = (ConditionSampler(ConditionsConfig(), seed=3) for _ in range(2))
    assert [one.draw(i) for i in range(20)] == [same.draw(i) for i in reversed(range(20))][::-1]
    assert one.draw(5) != one.draw(5, purpose="case")
    assert one.draw(5) != ConditionSampler(ConditionsConfig(), seed=4).draw(5)
    code = (
        "import json, sys\n"
        "from echodfkd.config.sections.source import ConditionsConfig\n"
        "from echodfkd.sources.patients.sampler import ConditionSampler\n"
        "draw = ConditionSampler(ConditionsConfig(), seed=3).draw(17)\n"
        "assert not {'torch', 'ray', 'omegaconf', 'pyarrow'} & set(sys.modules)\n"
        "print(json.dumps([vars(draw.conditions), draw.fps, draw.num_frames]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    here = one.draw(17)
    assert json.loads(done.stdout) == [vars(here.conditions), here.fps, here.num_frames]


def test_strata_are_drawn_by_their_shares_and_weights_give_the_target_back(default: list[PatientDraw]) -> None:
    """Weighted means over half sick patients are the plain means of the configured distribution."""
    stratify = StratifySpec(condition="ef_percent", edges=[30.0, 40.0], shares=[1.0, 1.0, 2.0])
    found = draws(ConditionsConfig(stratify=stratify))
    ef = values(found, "ef_percent")
    weight = np.array([draw.sample_weight for draw in found])
    stratum = np.digitize(ef, [30.0, 40.0])
    target = np.diff([0.0, EF(30.0), EF(40.0), 1.0])
    for place, share in enumerate((0.25, 0.25, 0.5)):
        inside = stratum == place
        assert inside.mean() == pytest.approx(share, abs=0.02)
        assert weight[inside] == pytest.approx(target[place] / share, rel=1e-9)
    assert weight.mean() == pytest.approx(1.0, abs=0.03)
    for name in ("ef_percent", "edv_ml", "esv_ml", "heart_rate_bpm", "age_years"):  # others follow through the copula
        column, plain = values(found, name), values(default, name)
        error = 5 * plain.std() / math.sqrt(N / 2)
        assert np.average(column, weights=weight) == pytest.approx(plain.mean(), abs=error), name
    inside = stratum == 2
    assert stats.kstest(ef[inside], lambda x: (EF(x) - EF(40.0)) / (1 - EF(40.0))).pvalue > 0.001


def test_strata_of_a_condition_outside_the_copula() -> None:
    stratify = StratifySpec(condition="image_quality", edges=[0.1], shares=[1.0, 1.0])
    found = draws(ConditionsConfig(stratify=stratify), 2000)
    low = values(found, "image_quality") < 0.1
    assert low.mean() == pytest.approx(0.5, abs=0.04)
    assert {round(draw.sample_weight, 9) for draw in found} == {0.2, 1.8}


def write_csv(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_rows_of_a_table_come_once_each_and_the_rest_is_drawn(tmp_path: Path) -> None:
    rows = "".join(f"{20 + i},{100 + i},{'FM'[i % 2]},{50 + i if i % 3 else ''}\n" for i in range(30))
    table = write_csv(tmp_path / "patients.csv", "ef_percent,edv_ml,sex,age_years\n" + rows)
    found = draws(ConditionsConfig(table=table), 60)
    for start in (0, 30):
        assert sorted(values(found[start : start + 30], "ef_percent")) == [20.0 + i for i in range(30)]
    assert [d.conditions.ef_percent for d in found[:30]] != [d.conditions.ef_percent for d in found[30:]]
    for draw in found:
        row = round(draw.conditions.ef_percent) - 20
        assert draw.conditions.edv_ml == 100 + row
        assert draw.conditions.sex == "FM"[row % 2]
        if row % 3:
            assert draw.conditions.age_years == 50 + row
        assert draw.conditions.heart_rate_bpm != 0
    cases = [ConditionSampler(ConditionsConfig(table=table), seed=0).draw(i, purpose="case") for i in range(30)]
    assert sorted(values(cases, "ef_percent")) == [20.0 + i for i in range(30)]


def test_conditions_that_a_table_lacks_are_drawn_given_its_own(tmp_path: Path) -> None:
    table = tmp_path / "patients.parquet"
    ef = np.linspace(10, 80, 2000)
    pq.write_table(pa.table({"ef_percent": ef}), table)
    found = draws(ConditionsConfig(table=str(table)), 2000)
    edv = values(found, "edv_ml")
    assert stats.kstest(edv, EDV).pvalue > 0.001
    rank = stats.spearmanr(values(found, "ef_percent"), edv).statistic
    assert rank == pytest.approx(6 / math.pi * math.asin(CORRELATIONS["ef_percent", "edv_ml"] / 2), abs=0.06)


def test_a_table_may_give_esv_in_place_of_ef_or_edv(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "a.csv", "edv_ml,esv_ml\n100,40\n120,90\n")
    assert read_patient_table(table, "").columns == {"edv_ml": (100.0, 120.0), "ef_percent": (60.0, 25.0)}
    table = write_csv(tmp_path / "b.csv", "ef_percent,esv_ml\n60,40\n50,\n")
    assert read_patient_table(table, "").columns == {"ef_percent": (60.0, 50.0), "edv_ml": (100.0, None)}
    table = write_csv(tmp_path / "c.csv", "ef_percent,edv_ml,esv_ml\n60.4,100,40\n,100,30\n")
    assert read_patient_table(table, "").columns["ef_percent"] == (60.0, 70.0)


def test_strata_of_a_table_pick_rows(tmp_path: Path) -> None:
    ef = [25.0] * 5 + [55.0] * 60 + [70.0] * 35
    table = write_csv(
        tmp_path / "p.csv", "ef_percent,age_years\n" + "".join(f"{v},{20 + i}\n" for i, v in enumerate(ef))
    )
    stratify = StratifySpec(condition="ef_percent", edges=[55.0], shares=[1.0, 1.0])
    found = draws(ConditionsConfig(table=table, stratify=stratify), 2000)
    low = values(found, "ef_percent") < 55.0
    assert low.mean() == pytest.approx(0.5, abs=0.04)
    assert {round(d.sample_weight, 9) for d in found} == {0.1, 1.9}
    assert len(set(values(found, "age_years"))) == 100  # every row comes
    for draw in found:
        assert ef[round(draw.conditions.age_years) - 20] == draw.conditions.ef_percent


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("edv_ml,esv_ml\n100,40\n100,120\n", "row 2: esv_ml 120 is above edv_ml 100"),
        ("ef_percent,edv_ml,esv_ml\n55,100,60\n", "row 1: ef_percent 55 contradicts edv_ml 100 and esv_ml 60, which"),
        ("ef_percent\n120\n", "row 1: ef_percent is 120, must lie in 1 .. 99"),
        ("ef_percent,esv_ml\n98,60\n", "row 1: its volumes give edv_ml 3000, must lie in 5 .. 1000"),
        ("sex\nX\n", "row 1: sex is 'X', allowed are F, M"),
        ("ef_percent\nlow\n", "row 1: ef_percent is 'low', which is not a number"),
        ("ef_percent,patient\n55,1\n", "has a column 'patient', allowed are ef_percent, edv_ml, esv_ml,"),
        ("esv_ml\n40\n", "has esv_ml, which needs ef_percent or edv_ml beside it"),
        ("ef_percent,edv_ml,esv_ml\n,,40\n", "row 1: esv_ml 40 needs ef_percent or edv_ml beside it"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = write_csv(tmp_path / "p.csv", text)
    with pytest.raises(ConfigError) as caught:
        ConditionSampler(ConditionsConfig(table=path), seed=0)
    assert words in str(caught.value)
    assert "conditions.table: " in str(caught.value)


def test_an_unusable_table_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"conditions.table: nowhere.csv cannot be read: "):
        read_patient_table("nowhere.csv", "")
    with pytest.raises(InputError, match=r"must end in .csv or .parquet"):
        read_patient_table(write_csv(tmp_path / "p.txt", "ef_percent\n55\n"), "")
    with pytest.raises(InputError, match="holds no rows"):
        read_patient_table(write_csv(tmp_path / "p.csv", "ef_percent\n"), "")
    with pytest.raises(InputError, match="is not readable: "):
        read_patient_table(write_csv(tmp_path / "p.parquet", "no parquet"), "")
    good = write_csv(tmp_path / "q.csv", "ef_percent\n55\n")
    with pytest.raises(
        InputError, match=r"has sha256 [0-9a-f]{12}..., the run was made with 000000000000...; the table"
    ):
        read_patient_table(good, "0" * 64)


def test_a_sampler_refuses_what_contradicts() -> None:
    with pytest.raises(ConfigError, match="seed: got -1, must be at least 0"):
        ConditionSampler(ConditionsConfig(), seed=-1)
    with pytest.raises(ConfigError, match=r"conditions.ef_percent: low is 40 and high is 20"):
        ConditionSampler(ConditionsConfig(ef_percent=ConditionSpec(low=40, high=20)), seed=0)
    stratify = StratifySpec(condition="ef_percent", edges=[50.0], shares=[1.0, 1.0])
    with pytest.raises(ConfigError, match=r"stratify.shares\[1\]: no patient of conditions.ef_percent lies in this"):
        ConditionSampler(ConditionsConfig(ef_percent=ConditionSpec(value=35), stratify=stratify), seed=0)


def test_a_table_and_another_option_for_its_column_contradict(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "p.csv", "ef_percent,age_years\n55,60\n45,\n")
    with pytest.raises(ConfigError, match=r"conditions.ef_percent: set, and a column of conditions.table too"):
        ConditionSampler(ConditionsConfig(table=table, ef_percent=ConditionSpec(value=35)), seed=0)
    stratify = StratifySpec(condition="age_years", edges=[50.0], shares=[1.0, 1.0])
    with pytest.raises(ConfigError, match="age_years is empty in some rows"):
        ConditionSampler(ConditionsConfig(table=table, stratify=stratify), seed=0)


def test_one_component_of_a_mixture_is_no_mixture() -> None:
    with pytest.raises(ConfigError, match="distribution: got 'mixture', allowed are fixed, uniform, normal, lognormal"):
        build_marginal("x", NumberSpec(distribution="mixture"), "ef_percent")  # type: ignore[arg-type]
