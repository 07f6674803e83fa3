"""Open an ONNX file of others in onnxruntime.

The file is data: operators of ONNX and onnxruntime, no library of custom ones, and no file beside it (external data is
looked for in an empty folder).
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from typing import Any

from echodfkd.core.errors import InputError, one_line


def import_onnxruntime(needed_by: str) -> Any:
    """The package. Raises `InputError`, which begins with ``needed_by``, if it cannot be imported."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise InputError(
            f"{needed_by} needs onnxruntime, which cannot be imported ({one_line(error)}); install the extra:"
            " pip install 'echodfkd[onnx]', or onnxruntime-gpu for CUDA"
        ) from error


def open_onnx(data: bytes, *, where: str, threads: int, providers: Sequence[str] = ("CPUExecutionProvider",)) -> Any:
    """An inference session.

    Args:
        data: the file.
        where: its name, at the start of errors.
        threads: of an operator.
        providers: of onnxruntime, the preferred one first.

    Raises:
        InputError: onnxruntime is not installed, or reads no model in the file.
    """
    ort = import_onnxruntime(where)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    with tempfile.TemporaryDirectory() as empty:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", empty)
        try:
            return ort.InferenceSession(data, options, providers=list(providers))
        except Exception as error:  # onnxruntime has a class for each of its codes, none public
            raise InputError(
                f"{where} is no ONNX model that onnxruntime {ort.__version__} reads (with all weights in the one file):"
                f" {one_line(error)}"
            ) from error
