"""An update of two student workers whose hosts are some milliseconds apart.

Two network namespaces, joined by a relay: a TUN device in each, and this process hands every packet on half a round
trip later. It bounds no bandwidth and loses nothing. Workers, gloo and the training loop are real; clips are tiny, so
that an update is little more than its exchanges.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.timing import Report
from tests.helpers.network_hosts import inside, sh

ROOT = Path(__file__).parents[2]
HOSTS = {"a": "10.79.0.1", "b": "10.79.0.2"}
ROUND_TRIPS_MS = (0, 1, 5, 20)
UPDATES, WARM_UP = 13, 3
PAIR: dict[str, dict[str, Any]] = {
    "convlstm_3x1": {"blocks": 3, "layers": 1},
    "convlstm_2x1": {"blocks": 2, "layers": 1},
}
"""The students of configs/demo.yaml."""
SIXTEEN = {f"convlstm_{k}x{n}": {"blocks": k, "layers": n} for k in (1, 2, 3, 4) for n in (1, 2, 3, 4)}
UPDATE_WORKS = {
    "2 students, norm=batch": {"students": PAIR, "norm": "batch"},
    "2 students, norm=group": {"students": PAIR, "norm": "group"},
    "16 students, norm=group": {"students": SIXTEEN, "norm": "group"},
}
BUCKETS_MB = {"one bucket": 1000.0, "buckets of 0.1 MB": 0.1, "a bucket a tensor": 0.0}
WORKS = {**UPDATE_WORKS, **{f"DDP, {name}": {"bucket_mb": size} for name, size in BUCKETS_MB.items()}}
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
"""linux/if_tun.h"""
MTU = 9_000
TARGET_TRIPS = 12
"""Most round trips of an update of two students without BatchNorm."""


class DelayedLink:
    """A cable between two network namespaces on which a packet takes `one_way_s`."""

    def __init__(self, hosts: Mapping[str, str]) -> None:
        self.one_way_s = 0.0
        self._ends = [_tun(f"tun-{host}") for host in hosts]
        for host, address in hosts.items():
            device = f"tun-{host}"
            sh("ip", "netns", "add", host)
            sh("ip", "link", "set", device, "netns", host)
            sh(*inside(host, "ip", "link", "set", "lo", "up"))
            sh(*inside(host, "ip", "addr", "add", f"{address}/24", "dev", device))
            sh(*inside(host, "ip", "link", "set", device, "mtu", str(MTU), "up"))
        threading.Thread(target=self._relay, name="link", daemon=True).start()

    def _relay(self) -> None:
        # this thread only, and none of its children: a packet must not stand in line for a core
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        first, second = self._ends
        other = {first: second, second: first}
        waiting: deque[tuple[float, int, bytes]] = deque()
        while True:
            timeout = max(0.0, waiting[0][0] - time.perf_counter()) if waiting else None
            for end in select.select(self._ends, [], [], timeout)[0]:
                waiting.append((time.perf_counter() + self.one_way_s, other[end], os.read(end, 1 << 16)))
            while waiting and waiting[0][0] <= time.perf_counter():
                _, end, packet = waiting.popleft()
                os.write(end, packet)


def _tun(name: str) -> int:
    """A new TUN device of this namespace, without packet information."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return device


def far_workers(report: Report, *, quick: bool) -> dict[str, Any]:
    """An update of two workers 0, 1, 5 and 20 ms apart (a relay between two network namespaces)."""
    if os.geteuid() != 0 or not shutil.which("ip") or not Path("/dev/net/tun").exists():
        raise SystemExit("far_workers needs root, iproute2 and /dev/net/tun: it makes network namespaces")
    trips = ROUND_TRIPS_MS[::2] if quick else ROUND_TRIPS_MS
    program = (
        f"mount -t tmpfs tmpfs /run && exec {sys.executable} -m tests.benchmarks.far_workers {json.dumps(trips)!r}"
    )
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", program]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    report(f"{'ms an update, round trip':28}" + "".join(f"{f'{trip} ms':>9}" for trip in trips) + f"{'trips':>8}")
    rows = {}
    for work, times in found.items():
        few, many = str(trips[0]), str(trips[-1])
        count = round((times[many] - times[few]) / (trips[-1] - trips[0]), 1)
        rows[work] = {**times, "round_trips": count}
        report(f"{work:28}" + "".join(f"{times[str(trip)]:9.1f}" for trip in trips) + f"{count:8.1f}")
    value = rows["2 students, norm=group"]["round_trips"]
    return {"value": value, "target": TARGET_TRIPS, "holds": value <= TARGET_TRIPS, "rows": rows}


def measure(trips_ms: list[int]) -> dict[str, dict[str, float]]:
    """Median milliseconds of an update by work and round trip. Runs in namespaces of its own."""
    link = DelayedLink(HOSTS)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="echo-") as folder, ExitStack() as opened:
        workers = [opened.enter_context(_worker(rank, host)) for rank, host in enumerate(HOSTS)]
        for trip in trips_ms:
            link.one_way_s = trip / 2000
            for work in WORKS:
                place = f"{folder}/{trip}-{list(WORKS).index(work)}"
                for worker in workers:
                    print(json.dumps([work, place]), file=worker.stdin, flush=True)
                answers = [json.loads(worker.stdout.readline()) for worker in workers]
                found.setdefault(work, {})[str(trip)] = round(1000 * max(answers), 2)
                print(work, trip, found[work][str(trip)], file=sys.stderr, flush=True)
    return found


@contextmanager
def _worker(rank: int, host: str) -> Iterator[Any]:
    command = inside(host, sys.executable, "-m", "tests.benchmarks.far_workers", "worker", str(rank))
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": f"tun-{host}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def serve(rank: int) -> None:
    """A worker: runs each work that it reads and prints its median seconds."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://{HOSTS['a']}:29500", rank=rank, world_size=len(HOSTS))
    for line in sys.stdin:
        work, place = json.loads(line)
        dist.barrier()
        options = WORKS[work]
        took = _ddp(options["bucket_mb"]) if "bucket_mb" in options else _updates(rank, place, **options)
        print(json.dumps(statistics.median(took)), flush=True)


def _updates(rank: int, folder: str, *, students: dict[str, Any], norm: str) -> list[float]:
    """Seconds of each update of the training loop, after the first."""
    from echodfkd.config.sections.student import StudentConfig
    from tests.helpers.training import run_training, small_config

    family = {name: StudentConfig(**{**options, "norm": norm}) for name, options in students.items()}
    config = small_config(workers=len(HOSTS), students=family, steps=UPDATES, checkpoint_every=UPDATES, size=16)
    starts: list[float] = []

    def clock(batch: Any) -> Any:
        starts.append(time.perf_counter())
        return batch

    done = run_training(config, folder, rank=rank, change=clock)
    assert "error" not in done, done
    return _between(starts)


def _ddp(bucket_mb: float) -> list[float]:
    """Seconds of each update of the first of `PAIR` under torch's DistributedDataParallel, without BatchNorm."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from echodfkd.models.students.build import build_student

    student = build_student(**PAIR["convlstm_3x1"], norm="group")
    module = DistributedDataParallel(student, bucket_cap_mb=bucket_mb or 1e-6)
    adam = torch.optim.Adam(module.parameters())
    video, starts = torch.zeros(2, 3, 16, 16, dtype=torch.uint8), list[float]()
    for _ in range(UPDATES):
        starts.append(time.perf_counter())
        adam.zero_grad()
        module(video).mask_logits.sum().backward()
        adam.step()
    return _between(starts)


def _between(starts: list[float]) -> list[float]:
    return [after - before for before, after in zip(starts[WARM_UP:], starts[WARM_UP + 1 :], strict=False)]


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        serve(int(sys.argv[2]))
    else:
        print(json.dumps(measure(json.loads(sys.argv[1]))))
