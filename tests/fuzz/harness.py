"""Runs malformed inputs in a child process, so that a crash, a hang or a memory bomb of one is seen as what it is.

The parent hands out a plan (target, first case, number of cases), follows the child line by line, and starts another
child behind a case that killed one. A case is a function of (seed, target, number) alone: any of them is run again
with ``python -m tests.fuzz.harness SEED TARGET NUMBER``.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import resource
import selectors
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
"""Longest silence of a child, start of the process included; the slowest case needs about a second."""
MEMORY_BYTES = 2 << 30
"""Address space that a child may add to what it has after its imports: decoded video may fill half of it."""


@dataclass
class Outcome:
    """What became of the cases of one target."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def run_plan(plan: Mapping[str, int], seed: int) -> dict[str, Outcome]:
    """Run the first ``plan[target]`` cases of each target. Failures name the command that repeats them."""
    outcomes = {target: Outcome() for target in plan}
    todo = [(target, 0, count) for target, count in plan.items() if count]
    while todo:
        todo = _run_child(todo, seed, outcomes)
    return outcomes


def _run_child(todo: list[tuple[str, int, int]], seed: int, outcomes: dict[str, Outcome]) -> list[tuple[str, int, int]]:
    """One child, until it ends or has to be ended. Returns what is left to do."""
    command = [sys.executable, "-m", "tests.fuzz.harness", "--child", str(seed), json.dumps(todo)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=env)
        at, ended = ("", -1), "ended"
        for kind, target, number, text in _lines(child):
            at = (target, int(number))
            if kind == "at":
                continue
            outcomes[target].counts[kind] += 1
            if kind == "failed":
                outcomes[target].failures.append(f"{_again(seed, *at)}\n{text}")
            at = ("", -1)  # done: what follows is not its fault
        if child.poll() is None:
            ended = f"was silent for {DEADLINE_S:g} s"
            child.kill()
        code = child.wait()
        if code == 0:
            return []
        errors.seek(0)
        tail = errors.read()[-1500:].decode(errors="replace")
    target, number = at
    assert target, f"the child {ended} with code {code} before its first case: {tail}"
    outcomes[target].counts["failed"] += 1
    outcomes[target].failures.append(f"{_again(seed, target, number)}\nthe process {ended} with code {code}\n{tail}")
    place = [name for name, *_ in todo].index(target)
    _, first, count = todo[place]
    rest = [(target, number + 1, first + count - number - 1)] if number + 1 < first + count else []
    return rest + todo[place + 1 :]


def _lines(child: subprocess.Popen[bytes]) -> Any:
    """Lines of the child as (kind, target, number, text), until it ends or is silent for too long."""
    assert child.stdout is not None
    selector = selectors.DefaultSelector()
    selector.register(child.stdout, selectors.EVENT_READ)
    waiting = b""
    while selector.select(DEADLINE_S):
        piece = os.read(child.stdout.fileno(), 1 << 16)
        if not piece:
            child.wait()
            return
        *lines, waiting = (waiting + piece).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _again(seed: int, target: str, number: int) -> str:
    return f"again: python -m tests.fuzz.harness {seed} {target} {number}"


def run_case(target: Any, seed: int, number: int) -> str:
    """One case: read or refused. Raises what must not happen."""
    from echodfkd.core.errors import MAX_CHARACTERS, EchoDFKDError

    rng = random.Random(f"{seed}/{target.name}/{number}")
    try:
        target.run(rng)
    except EchoDFKDError as error:
        text = str(error)
        assert text, "an error without words"
        assert text.isprintable(), f"not one printable line: {text!r}"
        assert len(text) <= MAX_CHARACTERS, f"{len(text)} characters"
        return "refused"
    return "read"


def _child(seed: int, todo: list[list[Any]]) -> None:
    targets = importlib.import_module(os.environ.get("FUZZ_TARGETS", "tests.fuzz.targets")).TARGETS
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print goes to the log

    def say(*line: Any) -> None:
        os.write(out, json.dumps(line).encode() + b"\n")

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for number, (name, first, count) in enumerate(todo):
            target = targets[name](Path(folder) / f"{number}-{name}")
            if number == 0:
                _limit_memory()
            for case in range(first, first + count):
                say("at", name, case, "")
                try:
                    kind, text = run_case(target, seed, case), ""
                except BaseException:
                    kind, text = "failed", traceback.format_exc()[-3000:]
                say(kind, name, case, text)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    warnings.simplefilter("error", RuntimeWarning)  # a number that silently became another one
    if sys.argv[1] == "--child":
        _child(int(sys.argv[2]), json.loads(sys.argv[3]))
    else:
        from tests.fuzz.targets import TARGETS

        os.chdir(tempfile.mkdtemp())
        print(run_case(TARGETS[sys.argv[2]](Path.cwd() / sys.argv[2]), int(sys.argv[1]), int(sys.argv[3])))
