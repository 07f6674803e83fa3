"""A network that a Python file of the user makes. The file is run, and trusted because the user's command names it."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from echodfkd.core.errors import InputError, one_line
from echodfkd.models.teachers.teacher_files import ForeignNetwork, one_output
from echodfkd.models.teachers.torch_teacher import hash_weights

FUNCTION = "network"
"""Name of the function, if teacher.network gives none."""


class PythonNetwork(ForeignNetwork):
    """The network that a function in a Python file returns.

    Args:
        path: of the file. Modules beside it can be imported.
        data: its bytes, known to be those that the user pinned.
        function: its name; "" is `FUNCTION`. It takes nothing and returns an nn.Module, or a function of one tensor.
        output: key or number of the output, if the network gives several.

    Raises:
        InputError: the file fails, or gives something else.
    """

    def __init__(self, path: str, data: bytes, *, function: str, output: str) -> None:
        super().__init__()
        digest = hashlib.sha256(data)
        make = _function(_module(path, f"echodfkd_teacher_{digest.hexdigest()[:16]}"), path, function or FUNCTION)
        made = _run_theirs(path, make)
        if not callable(made):
            raise InputError(
                f"teacher.network: {function or FUNCTION}() of {path} returned a {type(made).__name__}, expected an"
                " nn.Module or a function of one tensor"
            )
        self.inner: Callable[[torch.Tensor], Any] = made.eval() if isinstance(made, nn.Module) else made
        digest.update(hash_weights(made).encode() if isinstance(made, nn.Module) else b"")
        self.weights_hash = digest.hexdigest()[:16]
        self._output = output

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        return one_output(self.inner(x), self._output)


def _module(path: str, name: str) -> ModuleType:
    if not path.endswith(".py"):
        raise InputError(f"teacher.weights: got {path}, but teacher.kind=python takes a Python file (.py)")
    folder = str(Path(path).resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses in it look themselves up
    loader = spec.loader
    _run_theirs(path, lambda: loader.exec_module(module))
    return module


def _function(module: ModuleType, path: str, name: str) -> Callable[[], Any]:
    found = getattr(module, name, None)
    if callable(found):
        return found
    names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    raise InputError(f"teacher.network: {path} has no function {name!r}; it has {', '.join(names[:8]) or 'none'}")


def _run_theirs(path: str, work: Callable[[], Any]) -> Any:
    """The user's code; its error is one sentence with the line."""
    try:
        return work()
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
        place = f" in line {line}" if line else ""
        raise InputError(f"teacher.weights: {path} fails{place}: {type(error).__name__}: {one_line(error)}") from error
