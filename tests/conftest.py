"""One local Ray cluster for the whole session, started when the first test asks for it."""

from __future__ import annotations

import functools
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.runtime.cluster.environment import prepare_ray

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

    from tests.helpers.s3 import FaultyProxy, S3Server

os.environ.pop("RAY_ADDRESS", None)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: beside the other tests' processes, hardly any time
os.environ.setdefault(
    "RAY_prestart_worker_first_driver", "0"
)  # else a process per logical CPU, which most tests never use
prepare_ray("local")
settings.register_profile("repeatable", derandomize=True, deadline=None)  # the same on every machine, busy or not
settings.load_profile("repeatable")

TINY = [
    "students.a={blocks: 2, layers: 1, filters: 4}",
    "window.frames=4",
    "window.size=32",
    "train.steps=6",
    "train.global_batch=4",
    "train.checkpoint_every=3",
    "evaluation.cases=2",
    "evaluation.frames=32",
    "evaluation.overlays=1",
    "ray.progress_s=0",
]
"""A run of seconds: overrides that later ones may override again."""


LONGEST_FIRST = ("tests/integration", "tests/runtime", "tests/unit/training")
"""Where the longest tests are: with pytest-xdist they start first, so that none runs by itself at the end."""


@functools.cache
def xdist_group(file: str) -> str:
    """The tests that one pytest-xdist worker runs: those of a folder that start Ray, those of training, or a file's.

    A cluster for each folder and no more: on two cores, clusters spend more time waking each other than at work.
    """
    if file.startswith("tests/unit/training/"):
        return "training"  # its tests share two processes
    text = (Path(__file__).parents[1] / file).read_text()
    starts_ray = re.search(r"mark\.ray\b|\b(local_ray|shared_run|family_run)\b", text)
    return f"ray {Path(file).parent}" if starts_ray else file


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a pytest-xdist worker: the longest tests first, those that start Ray before all."""
    if hasattr(config, "workerinput"):
        files = {item: item.nodeid.split("::")[0] for item in items}
        items.sort(key=lambda i: (not xdist_group(files[i]).startswith("ray "), not files[i].startswith(LONGEST_FIRST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Deal tests out by `xdist_group`."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return xdist_group(nodeid.split("::")[0])

    return ByGroup(config, log)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A local cluster of 8 logical CPUs that every test shares and the session ends."""
    from echodfkd.config.run import RayConfig
    from echodfkd.runtime.cluster.connection import connected

    with connected(RayConfig(address="local", num_cpus=8, object_store_mb=256)):
        yield


@pytest.fixture
def tiny_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """Makes tiny run configs in this test's own folder."""

    def make(*overrides: str) -> RunConfig:
        return load_config(None, [f"storage={tmp_path}/runs", "name=tiny", *TINY, *overrides])

    return make


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for clusters: Ray's sockets lie in it, whose paths may have 107 bytes, and `tmp_path` is too deep."""
    with tempfile.TemporaryDirectory(prefix="echo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A server that speaks S3, on this machine."""
    from tests.helpers.s3 import S3Server

    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3_proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy before that server, to which S3 clients of this process go for the time of the test."""
    from tests.helpers.s3 import FaultyProxy, environment, forgetting_clients

    proxy = FaultyProxy(s3_server.port)
    for name, value in environment(proxy.port).items():
        monkeypatch.setenv(name, value)
    with forgetting_clients():
        yield proxy
    proxy.close()


@pytest.fixture
def s3_bucket(s3_server: S3Server, s3_proxy: FaultyProxy) -> str:
    """Name of a new bucket of that server, reached through the proxy."""
    return s3_server.bucket()
