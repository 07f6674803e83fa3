"""The lease of a run folder: processes that race, die and are cut off; clocks that jump; stores that are away."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from echodfkd.core.errors import RunError
from echodfkd.storage.checkpoints import publish
from echodfkd.storage.files import RunStorage
from echodfkd.storage.intervals import Intervals
from echodfkd.storage.lease import Holder, Lease, acquire, check_epoch, held, newest_epoch
from echodfkd.storage.manifests import latest_checkpoint

HOLD = """
import sys
from echodfkd.core.errors import RunError
from echodfkd.storage.lease import held
from echodfkd.storage.files import RunStorage
storage = RunStorage(sys.argv[1])
storage.list("lease")
print("ready", flush=True)
sys.stdin.readline()
try:
    with held(storage, lease_s=float(sys.argv[2]), log=lambda line: None) as lease:
        print(f"took {lease.epoch}", flush=True)
        sys.stdin.readline()
except RunError as error:
    print(f"refused {error}", flush=True)
"""


@pytest.fixture(params=["local", "object store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> RunStorage:
    return RunStorage(str(tmp_path / "run") if request.param == "local" else f"memory://lease-{tmp_path.name}/run")


def quietly(storage: RunStorage, **options: object) -> Lease:
    return acquire(storage, lease_s=60.0, log=lambda line: None, **options)  # type: ignore[arg-type]


def take_elsewhere(storage: RunStorage, epoch: int) -> Lease:
    """Epoch ``epoch``, as a process of another machine would take it."""
    holder = dataclasses.replace(Holder.this_process(60.0), host="node7", machine="another boot", pid=4711)
    assert storage.create_once(f"lease/{epoch:06d}.json", json.dumps(dataclasses.asdict(holder)).encode())
    lease = Lease(storage, epoch, 60.0)
    lease.beat()
    return lease


class FakeTime:
    """A clock that goes on while somebody sleeps, and jumps when it is told to."""

    def __init__(self, on_sleep: Callable[[int], None] = lambda naps: None) -> None:
        self.now, self.naps, self.slept, self.on_sleep = 1000.0, 0, 0.0, on_sleep

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds
        self.naps += 1
        self.on_sleep(self.naps)

    def clock(self) -> float:
        return self.now


def start_holder(root: str, *, lease_s: float) -> subprocess.Popen[str]:
    """A process that takes the folder at the first line it is sent, and lets go at the second."""
    command = [sys.executable, "-c", HOLD, root, str(lease_s)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def send_line(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("where", ["local", "s3"])
def test_of_processes_that_race_for_a_folder_one_wins(where: str, tmp_path: Path, request: pytest.FixtureRequest):
    root = str(tmp_path / "run") if where == "local" else f"s3://{request.getfixturevalue('s3_bucket')}/run"
    processes = [start_holder(root, lease_s=20.0) for _ in range(3)]
    for process in processes:
        wait_until_ready(process)
    for process in processes:
        send_line(process)
    deadline = time.monotonic() + 60
    while sum(process.poll() is None for process in processes) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert sorted(output.split()[0] for output in outputs) == ["refused", "refused", "took"]
    refusals = [output for output in outputs if output.startswith("refused")]
    assert all("another run is at work in" in refusal for refusal in refusals)
    assert newest_epoch(RunStorage(root)) == 1
    assert quietly(RunStorage(root), sleep=pytest.fail).epoch == 2  # the winner ended and let go: nobody waits


@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "zombie"])
def test_after_kill_9_on_this_machine_the_next_run_starts_at_once(tmp_path: Path, reaped: bool) -> None:
    process = start_holder(str(tmp_path), lease_s=600.0)
    wait_until_ready(process)
    send_line(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "took 1\n"
    storage = RunStorage(str(tmp_path))
    process.send_signal(signal.SIGKILL)
    if reaped:
        process.wait()
    else:
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
    assert quietly(storage, sleep=pytest.fail).epoch == 2
    process.wait()
    process.communicate()


def test_a_process_id_given_to_another_process_is_not_the_holder(storage: RunStorage) -> None:
    lease = quietly(storage)
    values = json.loads(storage.read("lease/000001.json"))
    assert (values["pid"], values["started"] != "") == (os.getpid(), True)
    storage.write("lease/000001.json", json.dumps({**values, "started": "1"}).encode())
    assert quietly(storage, sleep=pytest.fail).epoch == 2
    with pytest.raises(RunError, match=r"another run has taken over .* \(lease 2, this run holds 1\)"):
        lease.beat()


def test_a_released_folder_is_free_at_once(storage: RunStorage) -> None:
    for epoch in (1, 2, 3):
        lease = quietly(storage, sleep=pytest.fail)
        assert lease.epoch == epoch
        lease.release()


def test_a_dead_run_elsewhere_blocks_for_its_lease_and_says_until_when(storage: RunStorage) -> None:
    take_elsewhere(storage, 1)
    time_, said = FakeTime(), []
    lease = acquire(storage, lease_s=5.0, log=said.append, clock=time_.clock, sleep=time_.sleep)
    assert lease.epoch == 2
    assert time_.slept == pytest.approx(60.0)  # the time that the holder asked for, not this run's 5 s
    assert len(said) == 1
    assert "is leased by process 4711 on node7; this run takes over at " in said[0]


def test_a_live_run_elsewhere_is_found_out_by_its_next_beat(storage: RunStorage) -> None:
    other = take_elsewhere(storage, 1)
    time_ = FakeTime(lambda naps: other.beat() if naps == 3 else None)
    with pytest.raises(RunError, match=r"another run is at work in .* \(process 4711 on node7\); wait for it, or"):
        quietly(storage, clock=time_.clock, sleep=time_.sleep)
    assert time_.naps == 3
    assert newest_epoch(storage) == 1


def test_a_run_that_ends_while_another_waits_is_followed_at_once(storage: RunStorage) -> None:
    other = take_elsewhere(storage, 1)
    time_ = FakeTime(lambda naps: other.release() if naps == 2 else None)
    assert quietly(storage, clock=time_.clock, sleep=time_.sleep).epoch == 2
    assert time_.naps == 2


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_jump_of_the_clock_takes_nobodys_lease(storage: RunStorage, jump: float) -> None:
    """The clock of the run that waits jumps by an hour after its first look; the holder beats at the fifth."""
    other = take_elsewhere(storage, 1)
    time_ = FakeTime()

    def on_sleep(naps: int) -> None:
        if naps == 1:
            time_.now += jump
        if naps == 5:
            other.beat()

    time_.on_sleep = on_sleep
    with pytest.raises(RunError, match="another run is at work"):
        quietly(storage, clock=time_.clock, sleep=time_.sleep)
    other.check()  # still the holder's


def test_of_two_that_wait_for_a_dead_run_one_takes_over(storage: RunStorage) -> None:
    take_elsewhere(storage, 1)
    time_ = FakeTime()

    def on_sleep(naps: int) -> None:
        if naps == 20:  # just before this one is through, another one was
            take_elsewhere(storage, 2)
        if naps == 22:
            Lease(storage, 2, 60.0)._write(released=False)

    time_.on_sleep = on_sleep
    with pytest.raises(RunError, match="another run is at work"):
        quietly(storage, clock=time_.clock, sleep=time_.sleep)
    assert newest_epoch(storage) == 2


def test_a_run_that_lost_its_folder_publishes_nothing(storage: RunStorage) -> None:
    take_elsewhere(storage, 1)
    state = {"students": {}, "consumed": Intervals(), "ledger": {}, "quarantine": {}, "meta": {}}
    assert publish(storage, step=1, lease_epoch=1, **state).lease_epoch == 1
    take_elsewhere(storage, 2)
    with pytest.raises(RunError, match=r"another run has taken over the folder .* what it published stays"):
        publish(storage, step=2, lease_epoch=1, **state)
    newest = latest_checkpoint(storage)
    assert newest is not None
    assert newest.step == 1
    assert not storage.exists("checkpoints/step_00000002")
    assert publish(storage, step=2, lease_epoch=2, **state).lease_epoch == 2


def test_a_takeover_between_files_and_manifest_leaves_no_commit(storage: RunStorage, monkeypatch) -> None:
    take_elsewhere(storage, 1)
    write = storage.write

    def write_and_lose(name: str, data: bytes) -> None:
        write(name, data)
        if name.endswith("meta.json"):
            take_elsewhere(storage, 2)

    monkeypatch.setattr(storage, "write", write_and_lose)
    state = {"students": {}, "consumed": Intervals(), "ledger": {}, "quarantine": {}, "meta": {}}
    with pytest.raises(RunError, match="another run has taken over"):
        publish(storage, step=1, lease_epoch=1, **state)
    assert latest_checkpoint(storage) is None


def test_the_holder_notices_a_takeover_and_stops_with_a_sentence(tmp_path: Path) -> None:
    storage = RunStorage(str(tmp_path))
    started = time.monotonic()

    def lose() -> None:
        with held(storage, lease_s=1.0, log=pytest.fail):
            take_elsewhere(storage, 2)
            time.sleep(30)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with it ignored
    try:
        with pytest.raises(RunError, match=r"another run has taken over the folder .* \(lease 2, this run holds 1\)"):
            lose()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 15
    with pytest.raises(RunError):
        check_epoch(storage, 1)


def test_ctrl_c_releases_at_once(tmp_path: Path) -> None:
    storage = RunStorage(str(tmp_path))
    with pytest.raises(KeyboardInterrupt), held(storage, lease_s=600.0, log=pytest.fail):
        raise KeyboardInterrupt
    assert quietly(storage, sleep=pytest.fail).epoch == 2


def test_a_store_that_is_away_for_a_while_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = RunStorage(str(tmp_path))
    beat = "lease/000001.beat.json"
    with held(storage, lease_s=0.5, log=pytest.fail) as lease:
        write, seen = storage.write, threading.Event()

        def fail(name: str, data: bytes) -> None:
            seen.set()
            raise OSError("no route to host")

        monkeypatch.setattr(storage, "write", fail)
        assert seen.wait(10)
        before = storage.read(beat)
        monkeypatch.setattr(storage, "write", write)
        deadline = time.monotonic() + 10
        while storage.read(beat) == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert storage.read(beat) != before
        lease.check()


def test_what_a_dead_run_left_half_written_is_deleted(tmp_path: Path) -> None:
    storage = RunStorage(str(tmp_path))
    storage.write("ledger/part-1.parquet", b"rows")
    (tmp_path / "ledger" / ".partial-x1y2").write_bytes(b"ro")
    with held(storage, lease_s=60.0, log=pytest.fail):
        pass
    assert [path.name for path in (tmp_path / "ledger").iterdir()] == ["part-1.parquet"]
