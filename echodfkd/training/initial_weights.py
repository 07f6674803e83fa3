"""One student's weights out of a file of ours or of the authors, and training that starts from them.

Files of ours are ``student.safetensors``: in a published checkpoint, whose manifest says how the student was built, or
in a folder of `training.conversion`, where ``student.json`` says it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from echodfkd.config.pins import read_initial_bytes
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.core.errors import InputError
from echodfkd.models.students.authors_checkpoint import read_authors_checkpoint
from echodfkd.models.students.build import build_student
from echodfkd.models.students.weights import load_weights
from echodfkd.storage.files import read_bytes


@dataclass(frozen=True)
class StudentFile:
    """Weights and buffers by name, the file's sha256, and how the student was built, where that is known.

    ``step`` counts its updates, 0 where that is not known.
    """

    path: str
    sha256: str
    weights: dict[str, torch.Tensor]
    options: StudentConfig | None
    step: int


def read_student_file(path: str, *, option: str) -> StudentFile:
    """Read a ``student.safetensors`` of ours or a ``.ckpt`` of the authors, a path or an fsspec URL.

    Args:
        path: the file.
        option: what named it, for the error's sentence.

    Raises:
        InputError: it cannot be read, is damaged, or holds no student.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = read_initial_bytes(option, path)
    digest = hashlib.sha256(data).hexdigest()
    if path.endswith(".ckpt"):
        student = read_authors_checkpoint(data, name=f"{option}: {path}")
        options = StudentConfig(student.blocks, student.layers, student.filters, norm="batch", input="raw")
        return StudentFile(path, digest, student.weights, options, 0)
    try:
        weights = load(data)
    except SafetensorError as error:
        raise InputError(f"{option}: {path} cannot be read as a safetensors file: {error}") from error
    known = _description(path, digest, option)
    built = known.get("student")
    try:
        return StudentFile(path, digest, weights, StudentConfig(**built) if built else None, int(known.get("step", 0)))
    except TypeError as error:
        raise InputError(f"{option}: {path} was written by another version: {error}") from error


def load_initial(module: nn.Module, name: str, student: StudentConfig) -> None:
    """Copy the weights that a student starts from into its network.

    Raises:
        InputError: they cannot be read, have changed since the config was read, were trained on another kind of
            input, or belong to another architecture: names the first key that differs.
    """
    option = f"students.{name}.initial"
    file = read_student_file(student.initial, option=option)
    if student.initial_sha256 and file.sha256 != student.initial_sha256:
        raise InputError(
            f"{option}: {file.path} has the sha256 {file.sha256[:16]}..., the run began with"
            f" {student.initial_sha256[:16]}...: the file has changed; put the old one back or set another name"
        )
    if file.options is not None and file.options.input != student.input:
        raise InputError(
            f"{option}: {file.path} was trained on {file.options.input} grey levels, but students.{name}.input is"
            f" {student.input}; set students.{name}.input={file.options.input}"
        )
    load_weights(module, file.weights, what=f"{option}: {file.path}")


def check_initial(config: RunConfig) -> None:
    """Load what the students start from once, before anything starts. Raises as `load_initial`."""
    for name, student in config.students.items():
        if student.initial:
            load_initial(build_student(**student.network), name, student)


def _description(path: str, digest: str, option: str) -> Mapping[str, Any]:
    """What is known of a student.safetensors: ``student`` (options) and ``step``; empty where nothing is.

    Raises:
        InputError: what lies beside it describes another file.
    """
    folder = path.rpartition("/")[0] or "."
    checkpoint, _, name = folder.rpartition("/")
    beside = _read_json(f"{folder}/student.json")
    manifest = _read_json(f"{checkpoint}/manifest.json") if checkpoint else {}
    listed = manifest.get("files", {}).get(f"{name}/student.safetensors", {})
    known = beside.get("sha256") or listed.get("sha256")
    if known is not None and known != digest:
        raise InputError(f"{option}: {path} is damaged: sha256 {digest[:16]}..., but it was written as {known[:16]}...")
    if listed:
        return {"student": manifest["meta"].get("students", {}).get(name), "step": manifest["step"]}
    return beside


def _read_json(path: str) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    try:
        values = json.loads(read_bytes(path))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
