"""A compiler for the networks of teachers and generators."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch._dynamo


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are made anew, in a folder of this test."""
    if shutil.which("g++") is None:
        pytest.skip("no g++, which torch.compile makes a CPU's kernels with")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
