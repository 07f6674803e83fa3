"""Leases and beats that no run has written: waited for a bounded time, or one sentence; never a traceback."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from echodfkd.core.errors import InputError, RunError
from echodfkd.storage.files import RunStorage
from echodfkd.storage.lease import MAX_LEASE_S, Holder, acquire, newest_epoch

OWN_S = 60.0
"""lease_s of the run that waits."""
ELSEWHERE = {"host": "h", "machine": "another boot", "pid": 1, "started": "1", "lease_s": 40.0, "taken": 1.0}
BEAT = b'{"beat": 1, "released": false}'


class Waiter:
    """Takes the folder on a clock that only its own naps move."""

    def __init__(self, folder: Path) -> None:
        self.storage, self.now, self.said = RunStorage(str(folder)), 0.0, list[str]()
        self.on_sleep: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        self.on_sleep()

    def take(self) -> int:
        lease = acquire(self.storage, lease_s=OWN_S, log=self.said.append, clock=lambda: self.now, sleep=self.sleep)
        return lease.epoch

    def put(self, name: str, data: bytes) -> None:
        self.storage.write(f"lease/{name}", data)


@pytest.fixture
def waiter(tmp_path: Path) -> Waiter:
    return Waiter(tmp_path)


def holder(**changes: object) -> bytes:
    return json.dumps({**ELSEWHERE, **changes}).encode()


@pytest.mark.parametrize(
    ("lease_s", "waits"),
    [
        (40.0, 40.0),
        (40, 40.0),
        (1, 1.0),
        (MAX_LEASE_S, MAX_LEASE_S),
        *((strange, OWN_S) for strange in (0, -1, 0.5, 1e9, 1e300, None, "x", "40", True, [1], {"a": 1})),
        *((strange, OWN_S) for strange in (float("nan"), float("inf"), 10**400)),
    ],
)
def test_a_silent_holder_is_given_the_time_it_asked_for_within_bounds(
    waiter: Waiter, lease_s: object, waits: float
) -> None:
    waiter.put("000001.json", holder(lease_s=lease_s))
    waiter.put("000001.beat.json", BEAT)
    assert waiter.take() == 2
    assert waiter.now == pytest.approx(waits)


@pytest.mark.parametrize("lease_s", [40.0, 0, -1, 1e9, None, float("nan")])
def test_a_living_holder_is_never_taken_over(waiter: Waiter, lease_s: object) -> None:
    waiter.put("000001.json", holder(lease_s=lease_s))
    waiter.put("000001.beat.json", BEAT)
    waiter.on_sleep = lambda: waiter.put("000001.beat.json", json.dumps({"beat": waiter.now}).encode())
    with pytest.raises(RunError, match="another run is at work in"):
        waiter.take()
    assert newest_epoch(waiter.storage) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe",
        b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b"[" * 500 + b"]" * 500,
        b'{"host": ' + b" " * 100_000 + b"1}",
        b'{"lease_s": NaN}',
        b'{"pid": ' + b"9" * 5000 + b"}",
        b'{"host": "\\ud800"}',
    ],
)
@pytest.mark.parametrize("name", ["000001.json", "000001.beat.json"])
def test_damaged_files_are_those_of_an_unknown_holder(waiter: Waiter, name: str, data: bytes) -> None:
    waiter.put("000001.json", holder())
    waiter.put("000001.beat.json", BEAT)
    if len(data) > 1 << 16:
        waiter.put(name, data)
        with pytest.raises(InputError, match=rf"{name}: it has \d+ bytes, at most 65536 are read"):
            waiter.take()
        return
    waiter.put(name, data)
    assert waiter.take() == 2
    assert waiter.now == pytest.approx(OWN_S if name == "000001.json" else 40.0)


@pytest.mark.parametrize("changes", [{"pid": "x"}, {"pid": None}, {"pid": "1/../../1"}, {"pid": [1]}, {"started": 5}])
def test_a_process_of_this_machine_that_is_not_named_may_live(waiter: Waiter, changes: dict[str, object]) -> None:
    own = dataclasses.asdict(Holder.this_process(40.0))
    waiter.put("000001.json", json.dumps({**own, **changes}).encode())
    assert waiter.take() == 2
    assert waiter.now == pytest.approx(40.0)


def test_no_beat_is_waited_for_too(waiter: Waiter) -> None:
    waiter.put("000001.json", holder())
    assert waiter.take() == 2
    assert waiter.now == pytest.approx(40.0)


@pytest.mark.parametrize("released", ["no", "true", 1, [0], {}])
def test_only_true_releases_a_folder(waiter: Waiter, released: object) -> None:
    waiter.put("000001.json", holder())
    waiter.put("000001.beat.json", json.dumps({"beat": 1, "released": released}).encode())
    assert waiter.take() == 2
    assert waiter.now == pytest.approx(40.0)
    waiter.put("000003.json", holder())
    waiter.put("000003.beat.json", b'{"released": true}')
    assert waiter.take() == 4
    assert waiter.now == pytest.approx(40.0)


@pytest.mark.parametrize(
    "name", ["²²².json", "٣٣٣٣٣٣.json", "9" * 200 + ".json", "-00001.json", "1.json", "000001.bak"]
)
def test_other_names_are_no_leases(waiter: Waiter, name: str) -> None:
    waiter.put(name, holder())
    assert newest_epoch(waiter.storage) == 0
    assert waiter.take() == 1
    assert waiter.now == 0


def test_an_epoch_behind_which_there_is_none_is_one_sentence(waiter: Waiter) -> None:
    waiter.put("999999999999.json", holder())
    with pytest.raises(InputError, match=r"lease/999999999999.json is no lease of a run: delete it"):
        waiter.take()


@pytest.mark.parametrize("name", ["000001.json", "000001.beat.json"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "is a pipe, a device or a socket"),
        (Path.mkdir, "is a folder, expected a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a symbolic link"),
    ],
)
def test_what_is_no_file_is_one_sentence(waiter: Waiter, name: str, make: Callable[[Path], None], words: str) -> None:
    waiter.put("000001.json", holder())
    path = Path(waiter.storage.root) / "lease" / name
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(InputError, match=f"{name} {words}"):
        waiter.take()


def test_a_long_host_does_not_fill_the_screen(waiter: Waiter) -> None:
    waiter.put("000001.json", holder(host="h" * 10_000, pid="9" * 10_000))
    assert waiter.take() == 2
    assert len(waiter.said[0]) < 400
