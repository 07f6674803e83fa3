"""One local Ray cluster for the whole session, started when the first test asks for it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from echodfkd.command import prepare_ray
from echodfkd.config import RunConfig
from echodfkd.config_file import load_config

os.environ.pop("RAY_ADDRESS", None)
os.environ.setdefault("OMP_NUM_THREADS", "1")
prepare_ray("local")
settings.register_profile("repeatable", derandomize=True)  # the same examples on every machine
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


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A local cluster of 8 logical CPUs that every test shares and the session ends."""
    from echodfkd.config import RayConfig
    from echodfkd.runtime.cluster import connected

    with connected(RayConfig(address="local", num_cpus=8, object_store_mb=256)):
        yield


@pytest.fixture
def tiny_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """Makes tiny run configs in this test's own folder."""

    def make(*overrides: str) -> RunConfig:
        return load_config(None, [f"storage={tmp_path}/runs", "name=tiny", *TINY, *overrides])

    return make
