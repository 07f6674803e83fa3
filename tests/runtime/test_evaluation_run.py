"""Cases shared among actors of a cluster: the same rows as in one process, and one sentence where it fails."""

from __future__ import annotations

import os
import signal

import pytest
import ray

from echodfkd.config.file import load_config
from echodfkd.core.errors import InputError
from echodfkd.reporting.rows import read_rows
from echodfkd.runtime import evaluation_run
from echodfkd.runtime.evaluation_run import evaluate
from echodfkd.storage.files import RunStorage

pytestmark = pytest.mark.ray

SMALL = ["window.size=32", "evaluation.cases=4", "evaluation.frames=16", "evaluate.agreement=true"]


def rows_of(folder: str) -> list[str]:
    """As text: what is undefined (NaN) equals nothing, not even itself."""
    return [repr(row) for row in read_rows(RunStorage(folder)).scores.to_pylist()]


def test_actors_and_one_process_find_the_same(local_ray, tmp_path):
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    evaluate(load_config(None, [*SMALL, f"evaluate.out={here}"]), lambda line: None)
    killed: list[int] = []

    class FatefulTeam(evaluation_run._Team):
        """One of its actors dies when the first case is scored."""

        def score_all(self, numbers):
            victim = ray.get(self._actors[1].__ray_call__.remote(lambda actor: os.getpid()))
            for case in super().score_all(numbers):
                if not killed:
                    os.kill(victim, signal.SIGKILL)
                    killed.append(victim)
                yield case

    config = load_config(None, [*SMALL, f"evaluate.out={there}", "evaluate.actors=2"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation_run, "_Team", FatefulTeam)
        summary = evaluation_run.run_evaluation(config, print)
    assert len(killed) == 1
    assert summary["teacher"]["scores"]["dice_all"]["n"] == 4
    assert rows_of(there) == rows_of(here)
    for name in ("cases.parquet", "agreement.json"):
        assert RunStorage(there).read(name) == RunStorage(here).read(name)


def test_an_actor_that_cannot_load_is_one_sentence(local_ray, tmp_path):
    teacher = ["teacher.kind=recorded", f"teacher.weights={tmp_path}"]
    config = load_config(None, [*SMALL, f"evaluate.out={tmp_path / 'out'}", *teacher, "evaluate.actors=1"])
    with pytest.raises(InputError, match=r"^teacher.weights: .* holds 0 .parquet and 0 .seg.npz files"):
        evaluation_run.run_evaluation(config, print)
