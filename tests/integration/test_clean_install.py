"""README and tutorial, walked in a clean environment: a new venv with the wheel in it, an empty folder, no checkout.

The packages that echodfkd needs are those of this environment, so that nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from echodfkd.sources.phantom.source import default_phantom
from echodfkd.sources.video.encode import encode_avi
from tests.unit.house.test_docs import blocks

ROOT = Path(__file__).parents[2]
SMALL = ["train.steps=3", "train.checkpoint_every=3", "evaluation.cases=2", "evaluation.judge=none", "ray.num_cpus=4"]
SMALL += ["ray.address=local"]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with bin/echodfkd of a new environment in venv/."""
    folder = tmp_path_factory.mktemp("clean install")  # with a space in its path
    source = folder / "source"
    source.mkdir()
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("echodfkd", "jobs", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*wheel, str(source)], check=True)
    shutil.rmtree(source)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv/bin/python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*install, *map(str, folder.glob("*.whl"))], check=True)
    packages = next((folder / "venv/lib").glob("python*")) / "site-packages"
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # their own .pth files are not read
    (folder / "work").mkdir()
    return folder


def run(clean: Path, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PATH": f"{clean / 'venv/bin'}:{environment['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"}
    began = time.monotonic()
    done = subprocess.run(
        ["echodfkd", *words], cwd=clean / "work", env=environment, capture_output=True, text=True, timeout=timeout
    )
    sys.stdout.write(f"{time.monotonic() - began:6.1f} s  echodfkd {' '.join(words)[:90]}\n")
    return done


def result(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def commands(page: str) -> list[list[str]]:
    """The `echodfkd ...` commands in a page's blocks."""
    import shlex

    lines = [line for text in blocks(ROOT / page, "", "bash", "sh") for line in text.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("echodfkd ")]


def test_a_wheel_brings_the_command_with_its_jobs_and_configs(clean: Path) -> None:
    shown = run(clean, "--help")
    assert shown.returncode == 0
    assert "  distill " in shown.stdout
    assert "demo.yaml" in result(run(clean, "configs", "configs"))["configs"]  # type: ignore[operator]
    command = next(words for words in commands("docs/tutorial.md") if words[0] == "distill")
    dry = run(clean, *command, "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "name: larger" in dry.stdout
    where = "import echodfkd.core.shipped as s; print(s.shipped_folder('jobs'))"
    found = subprocess.run(
        [str(clean / "venv/bin/python"), "-c", where], cwd=clean / "work", capture_output=True, text=True, check=True
    )
    assert found.stdout.strip().endswith("site-packages/echodfkd/jobs")


@pytest.fixture(scope="module")
def at_home(clean: Path) -> Path:
    """The folder of a user after `make demo`: the configs, the demo's run in few steps, and videos of the user's."""
    work = clean / "work"
    result(run(clean, "configs", "configs"))
    result(run(clean, "distill", "--config", "configs/demo.yaml", *SMALL, timeout=1500))
    (work / "my_folder").mkdir()
    source = default_phantom(seed=5, num_frames=48, fps=30.0, size=56, case_frames=48)
    for number in range(3):
        (work / f"my_folder/{number}.avi").write_bytes(encode_avi(source.clip(number).video, 30.0))
    shutil.copy(work / "my_folder/0.avi", work / "my_video.avi")
    return work


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_every_command_of_a_page_works_as_printed(clean: Path, at_home: Path, page: str) -> None:
    """In the order of the page, with fewer steps. `make walk` walks the README, and prints the time of each command."""
    walked = []
    for words in commands(page):
        if words in walked or any(word.startswith(("/", "source.path=/", "--working-dir")) for word in words):
            continue  # run already, or on a data set that a reader has
        done = run(clean, *words, *(SMALL if words[0] == "distill" else []), timeout=1500)
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
        walked.append(words)
    names = [words[0] for words in walked]
    assert "distill" in names
    assert "predict" in names
    assert (at_home / "runs/demo/report.html").exists()
    assert (at_home / "runs/larger/report.html").exists()
    assert (at_home / "predictions/index.html").exists()
