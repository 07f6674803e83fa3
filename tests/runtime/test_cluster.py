"""How a driver reaches its cluster, and what paths and errors look like on the way."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from echodfkd.config.run import RayConfig, RunConfig
from echodfkd.core.errors import RunError
from echodfkd.runtime.cluster.connection import connected, labels_of_stream, last_sentence, with_absolute_paths
from tests.helpers.ports import free_port

LOCAL_CLUSTER = """
from echodfkd.runtime.cluster.environment import prepare_ray
prepare_ray("local")
import os, subprocess, sys
from echodfkd.config.run import RayConfig
from echodfkd.runtime.cluster.connection import connected
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
@pytest.mark.slow  # such a path is also that of a whole job: tests/integration/test_jobs.py
def test_a_local_cluster_works_from_a_path_with_a_space_and_lets_no_stranger_in(tmp_path: Path) -> None:
    """A virtual environment seen through a link whose name has a space: workers must start from it."""
    (tmp_path / "with space").symlink_to(Path(sys.prefix), target_is_directory=True)
    interpreter = tmp_path / "with space" / "bin" / "python"
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run(
        [str(interpreter), "-c", LOCAL_CLUSTER], env=env, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.stdout.splitlines()[-3:] == ["kept True", "from a worker", "stranger 1"], done.stderr[-2000:]


SILENT_CLUSTER = """
from echodfkd.config.run import RayConfig
from echodfkd.runtime.cluster import connection
connection.JOIN_TIMEOUT_S = 1.0
with connection.connected(RayConfig(address="127.0.0.1:{port}", allow_unauthenticated=True)):
    pass
"""


@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize("variable", [False, True])
def test_a_cluster_that_is_gone_is_one_sentence_at_once(
    scheme: str, variable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    address = f"{scheme}127.0.0.1:{free_port()}"
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", address)
    source = r" \(from RAY_ADDRESS\)" if variable else ""
    expected = rf"^ray.address: no cluster answers at {re.escape(address)}{source} \(Connection refused\); start one"
    with pytest.raises(RunError, match=expected), connected(RayConfig(address="auto" if variable else address)):
        pass


def test_a_server_that_is_no_cluster_ends_the_job_with_one_sentence() -> None:
    """Ray would retry for minutes, in C++, and print its own lines."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        code = SILENT_CLUSTER.format(port=port)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    sentence = f"something listens at 127.0.0.1:{port}, but Ray could not join a cluster there within 1 s"
    assert done.stderr == f"error: ray.address: {sentence}\n"


LOST_CLUSTER = """
import socket, time
import ray
from echodfkd.config.run import RayConfig
from echodfkd.runtime.cluster import connection
connection.WATCH_S = 0.1
ray.init = lambda **options: None
server = socket.create_server(("127.0.0.1", {port}))
with connection.connected(RayConfig(address="127.0.0.1:{port}", allow_unauthenticated=True)):
    time.sleep(0.5)
    print("joined", flush=True)
    server.close()
    time.sleep(60)
"""


def test_a_cluster_that_goes_away_while_a_job_starts_ends_it_with_one_sentence() -> None:
    port = free_port()
    code = LOST_CLUSTER.format(port=port)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "joined\n")
    assert done.stderr == f"error: ray.address: the cluster at 127.0.0.1:{port} went away while the job started\n"


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
