"""The config side of generators: which options a kind reads, its files by content, its pools, its place in a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from echodfkd.config.file import config_from_dict, config_to_yaml, load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.pins import shipped_weights
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.generator import GENERATORS, GeneratorConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.models.generators.build import _BUILDERS
from echodfkd.runtime.cluster.resources import roles
from echodfkd.runtime.stream.generator_pool import generating_stages
from echodfkd.sources.generated.loaded import check_same_files
from echodfkd.storage import local_files
from echodfkd.storage.local_files import hash_files

STUDENT = "students.a={blocks: 1}"
PARTS = ["source.kind=mixture", "source.parts.drawn.kind=phantom", "source.parts.drawn.weight=3"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "config.json").write_text("{}")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("1")
    return folder


def made_by(files: Path, *more: str) -> RunConfig:
    kind = ["source.kind=echonet_synthetic", f"source.generator.weights={files}"]
    return load_config(None, [STUDENT, *kind, *more])


def test_every_kind_has_a_builder_and_reads_options_that_there_are():
    assert set(GENERATORS) == set(_BUILDERS)
    known = {field.name for field in dataclasses.fields(GeneratorConfig)}
    assert all(set(read) <= known for read in GENERATORS.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["source.generator.steps=4"], "source.generator: set, but source.kind is phantom; generators are "),
        (["source.kind=echonet_synthetic"], "source.generator.weights: empty, but source.kind is echonet_synthetic"),
        ([*PARTS, "source.generator.batch=2"], "source.generator: set, but source.kind is mixture; give it to its"),
        (
            ["source.kind=echonet_synthetic", "source.generator={weights: /nowhere, min_actors: 3, max_actors: 2}"],
            "source.generator.max_actors: got 2, must be at least source.generator.min_actors (3)",
        ),
        (
            ["source.kind=echonet_synthetic", "source.generator={weights: /nowhere, guidance: 2}"],
            "source.generator.guidance: set, but source.kind is echonet_synthetic, which reads weights, scheduler,",
        ),
        (
            ["source.kind=painted", "source.generator={weights: /nowhere, compile: true}"],
            "source.generator.compile: set, but source.kind is painted, which reads weights",
        ),
        (
            [*PARTS, "source.parts.made={kind: echonet_synthetic, generator: {weights: /nowhere}}"],
            "source.parts.made.generator.weights: /nowhere cannot be read: No such file or directory",
        ),
        (
            ["source.kind=echonet_synthetic", "source.generator.weights=~/files"],
            "source.generator.weights: got '~/files', ~ is not expanded",
        ),
        (
            ["source.kind=echonet_synthetic", "source.path=/files", "source.generator.weights=/nowhere"],
            "source.path: set, but source.kind is echonet_synthetic; its files are source.generator.weights",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(options: list[str], words: str):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [STUDENT, *options])
    assert words in str(caught.value)


def test_a_run_knows_its_generator_by_content_and_not_by_place(files: Path, tmp_path: Path):
    known = made_by(files)
    assert known.source.generator.sha256 == hash_files(str(files))
    (files / ".cache" / "lock").write_text("2")
    moved = files.rename(tmp_path / "moved")
    assert config_hash(made_by(moved, "source.generator.max_actors=9", "source.generator.batch=8")) == config_hash(
        known
    )
    assert config_hash(made_by(moved, "source.generator.steps=3")) != config_hash(known)
    check_same_files(made_by(moved).source.generator)
    (moved / "vae" / "config.json").write_text("{ }")
    assert config_hash(made_by(moved)) != config_hash(known)
    with pytest.raises(InputError, match="put the same files on every node"):
        check_same_files(dataclasses.replace(known.source.generator, weights=str(moved)))


def test_a_run_knows_the_shipped_generator_by_content_too():
    config = load_config(None, [STUDENT, "source.kind=latent_video"])
    assert config.source.generator.sha256 == hash_files(shipped_weights("latent_video"))


def test_a_folder_of_too_many_files_is_refused_before_any_is_read(files: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local_files, "MAX_FILES", 1)
    assert hash_files(str(files))
    (files / "more.json").write_text("{}")
    with pytest.raises(InputError, match="holds more than 1 files or 64 GiB"):
        hash_files(str(files))


def test_a_stored_config_comes_back_and_other_sources_say_nothing_of_generators(files: Path):
    config = made_by(files, "source.conditions.ef_percent=[20, 40]")
    assert config_from_dict(yaml.safe_load(config_to_yaml(config))) == config
    assert "generator" not in config_to_yaml(load_config(None, [STUDENT])).split("teacher:")[0]


def test_pools_stages_and_roles_are_those_of_the_generated_parts(files: Path):
    made = f"source.parts.made={{kind: echonet_synthetic, generator: {{weights: {files}, num_gpus: 1, batch: 24}}}}"
    config = load_config(None, [STUDENT, *PARTS, made, "train.global_batch=8", "train.workers=2"])
    assert list(config.generator_pools) == ["generator.made"]
    assert config.source.share("made") == 0.25
    (stage,) = generating_stages(config)
    assert stage.concurrency == 48, "a block of 4 has one clip for this generator: two batches of 24"
    (role,) = [role for role in roles(config) if role.name == "generator.made"]
    assert (role.count, role.gpus, role.option) == (1, 1.0, "source.parts.made.generator")
    alone = made_by(files, "source.generator.batch=1")
    assert list(alone.generator_pools) == ["generator"]
    assert generating_stages(alone)[0].concurrency == 2, "one block on the device, one that draws"
    assert generating_stages(load_config(None, [STUDENT])) == []
