"""Faults are drawn from the seed only."""

import pytest

from echodfkd.core.errors import ConfigError
from tests.chaos.chaos_plan import FAULTS, plan_faults


def test_a_seed_always_gives_the_same_plan_and_other_seeds_differ() -> None:
    assert plan_faults(7, steps=300, count=5) == plan_faults(7, steps=300, count=5)
    assert len({tuple(plan_faults(seed, steps=300, count=5)) for seed in range(50)}) == 50


@pytest.mark.parametrize("count", [1, 4, 8, 11, 20])
def test_faults_strike_in_the_middle_in_order_and_no_kind_is_favoured(count: int) -> None:
    for seed in range(20):
        faults = plan_faults(seed, steps=100, count=count)
        moments = [fault.step for fault in faults]
        assert moments == sorted(set(moments))
        assert len(faults) == count
        assert moments[0] >= 5
        assert moments[-1] < 90
        kinds = [fault.kind for fault in faults]
        assert max(map(kinds.count, FAULTS)) - min(map(kinds.count, FAULTS)) <= 1


def test_every_kind_comes_first_for_some_seed() -> None:
    assert {plan_faults(seed, steps=100, count=1)[0].kind for seed in range(100)} == set(FAULTS)


def test_a_run_too_short_is_one_sentence() -> None:
    assert [fault.step for fault in plan_faults(0, steps=3, count=2)] == [1, 2]
    with pytest.raises(ConfigError, match=r"--faults: got 3, a run of 3 updates \(train.steps\) takes 1 to 2 faults"):
        plan_faults(0, steps=3, count=3)
