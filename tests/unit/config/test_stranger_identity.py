"""identity.json and config.yaml that no run has written: one sentence each, in bounded time."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest

from echodfkd.config.file import config_to_yaml, load_config
from echodfkd.config.identity import IDENTITY, config_hash, open_run_folder
from echodfkd.config.run import RunConfig
from echodfkd.config.stored import CONFIG, stored_config, stored_values
from echodfkd.core.errors import ConfigError, EchoDFKDError, InputError
from echodfkd.reporting.rows import read_rows
from echodfkd.storage.files import LAYOUT, RunStorage
from echodfkd.storage.untrusted import MAX_DEPTH, parse_json, parse_yaml

DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
BOMB = b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n".encode() for n in range(1, 10)
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("identity")
    return load_config(None, [f"storage={root}", "name=run", "students.a={blocks: 1, filters: 2}"])


@pytest.fixture
def config(loaded: RunConfig) -> RunConfig:
    """A config whose run folder does not exist."""
    shutil.rmtree(loaded.root, ignore_errors=True)
    return loaded


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'"text"',
        b"{",
        b"{}",
        DEEP,
        b"\xff\xfe\x00",
        b'{"config_hash": ["x"], "teacher_id": "t"}',
        b'{"config_hash": {"x": 1}, "teacher_id": "t"}',
        b'{"config_hash": "x", "teacher_id": null}',
        b'{"layout": "3", "config_hash": "x", "teacher_id": "t"}',
        b'{"layout": 1e999, "config_hash": "x", "teacher_id": "t"}',
        b'{"layout": true, "config_hash": "x", "teacher_id": "t"}',
        b'{"layout": 99, "config_hash": "x", "teacher_id": "t"}',
        b'{"config_hash": "\\ud800", "teacher_id": "t"}',
        b'{"config_hash": "' + b"x" * 100_000 + b'", "teacher_id": "t", "layout": 3}',
    ],
)
def test_an_identity_that_is_none_is_one_sentence(config: RunConfig, data: bytes) -> None:
    storage = open_run_folder(config, "t")
    storage.write(IDENTITY, data)
    with pytest.raises(EchoDFKDError) as caught:
        open_run_folder(config, "t")
    assert len(str(caught.value)) < 1501
    with contextlib.suppress(InputError):
        read_rows(storage)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"- a\n- b\n",
        b"a: [\n",
        b"a: !!python/object/apply:os.system [touch MARK]\n",
        b"a: \xff\n",
        b"a: " + b"[" * 100_000,
        BOMB,
        b"&a [*a]\n",
        b"seed: .nan\n",
        b"seed: .inf\n",
        b"seed: " + b"9" * 5000 + b"\n",
        b"name: !!timestamp 2020-01-01\n",
        b"name: !!set {a, b}\n",
        b"name: !!binary aGVsbG8=\n",
        b"1: 2\n",
        b"? [a, b]\n: c\n",
        b"? 2020-01-01\n: c\n",
        b"a: 1\n" * 3,
        b"x" * (2 << 20),
        b"students: 5\n",
        b"students: {a: {blocks: x}}\n",
        b"nope: 5\n",
        b"name: ${oc.env:HOME}\n",
    ],
)
def test_a_config_that_is_none_is_one_sentence(config: RunConfig, data: bytes) -> None:
    storage = open_run_folder(config, "t")
    storage.write(IDENTITY, json.dumps({"layout": 2, "config_hash": "x", "teacher_id": "t"}).encode())
    storage.write(CONFIG, data)
    with pytest.raises((InputError, ConfigError)):
        open_run_folder(config, "t")


def test_a_config_that_a_run_has_written_is_read_whole(config: RunConfig) -> None:
    storage = open_run_folder(config, "t")
    assert storage.read_json(IDENTITY) == {"layout": LAYOUT, "config_hash": config_hash(config), "teacher_id": "t"}
    assert stored_config(storage) == config
    assert stored_values(storage) == parse_yaml(config_to_yaml(config).encode(), CONFIG)


def test_bounds_of_json() -> None:
    def nested(depth: int) -> bytes:
        return b"[" * depth + b"]" * depth

    assert parse_json(nested(MAX_DEPTH), "x")
    for depth in (MAX_DEPTH + 1, 900, 10_000):
        with pytest.raises(InputError, match=r"^x is not readable JSON: "):
            parse_json(nested(depth), "x")
    with pytest.raises(InputError, match=r"^x is not readable JSON: half of a character"):
        parse_json(b'["\\ud83d"]', "x")
    assert parse_json(b'["\\ud83d\\ude00", 9223372036854775807, -5, 1e300]', "x") == [
        "\U0001f600",
        (1 << 63) - 1,
        -5,
        1e300,
    ]
    for number in (b"9223372036854775808", b"1" * 5000, b"1e999", b"NaN", b"-Infinity"):
        with pytest.raises(InputError, match=r"^x is not readable JSON: "):
            parse_json(b"[" + number + b"]", "x")


@pytest.mark.parametrize("name", ["identity.json", "config.yaml", "run.json"])
def test_a_folder_in_place_of_a_file(config: RunConfig, name: str) -> None:
    storage = open_run_folder(config, "t")
    path = Path(storage.root) / name
    path.unlink(missing_ok=True)
    path.mkdir()
    with pytest.raises(InputError, match=f"run/{name} is a folder, expected a file"):
        read_rows(RunStorage(storage.root))
