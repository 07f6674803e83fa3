"""The way in: `make demo` installs what a run needs, and README's commands stand in the order in which they work."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.house.test_docs import ROOT, blocks


def recipe(target: str, folder: Path, *words: str) -> list[str]:
    """The commands that make would run in a fresh checkout."""
    for name in ("Makefile", "setup.cfg", "setup.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    make = ["make", "--dry-run", target, "PYTHON=python3", *words]
    shown = subprocess.run(make, cwd=folder, capture_output=True, text=True, check=True).stdout
    return shown.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("index", ["", "https://download.pytorch.org/whl/cpu"])
def test_the_demo_installs_no_tools_of_the_tests_and_torch_from_the_index_that_is_asked_for(
    index: str, tmp_path: Path
) -> None:
    installs = [line for line in recipe("demo", tmp_path, f"TORCH_INDEX={index}") if "pip install" in line]
    assert len(installs) == 2
    torch, package = installs
    assert torch.endswith(" torch==2.13.0")
    assert (f"--index-url {index} --extra-index-url https://pypi.org/simple" in torch) is bool(index)
    assert package.endswith(" -e '.[live]'")
    assert not any("--quiet" in line or " -q" in line for line in installs), "pip shows how far it is"


def test_tests_add_theirs(tmp_path: Path) -> None:
    assert any(line.endswith(" -e '.[dev]'") for line in recipe("test", tmp_path))


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_the_environment_is_entered_before_its_command_is_used(page: str) -> None:
    lines = [line for text in blocks(ROOT / page, "", "bash", "sh") for line in text.splitlines()]
    enter = next(number for number, line in enumerate(lines) if line.startswith("source .venv/bin/activate"))
    assert not [line for line in lines[:enter] if line.startswith(("echodfkd ", "python "))]
    assert any(line.startswith("echodfkd ") for line in lines[enter:])
