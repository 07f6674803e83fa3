"""Limits of one head node: throughput against the number of teachers, memory against the length of the plan.

Teachers sleep (`sleeping_teacher`) or cost nothing (`stand_ins`); Ray and the stream are real, and in the last part so
are students, ledger and evaluators. Everything runs on this machine:

    python -m tests.benchmarks.scale [--quick] [--only streams|pools|steady|runs] [--teachers 2 32]

prints a table per part and, as the last line, one JSON object. All parts take about 40 minutes and 10 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from echodfkd.runtime.cluster.environment import prepare_ray

ROOT = Path(__file__).parents[2]
EFFICIENCY = 0.9
"""Required throughput, over that of teachers that never wait."""
OF_BOUND = 0.8
"""Required gain of a pool over a teacher inside the student's process, over the ideal gain."""
OVER_BUSIEST = 1.1
"""Limit of a run's wall time over its busiest stage's busy time."""
GROWTH = 1.1
"""Limit of the growth of memory if the plan is ten times as long."""


@dataclass(frozen=True)
class Plan:
    """Sizes of the parts.

    Attributes:
        streams: (number of teachers, seconds they sleep per block) of each stream.
        phase_s: seconds of a phase of a stream.
        pools: (seconds to teach a batch, seconds to learn it) of each pool.
        pool_s: seconds of a pool's measurement.
        steady_runs: number of runs with sleeping teachers.
        runs: (updates, read tasks of a segment) of a short run and of a long one.
    """

    streams: tuple[tuple[int, tuple[float, ...]], ...]
    phase_s: float
    pools: tuple[tuple[float, float], ...]
    pool_s: float
    steady_runs: int
    runs: tuple[tuple[int, int], tuple[int, int]]


SLEEPS = (2.0, 1.0, 0.5, 0.25)
WHOLE = Plan(
    streams=(*((count, SLEEPS) for count in (2, 4, 8, 16, 32)), (64, SLEEPS[:2])),
    phase_s=6.0,
    pools=((1.0, 0.2), (2.0, 0.2), (1.0, 0.4), (0.5, 0.1)),
    pool_s=30.0,
    steady_runs=3,
    runs=((100, 50), (1000, 50)),
)
QUICK = Plan(
    streams=((2, (1.0,)), (8, (1.0,))),
    phase_s=6.0,
    pools=((1.0, 0.2),),
    pool_s=10.0,
    steady_runs=1,
    runs=((60, 30), (180, 30)),
)


def measure_streams(plan: Plan) -> dict[str, Any]:
    """Throughput of streams by number of teachers and by seconds per block."""
    from tests.benchmarks.throughput import measure_stream, phases_of

    columns = f"{'teachers':>8} {'block takes':>11} {'asked for':>10} {'blocks/s':>9} {'of that':>7} {'idle CPU':>8}"
    print(f"{columns}  ms of CPU a block")
    rows, clusters = [], []
    for teachers, sleeps in plan.streams:
        found = measure_stream(teachers, phases_of(list(sleeps), plan.phase_s))
        for row in found.pop("rows"):
            rows.append(row)
            cost = " ".join(f"{role} {ms:g}" for role, ms in row["cpu_ms_per_batch"].items())
            print(
                f"{teachers:>8} {row['sleep_s']:>9g} s {row['asked_batches_s']:>10g} {row['batches_s']:>9g}"
                f" {row['of_asked']:>7.2f} {row['idle_share']:>8.0%}  {cost}",
                flush=True,
            )
        clusters.append({"teachers": teachers, **found})
        print(f"{'':>8} {clusters[-1]}", flush=True)
    slow = [row for row in rows if row["sleep_s"] == max(row["sleep_s"] for row in rows) and row["teachers"] <= 32]
    efficiency = round(slow[-1]["of_asked"] / min(1.0, slow[0]["of_asked"]), 3)  # above 1: a backlog was worked off
    return {
        "stream": rows,
        "clusters": clusters,
        "efficiency": {"from": slow[0]["teachers"], "to": slow[-1]["teachers"], "value": efficiency},
        "kept_up_to": max((row["batches_s"] for row in rows if row["of_asked"] >= EFFICIENCY), default=None),
        "missed_from": min((row["asked_batches_s"] for row in rows if row["of_asked"] < EFFICIENCY), default=None),
        "efficiency_holds": efficiency >= EFFICIENCY,
    }


def measure_pools(plan: Plan) -> dict[str, Any]:
    """A pool of teachers against a teacher in the student's process."""
    from tests.benchmarks.pools import TEACHERS, measure_pool

    print(f"\n{TEACHERS} teachers of t s, a student of s s a batch; batches/s")
    print(f"{'t':>5} {'s':>5} {'pool':>7} {'inside':>7} {'gain':>6} {'bound':>6} {'of it':>6} {'wall / busiest':>15}")
    rows = []
    for teach_s, learn_s in plan.pools:
        rows.append(row := measure_pool(teach_s, learn_s, seconds=plan.pool_s))
        print(
            f"{teach_s:>5g} {learn_s:>5g} {row['pool']:>7.2f} {row['inside']:>7.2f} {row['gain']:>6.2f}"
            f" {row['bound']:>6.2f} {row['of_bound']:>6.2f} {row['wall_over_busiest']:>15.3f}",
            flush=True,
        )
    return {"pools": rows, "pools_hold": min(row["of_bound"] for row in rows) >= OF_BOUND}


def measure_steady(plan: Plan) -> dict[str, Any]:
    """Wall time of whole runs with sleeping teachers, over the busiest stage's busy time."""
    found = [_in_process("steady_run") for _ in range(plan.steady_runs)]
    print()
    for one in found:
        shares = ", ".join(f"{stage} {share:.0%}" for stage, share in one["busy"].items())
        print(f"whole run with stand-in teachers: wall / busiest {one['wall_over_busiest']:.3f} ({shares})", flush=True)
    over = statistics.median(one["wall_over_busiest"] for one in found)
    return {"steady": found, "wall_over_busiest": round(over, 3), "wall_over_busiest_holds": over <= OVER_BUSIEST}


def measure_runs(plan: Plan) -> dict[str, Any]:
    """Memory, ledger and evaluation lag of a short and of a long run."""
    short, long = runs = [_in_process("whole_run", *run) for run in plan.runs]
    print(f"\n{'MiB at most, from the first checkpoint on':<44} {short['clips']:>8} clips {long['clips']:>8} clips")
    for role, mb in short["peak_mb"].items():
        print(f"{role:<44} {mb:>14.1f} {long['peak_mb'].get(role, 0.0):>14.1f}")
    for run in runs:
        print(
            f"{run['clips']} clips, {run['segments']} segments, {run['wall_s']} s: ledger"
            f" {run['ledger_bytes_per_clip']} bytes a clip, logs {run['log_bytes_per_clip']};"
            f" {run['checkpoints']} checkpoints, last score {run['lag_s']['median']} s (median),"
            f" {run['lag_s']['most']} s (most) after the manifest; an update takes {run['update_s']} s, the"
            f" first one of a segment {statistics.median(run['between_segments_s'])} s (medians)",
            flush=True,
        )
    parts = {"driver and object store": ("driver", "object_store"), "head and object store": ("head", "object_store")}
    peaks = {what: [sum(run["peak_mb"][role] for role in roles) for run in runs] for what, roles in parts.items()}
    growth = {what: round(after / before, 3) for what, (before, after) in peaks.items()}
    return {"runs": runs, "growth": growth, "growth_holds": max(growth.values()) <= GROWTH}


def _in_process(module: str, *numbers: int) -> dict[str, Any]:
    """Run a module in a process of its own, which starts and ends its own cluster, and return the JSON it prints."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, numbers)]
    env = {**os.environ, "RAY_ENABLE_AUTO_CONNECT": "0"}  # reading the object store must not start another cluster
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{module} {numbers} failed: {done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="two sizes and a short run, too short to decide anything")
    parser.add_argument("--only", choices=("streams", "pools", "steady", "runs"), help="run one part")
    parser.add_argument("--teachers", type=int, nargs="+", help="numbers of teachers of the streams")
    args = parser.parse_args()
    prepare_ray("local")  # before Ray is imported
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default workers yield to other programs
    from echodfkd.runtime.cluster.connection import machine_line

    plan = QUICK if args.quick else WHOLE
    if args.teachers:
        plan = replace(plan, streams=tuple(row for row in plan.streams if row[0] in args.teachers))
    parts = {"streams": measure_streams, "pools": measure_pools, "steady": measure_steady, "runs": measure_runs}
    found = {"case": "scale", "quick": args.quick, "machine": machine_line(), "date": time.strftime("%Y-%m-%d")}
    for name, measure in parts.items():
        if args.only in (None, name):
            found |= measure(plan)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
