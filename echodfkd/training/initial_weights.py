"""One student's weights from a file of ours or of the authors, and training that starts from them.

A file of ours is a ``student.safetensors``. Its metadata hold the options of the network, so that a copy of the file is
enough to build the student again. The manifest or the ``student.json`` beside it know its sha256 and its step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from echodfkd.config.file import config_from_dict
from echodfkd.config.pins import read_initial_bytes
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.models.archives.state_dicts import check_same_keys, load_weights
from echodfkd.models.students.authors_checkpoint import read_authors_checkpoint
from echodfkd.models.students.build import build_student
from echodfkd.storage.checkpoints import NETWORK_KEY, WINDOW_KEY
from echodfkd.storage.files import read_bytes
from echodfkd.storage.untrusted import parse_json_object


@dataclass(frozen=True)
class StudentFile:
    """Weights and buffers by name, the file's sha256, and options; None if the file has none.

    ``options`` are those of the network, ``window`` those of the clips that it was trained on. ``step`` counts the
    student's updates; 0 if it is not known.
    """

    path: str
    sha256: str
    weights: dict[str, torch.Tensor]
    options: StudentConfig | None
    step: int
    window: WindowConfig | None = None


def read_student_file(path: str, *, option: str) -> StudentFile:
    """Read a ``student.safetensors`` of ours or a ``.ckpt`` of the authors, a path or an fsspec URL.

    Args:
        path: the file.
        option: the option that named the file, for the error's sentence.

    Raises:
        InputError: it cannot be read, is damaged, holds no student, or its options do not fit its weights.
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
    step = _published_step(path, digest, option)
    found, window = _read_metadata(data, f"{option}: {path}")
    if found is not None:
        with torch.device("meta"):  # other options than those of these weights could ask for any amount of memory
            shapes = {key: tensor.shape for key, tensor in build_student(**found.network).state_dict().items()}
        check_same_keys(shapes, {key: tensor.shape for key, tensor in weights.items()}, f"{option}: {path}")
    return StudentFile(path, digest, weights, found, step, window)


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
    """Load the initial weights of all students once, before anything starts. Raises as `load_initial`."""
    for name, student in config.students.items():
        if student.initial:
            load_initial(build_student(**student.network), name, student)


def _read_metadata(data: bytes, where: str) -> tuple[StudentConfig | None, WindowConfig | None]:
    """`described_student` by the metadata of a safetensors file, which safetensors has accepted."""
    length = int.from_bytes(data[:8], "little")
    return described_student(parse_json_object(data[8 : 8 + length], where).get("__metadata__") or {}, where)


def described_student(metadata: Mapping[str, str], where: str) -> tuple[StudentConfig | None, WindowConfig | None]:
    """The options in a file's metadata, checked as those of a config are; None if it has none.

    Args:
        metadata: texts of the file; `NETWORK_KEY` and `WINDOW_KEY` are read.
        where: name of the file, for the error's sentence.

    Raises:
        InputError: the options describe no student, or no window that suits it.
    """
    found = {key: parse_json_object(metadata[key], f"{where}, metadata {key!r},") for key in _KNOWN if key in metadata}
    if NETWORK_KEY not in found:
        return None, None
    for key, options in found.items():
        if unknown := sorted(options.keys() - _KNOWN[key]):
            raise InputError(f"{where} has an unknown option of its {key}: {unknown[0]}")
    any_window = {"frames": 64, "size": 64}  # one that suits every student
    values = {"window": found.get(WINDOW_KEY, any_window), "students": {"file": found[NETWORK_KEY]}}
    try:
        config = config_from_dict(values)
    except ConfigError as error:
        raise InputError(f"{where} describes no student: {error}") from error
    return config.students["file"], config.window if WINDOW_KEY in found else None


_KNOWN = {NETWORK_KEY: StudentConfig().network.keys(), WINDOW_KEY: vars(WindowConfig()).keys()}


def _published_step(path: str, digest: str, option: str) -> int:
    """Updates of a student.safetensors by the manifest or the student.json beside it; 0 if there is neither.

    Raises:
        InputError: they describe other bytes.
    """
    folder = path.rpartition("/")[0] or "."
    checkpoint, _, name = folder.rpartition("/")
    manifest = _read_json(f"{checkpoint}/manifest.json") if checkpoint else {}
    files = manifest.get("files")
    listed = files.get(f"{name}/student.safetensors") if isinstance(files, dict) else None
    known = {**manifest, **listed} if isinstance(listed, dict) else _read_json(f"{folder}/student.json")
    sha256, step = known.get("sha256"), known.get("step")
    if sha256 is not None and sha256 != digest:
        raise InputError(
            f"{option}: {path} is damaged: sha256 {digest[:16]}..., but it was written as {str(sha256)[:16]}..."
        )
    return step if type(step) is int and step > 0 else 0


def _read_json(path: str) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    try:
        return parse_json_object(read_bytes(path), path)
    except (OSError, ValueError):
        return {}
