"""Check and measure a GPU with one command: agreement with the CPU, then speed.

    python -m tests.benchmarks.gpu [--device cuda|cpu] [--out DIR]

Needs torch, numpy, scipy and pytest only. Each case runs in a process of its own and is ended after a fixed time; all
of them together take at most eight minutes. Prints one JSON line per case as soon as it ends, and a summary as the last
line. The output of a case is copied to stderr while it runs, and kept in its line. Without a GPU the command is a
rehearsal: everything runs on the CPU in quick size, and each line says so. The exit code is 0 if every case ran and
its results agree with their reference; speed targets do not count.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

DEVICE_S = 30.0
AGREEMENT_S = 90.0
STUDENT_STEP_S = 120.0
TEACHER_FRAMES_S = 150.0
FAMILY_OF_16_S = 60.0
PHANTOM_GPU_S = 30.0
"""Most seconds that each child process may take on a GPU: 480 in all."""
LIMITS = {
    "agreement": AGREEMENT_S,
    "student_step": STUDENT_STEP_S,
    "teacher_frames": TEACHER_FRAMES_S,
    "family_of_16": FAMILY_OF_16_S,
    "phantom_gpu": PHANTOM_GPU_S,
}
REHEARSAL = "rehearsal on the CPU in quick size: no result about a GPU"
REHEARSAL_FACTOR = 4.0
"""A rehearsal may take this much longer: compilers and CPUs are slow, and no GPU is waiting."""
KEPT_LINES = 200
"""Most lines of a case's output that its JSON line keeps, the last ones."""


@dataclass(frozen=True)
class Ended:
    """A finished child process.

    Attributes:
        code: exit code; None if it took too long and was ended.
        lines: its stdout and stderr.
        seconds: how long it ran.
    """

    code: int | None
    lines: list[str]
    seconds: float

    @property
    def last_json(self) -> dict[str, Any] | None:
        """The JSON object on its last line, if there is one."""
        with contextlib.suppress(IndexError, ValueError):
            found = json.loads(self.lines[-1])
            return found if isinstance(found, dict) else None
        return None


def run_child(arguments: Sequence[str], *, limit_s: float, env: Mapping[str, str]) -> Ended:
    """Run Python with these arguments in the checkout. After ``limit_s``, end it and all processes it started."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=dict(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    lines: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            print(lines[-1], file=sys.stderr, flush=True)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    code: int | None = None
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    reader.join(5.0)
    return Ended(code, list(lines), round(time.monotonic() - started, 1))


def print_device() -> None:
    """Print this machine's GPU and versions as JSON. Runs in a child process: this one must not occupy the GPU."""
    import torch

    found: dict[str, Any] = {"device": None, "torch": torch.__version__, "cuda": torch.version.cuda, "driver": None}
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name(0)
        if tool := shutil.which("nvidia-smi"):
            query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
            found["driver"] = (subprocess.run(query, capture_output=True, text=True).stdout.splitlines() or [None])[0]
    print(json.dumps(found))


def run_agreement(*, limit_s: float, env: Mapping[str, str], rehearsal: bool) -> tuple[Ended, bool, dict[str, Any]]:
    """Run tests/unit/test_gpu.py. Returns its process, whether it passed (without skips on a GPU), and its counts."""
    options = ["-v", "--tb=short", "--noconftest", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:logging"]
    ended = run_child(["-m", "pytest", *options, "tests/unit/test_gpu.py"], limit_s=limit_s, env=env)
    summary = next((line for line in reversed(ended.lines) if re.search(r"\bin [\d.]+s", line)), "")
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|error)", summary)}
    ok = ended.code == 0 and counts.get("passed", 0) > 0 and (rehearsal or "skipped" not in counts)
    return ended, ok, counts


def run_benchmark(
    name: str, *, limit_s: float, env: Mapping[str, str], rehearsal: bool
) -> tuple[Ended, bool, dict[str, Any] | None]:
    """Run a benchmark. Returns its process, whether it ended with a result that agrees, and the result."""
    ended = run_child(["-m", "tests.benchmarks", name, *["--quick"] * rehearsal], limit_s=limit_s, env=env)
    result = ended.last_json
    return ended, result is not None and result.get("agrees", True), result


def measure(write: Callable[[dict[str, Any]], None], *, device: str | None) -> bool:
    """Run everything.

    Args:
        write: takes each JSON line, the summary last.
        device: ``cuda``, ``cpu`` for a rehearsal; None takes a GPU if there is one.

    Returns:
        Whether every case ran and agreed.
    """
    started = time.monotonic()
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "ECHODFKD_TEST_DEVICE": "cuda"}
    if device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    probe = run_child(
        ["-c", "from tests.benchmarks.gpu import print_device; print_device()"], limit_s=DEVICE_S, env=env
    )
    about = probe.last_json
    if about is None or (device == "cuda" and about["device"] is None):
        error = "no CUDA device" if about else "the device could not be read"
        write({"case": "summary", "ok": False, "seconds": probe.seconds, "error": error, "output": probe.lines})
        return False
    rehearsal = about["device"] is None
    if rehearsal:
        env |= {"ECHODFKD_TEST_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}  # a rehearsal shares the machine with other work
        about = {**about, "device": "cpu", "rehearsal": REHEARSAL}
    oks: dict[str, bool] = {}
    for name, seconds in LIMITS.items():
        limit_s = seconds * (REHEARSAL_FACTOR if rehearsal else 1.0)
        run = run_agreement if name == "agreement" else functools.partial(run_benchmark, name)
        ended, ok, results = run(limit_s=limit_s, env=env, rehearsal=rehearsal)
        oks[name] = ok and ended.code is not None
        line = {"case": name, "ok": oks[name], "seconds": ended.seconds, **about, "results": results}
        if ended.code is None:
            line["error"] = f"ended after its limit of {limit_s:g} s; output holds the lines it had printed"
        elif not ok:
            line["error"] = f"exit code {ended.code}; see output"
        write({**line, "output": ended.lines[-KEPT_LINES:]})
    seconds = round(time.monotonic() - started, 1)
    write({"case": "summary", "ok": all(oks.values()), "seconds": seconds, **about, "cases": oks})
    return all(oks.values())


def main() -> int:
    """Parse the arguments and measure. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda if there is a GPU, else cpu")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the lines to DIR/gpu.jsonl too")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running case is ended too
    with contextlib.ExitStack() as stack:
        file = None
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(args.out / "gpu.jsonl", "w"))

        def write(line: dict[str, Any]) -> None:
            text = json.dumps(line)
            print(text, flush=True)
            if file:
                print(text, file=file, flush=True)

        return 0 if measure(write, device=args.device) else 1


if __name__ == "__main__":
    sys.exit(main())
