"""How a driver reaches its cluster, and what paths and errors look like on the way."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from echodfkd.config.run import RunConfig
from echodfkd.runtime.cluster.connection import labels_of_stream, last_sentence, with_absolute_paths

LOCAL_CLUSTER = """
from echodfkd.runtime.cluster.environment import prepare_ray
prepare_ray("local")
import os, subprocess, sys
from echodfkd.config.run import RayConfig
from echodfkd.runtime.cluster import connected
import ray
def faults():  # pages of 100 MB that the kernel had to clear, once the process had freed as much
    import resource
    import numpy as np
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(100 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
with connected(RayConfig(address="local", num_cpus=1, object_store_mb=80)):
    print("kept", ray.get(ray.remote(faults).remote(), timeout=60) < 100)
    task = ray.remote(lambda: os.environ["HELLO"]).options(runtime_env={"env_vars": {"HELLO": "from a worker"}})
    print(ray.get(task.remote(), timeout=60))
    address = ray.get_runtime_context().gcs_address
    code = f"import ray; ray.init(address='{address}', log_to_driver=False)"
    stranger = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}
    print("stranger", subprocess.run([sys.executable, "-c", code], env=stranger, capture_output=True).returncode)
"""


@pytest.mark.ray
def test_a_local_cluster_works_from_a_path_with_a_space_and_lets_no_stranger_in(tmp_path: Path) -> None:
    """A virtual environment seen through a link whose name has a space: workers must start from it."""
    (tmp_path / "with space").symlink_to(Path(sys.prefix), target_is_directory=True)
    interpreter = tmp_path / "with space" / "bin" / "python"
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run(
        [str(interpreter), "-c", LOCAL_CLUSTER], env=env, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.stdout.splitlines()[-3:] == ["kept True", "from a worker", "stranger 1"], done.stderr[-2000:]


def test_local_paths_become_absolute_and_urls_stay(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/user")
    config = tiny_config("storage=runs", "source.kind=recorded", "source.path=data", "teacher.weights=t.pt")
    here = with_absolute_paths(config)
    assert (here.storage, here.source.path) == (f"{tmp_path}/runs", f"{tmp_path}/data")
    assert here.teacher.weights == f"{tmp_path}/t.pt"
    assert here.evaluation.source.path == ""
    assert with_absolute_paths(tiny_config("storage=s3://bucket/runs")).storage == "s3://bucket/runs"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")  # Ray deletes a submitted job's folder
    assert with_absolute_paths(config).storage == "/home/user/runs"


def test_only_the_last_sentence_of_a_remote_error_is_shown() -> None:
    remote = 'Traceback:\n  File "x.py", line 3\nechodfkd.errors.InputError: teacher.weights: no file /x\n'
    assert last_sentence(RuntimeError(remote)) == "teacher.weights: no file /x"
    assert last_sentence(RuntimeError("")) == "RuntimeError"


def test_the_stream_keeps_off_the_evaluators_nodes() -> None:
    assert labels_of_stream("", "") is None
    assert labels_of_stream("", "ray-subcluster=eval") == {"ray-subcluster": "!eval"}
    assert labels_of_stream("pool=teacher", "ray-subcluster=eval") == {"pool": "teacher"}
