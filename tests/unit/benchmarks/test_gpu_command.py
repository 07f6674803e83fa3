"""The command for a GPU: its dependencies, time limits and JSON lines."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.benchmarks import gpu

BARE = """
import importlib.machinery, sys

ALLOWED = {allowed!r}


class BarePathFinder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = super().find_spec(name, path, target)
        place = str(spec and (spec.origin or spec.submodule_search_locations))
        installed = "site-packages" in place and "_vendor" not in place and "." not in name
        return None if installed and name not in ALLOWED else spec


sys.meta_path = [BarePathFinder if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
"""
"""A sitecustomize that hides every installed package but those allowed."""

TORCH = {"torch", "torchgen", "functorch", "triton", "nvidia", "filelock", "typing_extensions", "sympy", "mpmath"}
TORCH |= {"networkx", "jinja2", "markupsafe", "fsspec", "setuptools", "_distutils_hack"}
PYTEST = {"pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py"}
MODULES = ("student_step", "teacher_frames", "family_of_16", "phantom", "gpu", "__main__")


@pytest.fixture
def bare_env(tmp_path: Path) -> dict[str, str]:
    """Environment of a Python that has only torch, numpy, scipy and pytest, with the packages that these require."""
    allowed = sorted(TORCH | PYTEST | {"numpy", "scipy"})
    (tmp_path / "sitecustomize.py").write_text(BARE.format(allowed=allowed))
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def test_the_command_needs_only_torch_numpy_scipy_and_pytest(bare_env: dict[str, str]) -> None:
    names = ", ".join([*(f"tests.benchmarks.{name}" for name in MODULES), "tests.unit.test_gpu"])
    hidden = ("ray", "deepspeed", "omegaconf", "pyarrow", "av", "s3fs", "safetensors", "psutil", "yaml", "PIL")
    script = f"""import importlib.util, {names}
print([name for name in {hidden} if importlib.util.find_spec(name)])"""
    done = subprocess.run([sys.executable, "-c", script], cwd=gpu.ROOT, env=bare_env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["[]"]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_everything_is_rehearsed_on_a_cpu_with_no_other_package(bare_env: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--device", "cpu", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=gpu.ROOT, env=bare_env, stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, lines
    assert [line["case"] for line in lines] == [*gpu.LIMITS, "summary"]
    assert all(line["ok"] and line["rehearsal"] == gpu.REHEARSAL and line["device"] == "cpu" for line in lines)
    assert lines[0]["results"]["passed"] > 10
    assert (tmp_path / "out" / "gpu.jsonl").read_text() == done.stdout


def test_the_limits_leave_room_in_ten_minutes() -> None:
    assert gpu.DEVICE_S + sum(gpu.LIMITS.values()) == 480


def test_a_child_that_overruns_is_ended_with_its_own_children_and_its_output_is_kept() -> None:
    script = """import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, flush=True)
time.sleep(60)"""
    ended = gpu.run_child(["-c", script], limit_s=5.0, env=os.environ)
    assert ended.code is None
    assert 5.0 <= ended.seconds < 30.0
    grandchild = int(ended.lines[0])
    deadline = time.monotonic() + 20
    while psutil.pid_exists(grandchild) and psutil.Process(grandchild).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_stderr_and_the_exit_code_are_kept() -> None:
    ended = gpu.run_child(["-c", "import sys; print('{\"a\": 1}'); sys.exit('wrong')"], limit_s=60.0, env=os.environ)
    assert ended.code == 1
    assert sorted(ended.lines) == ["wrong", '{"a": 1}']


def measured(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, gpu.Ended], *, device: str | None = None
) -> tuple[bool, dict[str, dict[str, Any]]]:
    """Run `measure` with fake child processes, by the last word of their command. Returns its lines by case."""

    def fake(arguments: list[str], *, limit_s: float, env: dict[str, str]) -> gpu.Ended:
        return answers[next(name for name in arguments[::-1] if not name.startswith("--"))]

    monkeypatch.setattr(gpu, "run_child", fake)
    lines: list[dict[str, Any]] = []
    ok = gpu.measure(lines.append, device=device)
    json.dumps(lines)
    return ok, {line["case"]: line for line in lines}


PROBE = "from tests.benchmarks.gpu import print_device; print_device()"
H100 = {"device": "H100", "torch": "2.13.0", "cuda": "13.0", "driver": "580"}


def answers(about: dict[str, Any], tests: str) -> dict[str, gpu.Ended]:
    """Children that all do well, and the summary line of pytest."""
    cases = {name: gpu.Ended(1, ["table", json.dumps({"holds": False})], 2.0) for name in gpu.LIMITS}
    found = {PROBE: gpu.Ended(0, [json.dumps(about)], 1.0), "tests/unit/test_gpu.py": gpu.Ended(0, ["...", tests], 3.0)}
    return {**cases, **found}


def test_a_line_names_device_versions_results_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missed speed target, the exit code 1 of a case, is no failure."""
    ok, lines = measured(monkeypatch, answers(H100, "18 passed in 3.21s"))
    assert ok
    assert list(lines) == [*gpu.LIMITS, "summary"]
    assert lines["agreement"]["results"] == {"passed": 18}
    expected = {"case": "student_step", "ok": True, "seconds": 2.0, **H100, "results": {"holds": False}}
    assert lines["student_step"] == {**expected, "output": ["table", '{"holds": false}']}
    assert lines["summary"]["cases"] == dict.fromkeys(gpu.LIMITS, True)
    assert "rehearsal" not in lines["summary"]


def test_a_case_that_disagrees_overruns_or_crashes_is_not_ok_and_the_others_still_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = answers(H100, "17 passed, 1 skipped in 3.21s")
    found["student_step"] = gpu.Ended(1, [json.dumps({"agrees": False})], 2.0)
    found["teacher_frames"] = gpu.Ended(None, ["first row"], 150.0)
    found["family_of_16"] = gpu.Ended(1, ["Traceback", "CUDA error"], 2.0)
    ok, lines = measured(monkeypatch, found)
    assert not ok
    assert not any(lines[name]["ok"] for name in list(gpu.LIMITS)[:4])
    assert lines["phantom_gpu"]["ok"]
    assert lines["teacher_frames"]["error"] == "ended after its limit of 150 s; output holds the lines it had printed"
    assert lines["teacher_frames"]["output"] == ["first row"]
    assert lines["family_of_16"]["error"] == "exit code 1; see output"


def test_without_a_gpu_each_line_says_that_it_is_a_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    ok, lines = measured(monkeypatch, answers({**H100, "device": None}, "16 passed, 2 skipped in 3.21s"))
    assert ok
    assert all(line["rehearsal"] == gpu.REHEARSAL and line["device"] == "cpu" for line in lines.values())


def test_a_gpu_that_was_asked_for_and_is_not_there_is_no_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    ok, lines = measured(monkeypatch, answers({**H100, "device": None}, ""), device="cuda")
    assert not ok
    assert lines.keys() == {"summary"}
    assert lines["summary"]["error"] == "no CUDA device"
