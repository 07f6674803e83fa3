"""The ablation of the domain wild: its points, the clips without one, and the table of differences."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from echodfkd.config.sections.source import ConditionsConfig
from echodfkd.core.errors import InputError
from echodfkd.sources.clip_source import WindowSettings
from echodfkd.sources.patients.sampler import ConditionSampler
from echodfkd.sources.phantom.source import PhantomSource, default_phantom
from echodfkd.sources.phantom.wild.ranges import WildRanges
from tests.benchmarks import domain_gap, wild_points
from tests.benchmarks.wild_points import POINTS, ranges_without

WINDOW = WindowSettings(2, 2.0, 32, 2)


def clips_with(ranges: WildRanges | None) -> PhantomSource:
    return PhantomSource(ConditionSampler(ConditionsConfig(), seed=5), WINDOW, seed=5, domain="wild", ranges=ranges)


def test_each_point_changes_its_own_ranges_and_no_other() -> None:
    """No range belongs to two points, so that the differences are of one thing each; all of them are off in `none`."""
    owned = [name for point in POINTS.values() for name in point]
    assert len(owned) == len(set(owned))
    own, none = WildRanges(), ranges_without("none")
    assert ranges_without("all") == own
    for point, off in POINTS.items():
        without = ranges_without(point)
        changed = {field.name for field in fields(own) if getattr(without, field.name) != getattr(own, field.name)}
        assert changed == set(off), point
        assert all(getattr(none, name) == value for name, value in off.items())


def test_a_source_draws_from_the_ranges_it_is_given() -> None:
    mine = clips_with(WildRanges()).clip(3)
    shipped = default_phantom(seed=5, num_frames=2, fps=2.0, size=32, case_frames=2, domain="wild").clip(3)
    assert np.array_equal(mine.video, shipped.video)
    plain, turned = (clips_with(WildRanges(mirrored=share)).clip(3) for share in (0.0, 1.0))
    assert plain.truth_labels is not None
    assert turned.truth_labels is not None
    assert np.array_equal(plain.video[..., ::-1], turned.video)
    assert np.array_equal(plain.truth_labels[..., ::-1], turned.truth_labels)
    assert not np.array_equal(clips_with(ranges_without("none")).clip(3).video, mine.video)


def test_a_point_is_compared_with_the_control_of_its_seed(tmp_path: Path) -> None:
    def row(point: str, seed: int, score: float) -> dict[str, str]:
        return {"point": point, "seed": str(seed), **dict.fromkeys(wild_points.SCORES, str(score))}

    found = wild_points.differences([row("all", 0, 0.84), row("all", 1, 0.86), row("none", 0, 0.80)])
    assert found["noise"]["real"] == pytest.approx(0.02)
    assert found["none"]["real_worst"] == pytest.approx(-0.04)
    with pytest.raises(InputError, match="--rows: got no row all of the seeds 1, which every seed needs"):
        wild_points.differences([row("all", 0, 0.84), row("haze", 1, 0.86)])
    with pytest.raises(InputError, match="--rows: the file has no row yet"):
        wild_points.differences([])
    with pytest.raises(InputError, match=r"--run: got apex:0, expected POINT:SEED, and as POINT all, none, brightness"):
        wild_points.add_rows(tmp_path / "rows.csv", ["apex:0"], tmp_path, [])


def test_rows_are_scored_once(tmp_path: Path) -> None:
    asked = []

    def score(name: str) -> dict[str, float]:
        asked.append(name)
        return {"real": 0.12345}

    path = tmp_path / "rows.csv"
    domain_gap.add_scores(path, [({"point": "a"}, "first")], score)
    rows = domain_gap.add_scores(path, [({"point": "a"}, "first"), ({"point": "b"}, "second")], score)
    assert asked == ["first", "second"]
    assert rows == [{"point": "a", "real": "0.1235"}, {"point": "b", "real": "0.1235"}]
    assert path.read_text() == "point,real\na,0.1235\nb,0.1235\n"
