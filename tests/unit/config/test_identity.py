"""A run's identity: the options that decide numbers and differ from their defaults."""

import dataclasses
from typing import Any

import pytest
import yaml

from echodfkd.config.file import config_from_dict, load_config
from echodfkd.config.identity import config_hash, config_text, difference
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.option import option, walk
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import TrainConfig

OPTIONS = ["students.a.blocks=2", "train.steps=7", "source.conditions.ef_percent=[20, 40]"]


def test_the_identity_holds_only_differences() -> None:
    assert difference(RunConfig()) == {}
    assert difference(load_config(None, OPTIONS)) == {
        "students": {"a": {"blocks": 2}},
        "train": {"steps": 7},
        "source": {"conditions": {"ef_percent": {"low": 20.0, "high": 40.0, "mixture": []}}},
    }
    assert difference(load_config(None, ["students.a={}", "students.b={}"])) == {"students": {"a": {}, "b": {}}}
    held_out = ["students.a={}", "evaluation.source.seed_offset=0"]  # the default of this source is another one
    assert difference(load_config(None, held_out))["evaluation"] == {"source": {"seed_offset": 0}}


def test_a_run_folders_config_begins_with_its_own_options_and_is_read_back_whole() -> None:
    config = load_config(None, [*OPTIONS[:2], "source.kind=folder", "source.path=/data/# é"])
    text = config_text(config)
    assert [line for line in text.splitlines() if line.startswith("#   ")] == [
        '#   source.kind: "folder"',
        '#   source.path: "/data/# é"',
        "#   students.a.blocks: 2",
        "#   train.steps: 7",
    ]
    assert config_from_dict(yaml.safe_load(text)) == config
    assert config_text(RunConfig()).splitlines()[1] == "#   none"


@dataclasses.dataclass(frozen=True)
class LaterTrain(TrainConfig):
    momentum: float = option(0.5, least=0)


@dataclasses.dataclass(frozen=True)
class LaterStudent(StudentConfig):
    gates: list[int] = option(factory=list)


@dataclasses.dataclass(frozen=True)
class LaterConfig(RunConfig):
    """As a later version might have it: options more in the config, in a section and in every student."""

    train: LaterTrain = dataclasses.field(default_factory=LaterTrain)
    salt: str = option("none", choices=("none", "some"))


def later(config: RunConfig) -> LaterConfig:
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values["train"] = LaterTrain(**dataclasses.asdict(config.train))
    values["students"] = {
        name: LaterStudent(**{field.name: getattr(student, field.name) for field in dataclasses.fields(student)})
        for name, student in config.students.items()
    }
    return LaterConfig(**values)


def test_an_option_that_comes_later_leaves_the_hashes_of_old_runs_alone() -> None:
    config = load_config(None, OPTIONS)
    changed = later(config)
    assert config_hash(changed) == config_hash(config)
    using: list[LaterConfig] = [
        dataclasses.replace(changed, salt="some"),
        dataclasses.replace(changed, train=dataclasses.replace(changed.train, momentum=0.9)),
        dataclasses.replace(changed, students={"a": dataclasses.replace(changed.students["a"], gates=[1])}),
    ]
    assert len({config_hash(other) for other in [config, *using]}) == 4


def changes(section: Any) -> list[tuple[str, Any, bool]]:
    """Every single option of a section with another value, and whether a run's numbers may depend on it."""
    found = []
    for name, declared, value in walk(section):
        others = {bool: not value, int: value + 1 if isinstance(value, int) else 0, str: "other"}
        if type(value) in (bool, int, str, float):
            found.append((name, others.get(type(value), 0.25), declared.identity and not declared.needs))
    return found


@pytest.mark.parametrize("section", ["optimizer", "window", "data", "train"])
def test_an_option_changes_the_hash_if_it_is_declared_part_of_the_identity(section: str) -> None:
    config = load_config(None, OPTIONS)
    own = getattr(config, section)
    for name, value, counts in changes(own):
        changed = dataclasses.replace(config, **{section: dataclasses.replace(own, **{name: value})})
        assert (config_hash(changed) != config_hash(config)) == counts, name


def test_what_the_numbers_of_a_run_depend_on_is_pinned() -> None:
    """Another value here means that no run folder of an earlier version can be resumed."""
    assert config_hash(RunConfig()) == "44136fa355b3678a"  # sha256 of {}
    assert config_hash(load_config(None, OPTIONS)) == "35681800708a05e5"
