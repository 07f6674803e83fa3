"""The whole pipeline on OpenStack Swift: real servers on a disk, which check signatures and rights.

Needs Swift's programs, which live in an environment of their own (`tests.helpers_swift.INSTALL`).
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from echodfkd.config.file import load_config
from echodfkd.core.errors import InputError
from echodfkd.runtime.distillation_run import run_distillation
from tests.conftest import TINY
from tests.helpers.s3 import forgetting_clients
from tests.helpers.swift import INSTALL, OWNER, STRANGER, Swift, programs
from tests.integration.swift_runs import config_at

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,  # servers, and two runs
    pytest.mark.skipif(programs() is None, reason=f"needs OpenStack Swift: {INSTALL}"),
]

ROOT = Path(__file__).parents[2]
TIMED = {"report/stages.csv", "report/students.csv", "report/timeline.csv"}
"""Tables of a report that hold seconds."""


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    server = Swift(tmp_path_factory.mktemp("swift"))
    server.make_bucket("bucket")
    yield server
    server.close()


@pytest.fixture(scope="module")
def found(swift: Swift, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `swift_runs` found on S3 and on a disk."""
    command = [sys.executable, "-m", "tests.integration.swift_runs", "s3://bucket/mine"]
    command.append(str(tmp_path_factory.mktemp("local")))
    here = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**here, **swift.environment()},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_run_on_swift_is_that_of_a_disk(found: dict[str, Any]) -> None:
    on_s3, on_disk = found["s3"], found["disk"]
    assert on_s3["checkpoints"] == ["checkpoints/step_00000003", "checkpoints/step_00000006"]
    assert on_s3["checked"] == [24, 0, 0, []]
    assert len(on_s3["scores"]) > 20
    for what in ("checkpoints", "weights", "ledger", "scores", "cases", "checked", "summary"):
        assert on_s3[what] == on_disk[what], what


def test_its_report_has_the_tables_of_a_disk(found: dict[str, Any]) -> None:
    on_s3, on_disk = found["s3"]["report"], found["disk"]["report"]
    assert sorted(on_s3) == sorted(on_disk)
    assert len(on_s3) > len(TIMED)
    assert {name for name in on_s3 if on_s3[name] != on_disk[name]} <= TIMED
    assert found["s3"]["page"] > 10_000


@pytest.mark.parametrize(
    ("user", "why"),
    [
        pytest.param((OWNER[0], "wrong"), "signature we calculated does not match", id="wrong-secret"),
        pytest.param(STRANGER, "Access Denied", id="no-right-to-list"),
    ],
)
@pytest.mark.parametrize("what", ["storage", "source.path"])
def test_who_may_not_is_told_so_before_anything_starts(
    swift: Swift, monkeypatch: pytest.MonkeyPatch, user: tuple[str, str], why: str, what: str
) -> None:
    for name, value in swift.environment(user).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("echodfkd.runtime.distillation_run.connected", None)  # no cluster is asked for
    recorded = config_at("s3://bucket/other")
    config = recorded if what == "source.path" else load_config(None, [f"storage={recorded.storage}", *TINY])
    with forgetting_clients(), pytest.raises(InputError) as caught:
        run_distillation(config, lambda line: None)
    assert why in str(caught.value)
    assert str(caught.value).startswith("storage: s3://bucket") == (what == "storage")
    assert "\n" not in str(caught.value)
