"""Features, varied clips and weights of an earlier run, end to end on a local cluster."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from echodfkd.config.run import RunConfig
from echodfkd.models.students.build import build_student
from echodfkd.reporting.rows import read_rows
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage.checkpoints import read_resume, read_student
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint

RECIPE = "students.a.objective={features: {kind: matching}, kl: {temperature: 2}, lovasz: {}, dice: {}}"
PLAIN = "students.b={blocks: 2, layers: 1, filters: 4, norm: group}"


@pytest.mark.slow
@pytest.mark.ray
def test_the_recipe_trains_on_varied_clips_and_hands_its_weights_on(
    local_ray: None, tiny_config: Callable[..., RunConfig]
) -> None:
    """Features cross Ray's object store, the adapter stays behind, and a second run starts where the first ended."""
    first = tiny_config(RECIPE, PLAIN, "teacher.feature_layer=up.0", "augment={rotate_deg: 10, gain: 0.2}")
    summary = run_distillation(first, lambda line: None)
    storage = RunStorage(first.root)
    commit = latest_checkpoint(storage)
    assert commit is not None
    assert commit.step == 6
    rows = read_rows(storage)
    logged = {row["student"]: dict(row["terms"]).keys() for row in rows.training.to_pylist()}
    assert logged == {"a": {"kl", "dice", "lovasz", "features"}, "b": {"bce"}}
    assert "feature_tap.adapter.project.weight" in read_resume(storage, commit, "a").weights
    build_student(**first.students["a"].network).load_state_dict(read_student(storage, commit, "a"))
    best = summary["students"]["a"]["best"]
    assert (best["metric"], best["n"], best["steps"]) == ("dice_all", 2, 2)
    assert best["step"] in (3, 6)
    assert (summary["ledger"]["lost"], summary["ledger"]["repeated"]) == (0, 0)

    still = tiny_config(
        PLAIN, "name=tuned", f"train.init_from={first.root}", "source.domain=handheld", "optimizer.learning_rate=1e-30"
    )
    run_distillation(still, lambda line: None)
    tuned = RunStorage(still.root)
    newest = latest_checkpoint(tuned)
    assert newest is not None
    for name in ("a", "b"):
        wanted, found = read_student(storage, commit, name), read_student(tuned, newest, name)
        trained = dict(build_student(**still.students[name].network).named_parameters())
        assert all(torch.allclose(wanted[key], found[key], rtol=0, atol=1e-20) for key in trained)
        assert newest.meta["students"][name]["initial"] == f"{first.root}/{commit.folder}/{name}/student.safetensors"
