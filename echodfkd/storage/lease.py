"""A lease that lets only one run at a time write to a run folder, without comparing clocks.

``lease/000003.json`` is made once, by the run that takes epoch 3, and names it. ``lease/000003.beat.json`` is
overwritten only by that run, ten times in ``lease_s`` seconds, and a last time when it releases the folder.

A later run takes the next epoch at once if the holder has released it, or is a process of this machine that has died.
Otherwise it watches the beat: a change means that the holder lives, and the later run is refused; no change for the
holder's ``lease_s`` means that it is dead. The watching run counts its own time, step by step: no two clocks are
compared, a jump of its clock counts as one step, and nothing depends on the store's times.

The holder never decides by time that it has lost the folder, only by a higher epoch (it was cut off, or stopped
for long, and another run took over). Then it stops, and until it has noticed it can do no harm: a checkpoint is
published only while no higher epoch exists (`check_epoch`), and each is created once.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from echodfkd.core.errors import InputError, RunError
from echodfkd.storage.files import RunStorage
from echodfkd.storage.untrusted import parse_json_object

BEATS = 10
"""Beats in lease_s: a second run needs one of them to know that the holder lives; nine may be lost."""


MAX_LEASE_S = 86_400.0
"""Longest lease that is waited for; the option lease_s has the same bound."""

MAX_BYTES = 1 << 16
"""Largest file of a lease; ours have some 200 bytes."""

_EPOCH = re.compile(r"([0-9]{6,12})\.json")


@dataclass(frozen=True)
class Holder:
    """The process that holds an epoch.

    ``machine`` names the boot of a system and its process namespace, within which ``pid`` and ``started`` (ticks
    since boot) identify one process for ever. Without /proc they are empty, and only expiry decides.

    Example: ``Holder("node7", "5f0c...-4026531836", 4711, "1234567", 60.0, 1.7e9)``.
    """

    host: str
    machine: str
    pid: int
    started: str
    lease_s: float
    taken: float
    """Seconds since 1970, for people."""

    @staticmethod
    def this_process(lease_s: float) -> Holder:
        """The calling process."""
        return Holder(socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()), lease_s, time.time())


class Lease:
    """An epoch of a run folder, held by this process.

    Args:
        storage: the folder.
        epoch: the epoch that `acquire` took.
        lease_s: seconds without a beat after which another run may take over.
    """

    def __init__(self, storage: RunStorage, epoch: int, lease_s: float) -> None:
        self.storage = storage
        self.epoch = epoch
        self.lease_s = lease_s
        self.lost = ""
        """Why this run must stop; empty while it holds the folder."""
        self._beats = 0

    def beat(self) -> None:
        """Show a sign of life. Raises `RunError` if another run has taken over."""
        self.check()
        self._write(released=False)

    def check(self) -> None:
        """Raise `RunError` if another run has taken over."""
        try:
            check_epoch(self.storage, self.epoch)
        except RunError as error:
            self.lost = str(error)
            raise

    def release(self) -> None:
        """Release the folder, so that the next run need not wait. If that fails, the lease expires instead."""
        with contextlib.suppress(Exception):
            self._write(released=True)

    def _write(self, *, released: bool) -> None:
        self._beats += 1
        content = {"beat": self._beats, "time": time.time(), "released": released}
        self.storage.write(_beat_name(self.epoch), json.dumps(content).encode())


def newest_epoch(storage: RunStorage) -> int:
    """The highest epoch that a run has taken; 0 if none has."""
    names = (_EPOCH.fullmatch(name.rsplit("/", 1)[-1]) for name in storage.list("lease"))
    return max((int(name[1]) for name in names if name), default=0)


def check_epoch(storage: RunStorage, epoch: int) -> None:
    """Raise `RunError` if the folder has a higher epoch than that of the calling run; 0 is a run without a lease."""
    if epoch and (newest := newest_epoch(storage)) > epoch:
        raise RunError(
            f"another run has taken over the folder {storage.root} (lease {newest}, this run holds {epoch}), because"
            " this one showed no sign of life; it stops here, and what it published stays"
        )


def acquire(
    storage: RunStorage,
    *,
    lease_s: float,
    log: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Lease:
    """Take the folder's next epoch, after waiting for a holder that may be dead.

    Args:
        storage: the folder.
        lease_s: for this run's own lease; a holder is given the time that it asked for.
        log: takes the message that names the holder and the time of the takeover.
        clock: seconds; only its steps between two looks are used.
        sleep: waits for seconds.

    Raises:
        RunError: another run is at work in the folder.
    """
    while True:
        epoch = newest_epoch(storage)
        if not _EPOCH.fullmatch(f"{epoch + 1:06d}.json"):
            raise InputError(
                f"{storage.root}/{_name(epoch)} is no lease of a run: delete it if no run is at work there"
            )
        if epoch:
            _wait_for_end(storage, epoch, lease_s, log, clock, sleep)
        holder = Holder.this_process(lease_s)
        if storage.create_once(_name(epoch + 1), json.dumps(asdict(holder), indent=1).encode()):
            lease = Lease(storage, epoch + 1, lease_s)
            lease.beat()
            return lease


@contextlib.contextmanager
def held(storage: RunStorage, *, lease_s: float, log: Callable[[str], None]) -> Iterator[Lease]:
    """Hold the folder for the time of the block, however it ends, and delete half-written files of dead runs.

    A thread beats meanwhile. If it finds that another run has taken over, it interrupts the block as Ctrl-C does
    (only in the main thread; in another one `check_epoch` stops the block at its next commit).

    Raises:
        RunError: another run is at work in the folder, or has taken over.
    """
    lease = acquire(storage, lease_s=lease_s, log=log)
    storage.discard_partial()
    closing = threading.Event()
    in_main = threading.current_thread() is threading.main_thread()
    thread = threading.Thread(target=_keep, args=(lease, closing, in_main), name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    except KeyboardInterrupt as interrupt:
        if lease.lost:
            raise RunError(lease.lost) from interrupt
        raise
    finally:
        closing.set()
        thread.join(timeout=10)
        lease.release()


def _keep(lease: Lease, closing: threading.Event, interrupts: bool) -> None:
    while not closing.wait(lease.lease_s / BEATS):
        try:
            lease.beat()
        except RunError:
            if interrupts and not closing.is_set():
                os.kill(os.getpid(), signal.SIGINT)
            return
        except Exception:  # noqa: S112 - a store that is away for a while: no one else can write there either
            continue


def _wait_for_end(
    storage: RunStorage,
    epoch: int,
    lease_s: float,
    log: Callable[[str], None],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    """Return once the holder of this epoch is known to be gone; raise `RunError` if it lives."""
    holder = _read(storage, _name(epoch))
    first = _read(storage, _beat_name(epoch))
    if first.get("released") is True or _has_died(holder):
        return
    limit = holder.get("lease_s")
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 1 <= limit <= MAX_LEASE_S:
        limit = lease_s
    pause = limit / (2 * BEATS)
    who = f"process {str(holder.get('pid'))[:20]} on {str(holder.get('host'))[:100]}"
    until = time.strftime("%H:%M:%S", time.localtime(time.time() + limit))
    log(f"{storage.root} is leased by {who}; this run takes over at {until}, unless that one shows a sign of life")
    watched, last = 0.0, clock()
    while watched < limit:
        sleep(pause)
        now = clock()
        watched += min(max(now - last, 0.0), 2 * pause)
        last = now
        beat = _read(storage, _beat_name(epoch))
        if beat.get("released") is True:
            return
        if beat != first:
            raise RunError(
                f"another run is at work in {storage.root} ({who}); wait for it, or give this run another name"
            )


def _has_died(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that no longer exists."""
    here, pid, started = _machine(), holder.get("pid"), holder.get("started")
    if not here or holder.get("machine") != here or not isinstance(pid, int) or not isinstance(started, str):
        return False
    return started != "" and _started(pid) != started


def _started(pid: int) -> str:
    """Start of a process in ticks since boot, which no clock moves; empty if it does not live."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # state (a zombie is dead) and starttime of proc_pid_stat(5)


def _machine() -> str:
    """Boot id and process namespace of this system: process ids are unique only within them."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _read(storage: RunStorage, name: str) -> dict[str, Any]:
    """The values of a lease or beat; none if it is absent or damaged. Raises `InputError` if it is no plain file."""
    try:
        data = storage.read(name, MAX_BYTES)
    except FileNotFoundError:
        return {}
    try:
        return parse_json_object(data, name)
    except InputError:
        return {}  # a holder that nothing is known of: it has the time of the waiting run to show a sign of life


def _name(epoch: int) -> str:
    return f"lease/{epoch:06d}.json"


def _beat_name(epoch: int) -> str:
    return f"lease/{epoch:06d}.beat.json"
