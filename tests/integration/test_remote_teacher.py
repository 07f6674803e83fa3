"""A run whose teacher is a real service (jobs/serve_teacher.py) that is killed and started again in the
middle, behind a proxy that breaks requests: the students are those of the same run with the teacher at home.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import InputError
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from tests.helpers.ports import free_port
from tests.helpers.remote import TOKEN, make_certificate
from tests.helpers.s3 import FaultyProxy
from tests.integration.fault_rows import record
from tests.integration.helpers_faults import ThreadedRun, final_weights, train_without_ray

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
RUN = ["train.steps=24", "train.checkpoint_every=8", "train.engine=plain", "evaluation.enabled=false"]


class Service:
    """jobs/serve_teacher.py in a process of its own."""

    def __init__(self, folder: Path, port: int, *options: str) -> None:
        (folder / "token").write_text(TOKEN)
        self._command = [sys.executable, "jobs/serve_teacher.py", "--config", "configs/serve_teacher.yaml"]
        self._command += [f"serve.port={port}", f"serve.token_file={folder}/token", "ray.num_cpus=2", *options]
        self._errors = folder / "service.err"
        self.start()

    def start(self) -> None:
        """Start it (again). `wait` tells when it listens."""
        env = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
        env.pop("RAY_AUTH_MODE", None)
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def wait(self) -> str:
        """The line that says that it listens."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("serving "):
                return line
        raise AssertionError(self._errors.read_text()[-2000:])

    def kill(self) -> None:
        """SIGKILL, to the driver and every process of its cluster, as if its machine had lost power."""
        everybody = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        for process in everybody:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(everybody, timeout=30)

    def end(self) -> tuple[int, str, str]:
        """SIGTERM. Returns the exit code, what was printed last, and standard error."""
        self._process.send_signal(signal.SIGTERM)
        out, _ = self._process.communicate(timeout=120)
        return self._process.returncode, out.strip().splitlines()[-1], self._errors.read_text()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[Service, int]]:
    port = free_port()
    made = Service(tmp_path, port)
    yield made, port
    if made._process.poll() is None:
        made.kill()


def broken(number: int, method: str, path: str) -> str:
    """A tenth of the requests fails, a tenth takes two seconds more."""
    return {3: "slow_down", 6: "delay 2", 13: "reset", 16: "delay 2", 23: "lost", 26: "delay 2"}.get(number % 30, "")


@pytest.mark.slow  # two runs and three services; tests/runtime/test_teacher_service.py has one service
def test_a_killed_service_and_a_bad_line_change_no_student(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, service: tuple[Service, int]
) -> None:
    server, port = service
    undisturbed = final_weights(train_without_ray(tiny_config(*RUN), tmp_path / "alone"))
    proxy = FaultyProxy(port, broken)
    remote = f"teacher.remote={{url: 'http://127.0.0.1:{proxy.port}', token_file: {tmp_path}/token, deadline_s: 200}}"
    config = tiny_config(*RUN, "teacher.kind=remote", remote, "teacher.max_actors=2", "teacher.min_actors=2")
    assert "serving embedded-" in server.wait()
    wrong = tmp_path / "wrong"
    wrong.write_text("x" * 32)
    with pytest.raises(InputError, match="wants its token, and ours is another one"):
        run_distillation(tiny_config("teacher.kind=remote", remote, f"teacher.remote.token_file={wrong}"), print)

    run = ThreadedRun(config)
    run.wait_until(lambda: len(proxy.seen) >= 14)
    server.kill()
    began = time.monotonic()
    server.start()
    server.wait()
    away_s = time.monotonic() - began
    summary = run.finish()
    proxy.close()
    code, last, errors = server.end()

    assert summary["ledger"] == {"clips": 96, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    report = check_ledger(RunStorage(config.root), config.plan_slots)
    assert not report.problems
    assert final_weights(config) == undisturbed
    assert proxy.count("reset") + proxy.count("slow_down") + proxy.count("lost") >= 2
    assert (code, errors) == (0, "")
    assert json.loads(last)["ok"] is True
    stored = [path.read_bytes() for path in Path(config.root).rglob("*") if path.is_file()]
    assert stored
    assert not any(TOKEN.encode() in data for data in stored)
    means = "requests are sent again until `teacher.remote.deadline_s`; a mask is a function of its pixels"
    record(report, "kill -9 of a remote teacher's service, which is started again", means, extra_s=away_s, same=True)


@pytest.mark.slow
def test_the_service_over_https(tmp_path: Path, tiny_config: Callable[..., RunConfig]) -> None:
    """Serve's own TLS, and a run over it."""
    certificate = make_certificate(tmp_path)
    if certificate is None:
        pytest.skip("there is no openssl command to make a certificate with")
    port = free_port()
    options = [f"serve.certificate_file={certificate[0]}", f"serve.key_file={certificate[1]}", "serve.host=0.0.0.0"]
    server = Service(tmp_path, port, *options)
    try:
        assert f"at https://0.0.0.0:{port}" in server.wait()
        url = f"teacher.remote.url=https://127.0.0.1:{port}"
        known = [*RUN, "teacher.kind=remote", url, f"teacher.remote.token_file={tmp_path}/token", "train.steps=2"]
        with pytest.raises(InputError, match="is not trusted"):
            run_distillation(tiny_config(*known), print)
        config = tiny_config(*known, f"teacher.remote.ca_file={certificate[0]}")
        assert run_distillation(config, lambda line: None)["ledger"]["lost"] == 0
        assert final_weights(config) == final_weights(train_without_ray(config, tmp_path / "alone"))
    finally:
        code, _, errors = server.end()
    assert (code, errors) == (0, "")
