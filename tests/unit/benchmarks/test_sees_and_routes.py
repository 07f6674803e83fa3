"""The benchmark of `teacher.sees` and `teacher.route`: its runs are what its table says, and so are its means."""

from __future__ import annotations

import numpy as np
import pytest

from echodfkd.config.file import load_config
from tests.benchmarks import sees_and_routes


@pytest.mark.parametrize(
    ("part", "arm", "sees", "routes"),
    [
        ("sees", "clear teacher, handheld images", "", ()),
        ("sees", "clear teacher, clear rendering", "clear", ()),
        ("routes", "fused", "", ()),
        ("routes", "routed", "", ("clear", "handheld")),
    ],
)
def test_the_arms_differ_in_what_they_are_named_after(part: str, arm: str, sees: str, routes: tuple[str, ...]) -> None:
    config = load_config(None, [*sees_and_routes.RUN, *sees_and_routes.PARTS[part][arm]])
    assert (config.teacher.sees.domain, config.teacher.route.routes) == (sees, routes)


def test_the_table_has_means_over_seeds_and_gains_paired_by_seed() -> None:
    arms = list(sees_and_routes.PARTS["sees"])
    rows = [
        {"arm": arm, "seed": seed, "masks mean": 0.5, "student mean": 0.1 * seed + more, "work": 1.0, "masks clear": ""}
        for arm, more in zip(arms, (0.0, 0.3, 0.1), strict=True)
        for seed in (1, 2, 3)
    ]
    rows[3]["student mean"] += 0.03  # type: ignore[operator]
    lines = sees_and_routes.table(rows, "sees").splitlines()
    assert lines[2] == f"| {arms[0]} | 0.500 |  |  |  | 1.000 | 0.200 |  |  |  |  |"
    half = 4.302653 * float(np.std([0.33, 0.3, 0.3], ddof=1)) / 3**0.5  # Student's t, two degrees of freedom
    assert f"+0.310 (+{0.31 - half:.3f} … +{0.31 + half:.3f})" in lines[3]
    assert "+0.100 (+0.100 … +0.100)" in lines[4]
