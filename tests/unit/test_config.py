"""The config: every shipped file loads, every mistake is one sentence that names the option."""

from pathlib import Path

import pytest
import yaml

from echodfkd.config import RunConfig
from echodfkd.config_file import config_from_dict, config_hash, config_to_yaml, load_config
from echodfkd.errors import ConfigError

ONE_STUDENT = "students.a.blocks=2"
CONFIGS = sorted(Path(__file__).parents[2].glob("configs/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_loads_and_survives_its_own_dump(path: Path) -> None:
    config = load_config(
        str(path), ["source.path=/data", "evaluation.source.path=/data", "teacher.weights=/weights.pt"]
    )
    assert config_from_dict(yaml.safe_load(config_to_yaml(config))) == config


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train: {steps: 7, workers: 2}\nstudents: {a: {blocks: 1}}\n")
    config = load_config(str(path), ["train.steps=9"])
    assert (config.train.steps, config.train.workers) == (9, 2)
    assert config.train.accumulation == RunConfig().train.accumulation
    assert config.plan_slots == 9 * config.train.global_batch


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trian.steps=3"], "trian: unknown option; allowed are data,"),
        (
            [ONE_STUDENT, "students.a.blokcs=2"],
            "students.a.blokcs: unknown option; allowed are blocks, filters, layers",
        ),
        ([ONE_STUDENT, "train.steps=many"], "train.steps: Value 'many' of type 'str' could not be converted"),
        ([ONE_STUDENT, "train.steps=0"], "train.steps: got 0, must be at least 1"),
        ([ONE_STUDENT, "train.steps"], "override 'train.steps': expected key=value"),
        ([ONE_STUDENT, "train=3"], "int is not a subclass of TrainConfig"),
        ([ONE_STUDENT, "train.workers=3"], "train.global_batch: got 8, must be a multiple of train.workers (3)"),
        ([ONE_STUDENT, "train.zero_stage=4"], "train.zero_stage: got 4, allowed are 0, 1, 2, 3"),
        (
            [ONE_STUDENT, "window.size=55"],
            "window.size: got 55, must be a multiple of 2 because students.a.blocks is 2",
        ),
        ([ONE_STUDENT, "students.a.norm=none"], "students.a.norm: got 'none', allowed are batch, group"),
        ([ONE_STUDENT, "teacher.max_actors=0"], "teacher.max_actors: got 0, must be at least teacher.min_actors (1)"),
        ([ONE_STUDENT, "teacher.kind=echonet_deeplabv3"], "teacher.weights: empty"),
        ([ONE_STUDENT, "source.kind=recorded"], "source.path: empty"),
        ([ONE_STUDENT, "name=../up"], "name: got '../up'"),
        ([ONE_STUDENT, "evaluation.node_label=eval"], "evaluation.node_label: got 'eval', expected key=value"),
        ([ONE_STUDENT, "optimizer.learning_rate=0"], "optimizer.learning_rate: got 0.0, must be above 0"),
        ([ONE_STUDENT, "data.quarantine_limit=2"], "data.quarantine_limit: got 2.0, must lie in 0 .. 1"),
        ([], "students: empty, name at least one"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_option(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_malformed_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config: no file nowhere.yaml"):
        load_config("nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("- a\n- list\n")
    with pytest.raises(ConfigError, match="must hold `key: value` lines"):
        load_config(str(broken))
    broken.write_text("train: {steps: [1\n")
    with pytest.raises(ConfigError, match="could not be read"):
        load_config(str(broken))


def test_the_hash_sees_what_decides_numbers_and_not_where_they_are_made() -> None:
    base = load_config(None, [ONE_STUDENT])
    for same in ("storage=/elsewhere", "name=other", "train.workers=2", "train.zero_stage=1", "teacher.num_gpus=1"):
        assert config_hash(load_config(None, [ONE_STUDENT, same])) == config_hash(base), same
    for other in ("seed=1", "train.steps=3", "window.size=64", "students.a.layers=2", "optimizer.beta1=0.8"):
        assert config_hash(load_config(None, [ONE_STUDENT, other])) != config_hash(base), other


def test_a_long_plan_runs_in_legs_that_end_at_checkpoints() -> None:
    config = load_config(
        None,
        [ONE_STUDENT, "train.steps=12000", "train.workers=2", "train.global_batch=8", "train.checkpoint_every=100"],
    )
    assert config.blocks_per_step == 2
    assert config.leg_steps == 2500
    assert config.num_legs == 5
    assert config.leg_steps % config.train.checkpoint_every == 0
