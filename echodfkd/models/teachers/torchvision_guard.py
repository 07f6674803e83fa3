"""Import torchvision beside a CPU build of torch."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

from echodfkd.core.errors import InputError

_keep_alive: list[object] = []


def import_torchvision() -> ModuleType:
    """The torchvision module.

    Its wheels link CUDA libraries; beside a CPU build of torch their operators do not load, and the import
    then stops at a missing schema of ``nms``. Only after that failure are two schemas declared, so that the
    rest of the package (networks, transforms) imports; ``nms`` itself stays unusable. A working
    installation is left as it is. The declaration is per process.

    Raises:
        InputError: torchvision is not installed, or fails for another reason.
    """
    try:
        return importlib.import_module("torchvision")
    except ImportError as error:
        raise InputError(
            f"torchvision cannot be imported ({error}); install the extra: pip install 'echodfkd[teachers]'"
        ) from error
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise InputError(f"torchvision does not fit torch {torch.__version__}: {error}") from error
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    schemas = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        schemas.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _keep_alive.append(schemas)  # the schemas vanish with the library object
    return importlib.import_module("torchvision")
