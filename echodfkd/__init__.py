"""Distributed knowledge distillation for echocardiogram segmentation.

The names of `echodfkd.api` are here too. They are imported when they are first used: ``import echodfkd`` loads neither
torch nor Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echodfkd.api import Segmentation, Student, distil, generated, load_student, load_teacher, phantom, phantoms

__version__ = "0.1.0"
__all__ = ["Segmentation", "Student", "distil", "generated", "load_student", "load_teacher", "phantom", "phantoms"]


def __getattr__(name: str) -> Any:
    """A name of `echodfkd.api`."""
    if name not in __all__ and name != "api":
        raise AttributeError(f"module 'echodfkd' has no attribute {name!r}")
    api = importlib.import_module("echodfkd.api")
    return api if name == "api" else getattr(api, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__, "api"]
