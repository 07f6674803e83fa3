"""teacher.kind: python. The network is that of the user's file, and every fault of the file is one sentence."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from echodfkd.config.file import load_config
from echodfkd.config.sections.teacher import TeacherConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.models.teachers.protocol import Teacher
from echodfkd.teaching.build import build_configured_teacher
from tests.unit.house.test_docs import ROOT, blocks

SIDE = 16
NETWORK = """
import torch
from beside import SCALE

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(SCALE))
    def forward(self, x):
        return self.scale * (x - 0.5)

def network():
    return Net()

def plain():
    return lambda x: 8.0 * (x - 0.5)

def two():
    return lambda x: torch.cat([x - 0.5, 0.3 - x], dim=1)

def nothing():
    return None

def broken():
    raise ValueError("no weights here")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("SCALE = 8.0\n")
    (tmp_path / "mine.py").write_text(NETWORK)
    return tmp_path / "mine.py"


def build(file: Path, **options: Any) -> Teacher:
    given: dict[str, Any] = {"pixel_mean": [0.0], "pixel_std": [255.0], "outputs": ["LV"], **options}
    return build_configured_teacher(TeacherConfig(kind="python", weights=str(file), **given), device="cpu")


@pytest.mark.parametrize("function", ["", "network", "plain"])
def test_its_masks_are_those_of_the_network(file: Path, function: str) -> None:
    """sigmoid(8 (grey / 255 - 0.5)), computed here."""
    video = np.random.default_rng(0).integers(0, 256, (2, 3, SIDE, SIDE), dtype=np.uint8)
    wanted = 1 / (1 + np.exp(-8.0 * (video / 255.0 - 0.5)))
    found = build(file, network=function).teach(video).masks
    np.testing.assert_allclose(found[:, :, 0], wanted, atol=1e-6)  # float32 against float64


def test_its_id_is_that_of_file_and_weights(file: Path) -> None:
    first = build(file).teacher_id
    assert first.startswith("python-")
    assert first == build(file).teacher_id
    file.write_text(NETWORK.replace("torch.tensor(SCALE)", "torch.tensor(SCALE + 1)"))
    assert build(file).teacher_id != first


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("nothing", r"nothing\(\) of .*mine.py returned a NoneType, expected an nn.Module or a function of one tensor"),
        ("broken", r"mine.py fails in line 25: ValueError: no weights here"),
        ("netwrok", r"mine.py has no function 'netwrok'; it has Net, network, plain, two, nothing, broken"),
        ("two", r"teacher.outputs"),
    ],
)
def test_a_function_at_fault_is_one_sentence(file: Path, function: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build(file, network=function)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def network(:\n", r"mine.py fails in line 1: SyntaxError"),
        ("import no_such_module_at_all\n", r"mine.py fails in line 1: ModuleNotFoundError: No module named"),
        ("", r"mine.py has no function 'network'; it has none"),
        ("raise SystemExit(0)\n", r"mine.py fails in line 1: SystemExit"),
    ],
)
def test_a_file_at_fault_is_one_sentence(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        build(file)


def test_what_is_no_python_file_or_not_the_pinned_one_is_not_run(file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"takes a Python file \(.py\)"):
        build(tmp_path / "mine.pt")
    file.write_text("raise SystemExit('run')\n")
    with pytest.raises(InputError, match="sha256"):
        build(file, sha256="0" * 64)
    with pytest.raises(ConfigError, match=r"teacher.weights: empty, but teacher.kind is python; name the Python file"):
        load_config(None, ["students.a.blocks=1", "teacher.kind=python"])
    assert torch.is_grad_enabled()


def test_the_example_of_the_how_to_teaches_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file and its command's options; the masks are the sigmoid of its network on grey levels of 0 to 1."""
    page = ROOT / "docs/how-to/teachers.md"
    text = next(text for text in blocks(page, "python") if text.startswith("# my_teacher.py"))
    command = next(text for text in blocks(page, "") if "teacher.weights=my_teacher.py" in text)
    (tmp_path / "my_teacher.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    overrides = [word for word in shlex.split(command.replace("\\\n", " ")) if word.startswith("teacher.")]
    config = load_config(None, ["students.a.blocks=1", *overrides])
    torch.manual_seed(0)
    found = build_configured_teacher(config.teacher, device="cpu")
    torch.manual_seed(0)
    own: dict[str, Any] = {}
    exec(text, own)
    video = np.random.default_rng(0).integers(0, 256, (1, 2, SIDE, SIDE), dtype=np.uint8)
    with torch.no_grad():
        wanted = own["network"]()(torch.from_numpy(video[0] / 255.0).float()[:, None]).sigmoid()[:, 0].numpy()
    np.testing.assert_allclose(found.teach(video).masks[0, :, 0], wanted, atol=1e-6)
