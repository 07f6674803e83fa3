"""Convert students: the authors' ``.ckpt`` to a folder of ours, and ours to their ``.ckpt``."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from importlib import resources
from typing import Any

import torch

from echodfkd.config.sections.student import WEIGHTS_SUFFIXES
from echodfkd.core.errors import InputError
from echodfkd.core.redaction import dump_json
from echodfkd.models.archives.state_dicts import load_weights
from echodfkd.models.students.authors_checkpoint import (
    authors_network,
    check_architecture,
    hyperparameters,
    write_authors_checkpoint,
)
from echodfkd.models.students.build import build_student
from echodfkd.storage.checkpoints import NETWORK_KEY, pack_student
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import list_checkpoints
from echodfkd.training.initial_weights import StudentFile, read_student_file

SHIPPED_STUDENTS = ("embedded_large", "embedded_small")
"""Trained students in this package: those of configs/wild.yaml. A folder of such a name is written ./embedded_large."""

_TOLERANCE = 1e-5
"""Of logits, relative to the largest: both networks run the same convolutions, and may only sum in another order."""


def import_student(source: str, out: str) -> dict[str, Any]:
    """Write ``student.safetensors`` and ``student.json`` from a ``.ckpt`` of the authors.

    Returns:
        student.json's content: ``student`` (its options), ``sha256`` of the weights' file, ``source`` (path and
        sha256), ``step``.

    Raises:
        InputError: the file is no such checkpoint, or ``out`` cannot be written or holds another student.
    """
    if not source.endswith(".ckpt"):
        raise InputError(f"SOURCE: got {source}, expected a .ckpt file of the authors' code")
    file = read_student_file(source, option="SOURCE")
    assert file.options is not None
    weights = pack_student(
        {key: tensor.contiguous() for key, tensor in file.weights.items()}, {NETWORK_KEY: file.options.network}
    )
    card = {
        "student": asdict(file.options),
        "step": file.step,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "source": {"path": source, "sha256": file.sha256},
    }
    files = {"student.safetensors": weights, "student.json": dump_json(card)}
    write_files(out, files)
    return card


def export_student(source: str, out: str, *, name: str = "") -> dict[str, Any]:
    """Write ``{k}{n}.ckpt`` and ``{k}{n}.hyperparameters`` as the authors' code names and reads them.

    Args:
        source: a run folder (its newest checkpoint), a checkpoint's folder, a folder of `import_student`, or a
            ``student.safetensors`` in one of these.
        out: folder that is written to.
        name: of the student in a run; may be empty if the run has only one.

    Returns:
        ``{"checkpoint", "hyperparameters", "blocks", "layers", "filters", "step", "source", "sha256"}``; the last two
        describe the file of the weights.

    Raises:
        InputError: there is no such student, or the authors' network cannot give the same output.
    """
    file = find_student(source, name)
    if file.options is None:
        raise InputError(f"SOURCE: {file.path} holds no options of its network; name one that a run has published")
    blocks, layers, filters = check_architecture(file.weights, what=f"SOURCE: {file.path}")
    if file.options.input != "raw":
        raise InputError(
            f"SOURCE: {file.path} takes normalised grey levels and the authors' network raw ones; no weights make up"
            " for that at the frame's border, where both pad with zeros; train the student with input=raw"
        )
    _check_same_outputs(file)
    checkpoint = write_authors_checkpoint(file.weights, step=file.step)
    stem = f"{blocks}{layers}"
    files = {f"{stem}.ckpt": checkpoint, f"{stem}.hyperparameters": hyperparameters(filters=filters)}
    write_files(out, files)
    written = dict(zip(("checkpoint", "hyperparameters"), (f"{out}/{file}" for file in files), strict=True))
    shape = {"blocks": blocks, "layers": layers, "filters": filters}
    return {**written, **shape, "step": file.step, "source": file.path, "sha256": file.sha256}


def find_student(source: str, name: str, *, option: str = "SOURCE") -> StudentFile:
    """The student that `export_student` describes. Raises `InputError`, which names ``option``."""
    source = source.rstrip("/")
    if source in SHIPPED_STUDENTS:
        source = str(resources.files("echodfkd").joinpath("weights", f"{source}_student.safetensors"))
    if source.endswith(WEIGHTS_SUFFIXES):
        return read_student_file(source, option=option)
    if RunStorage(source).exists("student.safetensors"):
        return read_student_file(f"{source}/student.safetensors", option=option)
    run, _, step = source.partition("/checkpoints/step_")
    commits = [c for c in list_checkpoints(RunStorage(run)) if not step or c.folder.endswith(f"/step_{step}")]
    if not commits:
        raise InputError(f"{option}: {source} holds no published checkpoint and no student.safetensors")
    newest = commits[-1]
    if name not in newest.students and (name or len(newest.students) != 1):
        raise InputError(
            f"--student: got {name!r}, {run}/{newest.folder} has {', '.join(newest.students)}; name one of them"
        )
    chosen = name or newest.students[0]
    return read_student_file(f"{run}/{newest.folder}/{chosen}/student.safetensors", option=option)


def _check_same_outputs(file: StudentFile) -> None:
    """Compare the student and the authors' network, with the same weights, on noise.

    Equal names and shapes do not prove equal networks: an option may change how the weights are used.
    """
    assert file.options is not None
    blocks, layers, filters = check_architecture(file.weights, what=file.path)
    side = 4 * 2 ** (blocks - 1)
    video = torch.randint(0, 256, (1, 4, side, side), generator=torch.Generator().manual_seed(0))
    logits = []
    for network in (
        build_student(**file.options.network),
        authors_network(blocks=blocks, layers=layers, filters=filters),
    ):
        load_weights(network, file.weights, what=f"SOURCE: {file.path}")
        with torch.inference_mode():
            logits.append(network.eval()(video).mask_logits)
    ours, theirs = logits
    if ours.shape != theirs.shape or (ours - theirs).abs().max() > _TOLERANCE * theirs.abs().max().clamp(min=1):
        raise InputError(
            f"SOURCE: {file.path} gives other logits in the authors' network than in its own ({file.options}): it was"
            " built with an option that the authors' network lacks"
        )


def write_files(out: str, files: dict[str, bytes]) -> None:
    """Write all files; refuse a folder that has another of the same name."""
    storage = RunStorage(out)
    storage.check_writable("--out")
    for file, data in files.items():
        if not storage.create_once(file, data) and storage.read(file) != data:
            raise InputError(f"--out: {out} holds another {file}; name another folder")
