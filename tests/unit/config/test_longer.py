"""A run folder and another config: which options are named, and when more steps are the same run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from echodfkd.config.file import load_config
from echodfkd.config.identity import IDENTITY, config_hash, keep_longer, open_run_folder, run_hashes
from echodfkd.config.run import RunConfig
from echodfkd.config.stored import stored_config
from echodfkd.core.errors import ConfigError
from echodfkd.core.records import Quarantined
from echodfkd.storage.files import RunStorage
from echodfkd.storage.schemas import write_records

CONSTANT = "optimizer.schedule=constant"


@pytest.fixture
def folder(tmp_path: Path) -> list[str]:
    """Overrides of a run whose folder exists."""
    return [f"storage={tmp_path}", "name=run", "students.a={blocks: 1, filters: 2}", "train.steps=6"]


def load(*overrides: str) -> RunConfig:
    return load_config(None, overrides)


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ("", "optimizer.learning_rate=1e-3", "other options: optimizer.learning_rate (0.003, now 0.001); give this"),
        ("", "seed=7", "other options: seed (0, now 7); give this run another name; train.init_from then"),
        ("", "students.a.blocks=2", "students.a.blocks (1, now 2)"),
        ("", "students.b.blocks=1", "students.b.blocks (none, now 1)"),
        ("", "students={c:{}}", "students.a.blocks (1, now none)"),
        ("", "source.conditions.ef_percent=35", "source.conditions.ef_percent"),
        (
            "",
            "train.steps=12",
            "train.steps (6, now 12); a run gets longer only with optimizer.schedule=constant: cosine",
        ),
        (CONSTANT, "train.steps=5", "train.steps (6, now 5); a run gets longer, never shorter"),
        (CONSTANT, "seed=1 train.steps=12", "train.steps (6, now 12), seed (0, now 1); give this run another name"),
    ],
)
def test_a_refusal_names_the_options_and_both_values(folder: list[str], before: str, now: str, words: str) -> None:
    both = [*folder, *before.split()]
    open_run_folder(load(*both), "t")
    with pytest.raises(ConfigError) as refused:
        open_run_folder(load(*both, *now.split(" ")), "t")
    assert words in str(refused.value)
    assert str(refused.value).startswith("name: the run run in ")


def test_many_changes_are_counted(folder: list[str]) -> None:
    open_run_folder(load(*folder), "t")
    others = ["seed=1", "window.fps=20", "window.frames=20", "train.global_batch=4", "optimizer.beta1=0.5"]
    with pytest.raises(ConfigError, match=r"and 1 more; give this run another name"):
        open_run_folder(load(*folder, *others), "t")


def test_a_longer_run_is_the_same_run_again_and_again(folder: list[str]) -> None:
    """Checkpoints carry the hash of the length that they were made with: the folder knows all of them."""
    hashes = []
    for steps in (6, 12, 20):
        config = load(*folder, CONSTANT, f"train.steps={steps}")
        storage = open_run_folder(config, "t")
        keep_longer(storage, config)
        hashes.append(config_hash(config))
        assert run_hashes(storage, config) == set(hashes)
        assert stored_config(storage).train.steps == steps
        open_run_folder(config, "t")
    assert json.loads(storage.read(IDENTITY))["earlier"] == hashes[:2]
    with pytest.raises(ConfigError, match=r"never shorter"):
        open_run_folder(load(*folder, CONSTANT, "train.steps=12"), "t")


def test_a_run_in_which_clips_were_replaced_gets_no_longer(folder: list[str]) -> None:
    storage = open_run_folder(load(*folder, CONSTANT), "t")
    row = Quarantined(-1, 3, "case-3", "evaluator", "too short")
    write_records(storage, "quarantine/cases.parquet", [row])
    longer = load(*folder, CONSTANT, "train.steps=12")
    open_run_folder(longer, "t")  # a held-out case is no part of the plan
    write_records(storage, "quarantine/part.parquet", [Quarantined(2, 3, "clip-3", "source", "too short")])
    with pytest.raises(ConfigError, match=r"clips at fault were replaced in it, and train.steps decides"):
        open_run_folder(longer, "t")


def test_a_folder_whose_config_was_changed_is_refused(folder: list[str]) -> None:
    storage = open_run_folder(load(*folder), "t")
    assert isinstance(storage, RunStorage)
    storage.write("config.yaml", b"students: {a: {blocks: 9}}")
    with pytest.raises(ConfigError, match=r"its config\.yaml is not read"):
        open_run_folder(load(*folder, "seed=3"), "t")
