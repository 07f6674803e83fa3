"""Clips and whole runs on a server that speaks S3: killed, resumed, and written through a store that fails."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from tests.helpers.s3 import FaultyProxy, S3Server, environment
from tests.integration.fault_rows import record
from tests.integration.s3_runs import CLIPS, SMALL

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # minutes, on a small machine

ROOT = Path(__file__).parents[2]
KINDS = ("slow_down", "reset", "lost", "delay 0.2")


class Weather:
    """What befalls requests under faulty/: every fourth one something; and of runs, whose store is gone for 5 s soon
    after the first request, and frozen for 5 s later on."""

    def __init__(self) -> None:
        self._kinds = itertools.cycle([*KINDS, *[""] * 12])
        self._began = 0.0
        self.gone = self.frozen = 0

    def __call__(self, number: int, method: str, path: str) -> str:
        if "/faulty/" not in path:
            return ""
        if "/faulty/runs/" in path:
            now = time.monotonic()
            self._began = self._began or now
            since = now - self._began
            if 5 < since < 10:
                self.gone += 1
                return "reset"
            if 15 < since < 20:
                self.frozen += 1
                return f"delay {20 - since:.1f}"
        return next(self._kinds)


def job_environment(port: int) -> dict[str, str]:
    here = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**here, **environment(port)}


def start_and_kill(out: str, port: int, *, after_shards: int) -> int:
    """Start the job, kill it with SIGKILL once that many shards are committed. Returns how many were by then."""
    command = [sys.executable, "jobs/synthesize.py", *SMALL, "synthesize.format=parquet", "synthesize.num_cpus=2"]
    command += ["ray.num_cpus=2", "ray.address=local", f"synthesize.out={out}"]
    driver = subprocess.Popen(
        command, cwd=ROOT, env=job_environment(port), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    storage, deadline = RunStorage(out), time.time() + 120
    try:
        while len(storage.list("shards")) < after_shards:
            assert driver.poll() is None, driver.stderr and driver.stderr.read()
            assert time.time() < deadline, "no shard was committed"
            time.sleep(0.02)
    finally:
        children = psutil.Process(driver.pid).children(recursive=True) if driver.poll() is None else []
        driver.kill()
        driver.communicate()
        for orphan in psutil.wait_procs(children, timeout=5)[1]:  # workers end with their driver, Ray's agents linger
            orphan.kill()
    return len(storage.list("shards"))


@pytest.fixture(scope="module")
def found(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What `s3_runs` found in one cluster of its own, and how often each fault befell it."""
    weather = Weather()
    proxy = FaultyProxy(s3_server.port, weather)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(proxy.port).items():
            patch.setenv(name, value)
        bucket = f"s3://{s3_server.bucket()}"
        commits = start_and_kill(f"{bucket}/killed", proxy.port, after_shards=2)
        command = [sys.executable, "-m", "tests.integration.s3_runs", bucket, f"{bucket}/killed"]
        command.append(str(tmp_path_factory.mktemp("local")))
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=job_environment(proxy.port),
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        report = check_ledger(RunStorage(f"{bucket}/faulty/runs/tiny"), 24)
    faults = {**{kind: proxy.count(kind) for kind in KINDS}, "gone": weather.gone, "frozen": weather.frozen}
    printed = json.loads(done.stdout.splitlines()[-1])
    yield {**printed, "bucket": bucket, "commits": commits, "faults": faults, "report": report}
    proxy.close()


def test_a_folder_written_through_faults_is_that_of_a_disk(found: dict[str, Any]) -> None:
    assert min(found["faults"][kind] for kind in KINDS) >= 3, found["faults"]
    assert min(found["faults"][kind] for kind in ("gone", "frozen")) >= 1, found["faults"]
    assert found["whole"] == {
        "checked": CLIPS,
        "same_names": True,
        "differ": [],
        "read_alike": True,
        "again": 0,
    }


def test_a_killed_job_resumes_to_the_objects_of_an_unbroken_one(found: dict[str, Any]) -> None:
    killed = found["killed"]
    assert 2 <= found["commits"] <= killed["committed_before"] < CLIPS
    assert not killed["whole_before"]
    assert killed["made"] == CLIPS - killed["committed_before"]
    assert (killed["checked"], killed["distinct"]) == (CLIPS, CLIPS)
    assert (killed["same_names"], killed["differ"]) == (True, [])


def test_a_run_on_s3_has_the_same_layout_and_resumes_bit_for_bit(found: dict[str, Any]) -> None:
    run = found["run"]
    assert {"checkpoints", "config.yaml", "identity.json", "ledger", "logs", "report.html", "scores"} <= set(
        run["names"]
    )
    assert {"run.json", "summary.json", "cases.parquet", "overlays"} <= set(run["names"])
    assert run["steps"] == [6, 6]
    assert run["same_weights"]
    for ledger in run["ledgers"]:
        assert (ledger["clips"], ledger["lost"], ledger["repeated"]) == (24, 0, 0)
    assert run["scored"] == [2, 2]
    assert run["summary"] == "tiny"
    assert run["report"] == f"{found['bucket']}/faulty/runs/tiny/report.html"
    assert run["report_bytes"] > 10_000
    assert (found["report"].lost, found["report"].repeated, found["report"].problems) == (0, 0, [])
    means = "requests are sent again, for some two minutes; what was made once is recognised by its maker's mark"
    what = (
        "S3: one request in four meets 503, a reset, a lost answer or a delay; the store gone for 5 s, frozen for 5 s"
    )
    record(found["report"], what, means, same=run["same_weights"])
