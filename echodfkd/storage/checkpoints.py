"""Publish and read checkpoints: one commit holds the whole family of students, or nothing.

``checkpoints/step_00000100/`` holds, per student, ``student.safetensors`` (fp32 weights and buffers, averaged if
train.ema_decay is set, and the options of the network as metadata) and ``resume.safetensors`` (the newest weights,
Adam's moments and step by name, and the average if there is one), then ``consumed.json`` (the plan's slots trained so
far), of a steered run ``steering.json`` (its laws so far), ``meta.json``, and last ``manifest.json``, made once. Only a
manifest makes a commit and validates the ledger's part files, by name and sha256. Steps count updates: step 100 is the
state after 100 of them.

`prune_resume` deletes the resume state of older commits to bound a run's size. Their manifests still list
those files; only `read_resume` opens them, and it then says that the state is gone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from echodfkd.core.errors import InputError, RunError
from echodfkd.core.records import PublishedCheckpoint
from echodfkd.storage.files import LAYOUT, RunStorage, describe
from echodfkd.storage.intervals import Intervals
from echodfkd.storage.lease import check_epoch
from echodfkd.storage.manifests import MANIFEST, checkpoint_folder, read_verified
from echodfkd.storage.untrusted import parse_json_object

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class StudentState:
    """One student, whole: weights and buffers by name, Adam's state, and the average of the weights if one is kept."""

    weights: dict[str, torch.Tensor]
    optimizer: OptimizerState
    average: dict[str, torch.Tensor] | None = None
    about: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options of its network and of its training window (`NETWORK_KEY`, `WINDOW_KEY`), JSON values; the resume state
    does not hold them."""

    @property
    def published(self) -> dict[str, torch.Tensor]:
        """The weights to publish: the average if there is one, without the adapter of an objective."""
        return without_tap(self.weights if self.average is None else self.average)


NETWORK_KEY, WINDOW_KEY = "network", "window"
"""Keys in the metadata of a student.safetensors: options of the network, and of the window it was trained on."""


def pack_student(weights: Mapping[str, torch.Tensor], about: Mapping[str, Mapping[str, Any]]) -> bytes:
    """A student.safetensors: weights, and what a copy of the file needs to be used (`StudentState.about`)."""
    from safetensors.torch import save

    data = save(dict(weights), metadata={key: json.dumps(about[key], sort_keys=True) for key in about})
    # safetensors writes metadata in an order that changes from call to call: the same student has the same bytes
    length = int.from_bytes(data[:8], "little")
    header = parse_json_object(data[8 : 8 + length], "a student.safetensors")
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def publish(
    storage: RunStorage,
    *,
    step: int,
    students: Mapping[str, StudentState],
    consumed: Intervals,
    ledger: Mapping[str, dict[str, object]],
    quarantine: Mapping[str, dict[str, object]],
    meta: Mapping[str, object],
    lease_epoch: int = 0,
    further: Mapping[str, bytes] = MappingProxyType({}),
) -> PublishedCheckpoint:
    """Write one commit; it exists once this returns.

    Args:
        storage: the run folder.
        step: updates done.
        students: state by name.
        consumed: slots of the plan trained so far.
        ledger: part files, relative to the run folder, that this commit makes valid, with size and sha256.
        quarantine: likewise, of quarantined indices.
        meta: config hash, versions and the like, JSON values.
        lease_epoch: this run's lease, checked before the first file and the manifest; 0 without one.
        further: files of no student, by name.

    Raises:
        RunError: another run has taken the folder over, or this step is published already.
    """
    folder = checkpoint_folder(step)
    taken = f"{storage.root}/{folder} is published already: another run writes to this folder, give one another name"
    if storage.exists(f"{folder}/{MANIFEST}"):
        raise RunError(taken)
    contents = {**_contents(students, consumed, meta), **further}
    check_epoch(storage, lease_epoch)
    for file, data in contents.items():
        storage.write(f"{folder}/{file}", data)
    commit = PublishedCheckpoint(
        step=step,
        folder=folder,
        students=tuple(students),
        files={file: describe(data) for file, data in contents.items()},
        ledger=tuple(ledger),
        quarantine=tuple(quarantine),
        meta=dict(meta),
        parts={**ledger, **quarantine},
        lease_epoch=lease_epoch,
        layout=LAYOUT,
    )
    _write_manifest(storage, commit, taken)
    return commit


def _write_manifest(storage: RunStorage, commit: PublishedCheckpoint, taken: str) -> None:
    """Write the last file of a commit, which makes it one. Raises `RunError` with ``taken`` if it is there already."""
    check_epoch(storage, commit.lease_epoch)
    if not storage.create_once(f"{commit.folder}/{MANIFEST}", json.dumps(asdict(commit), indent=1).encode()):
        raise RunError(taken)


def _contents(
    students: Mapping[str, StudentState], consumed: Intervals, meta: Mapping[str, object]
) -> dict[str, bytes]:
    """The files of a commit beside its manifest, by name."""
    from safetensors.torch import save

    contents: dict[str, bytes] = {}
    for name, state in students.items():
        contents[f"{name}/student.safetensors"] = pack_student(state.published, state.about)
        contents[f"{name}/resume.safetensors"] = save(pack_state(state))
    contents["consumed.json"] = consumed.to_json().encode()
    contents["meta.json"] = json.dumps(dict(meta), indent=1, sort_keys=True).encode()
    return contents


def read_student(storage: RunStorage, checkpoint: PublishedCheckpoint, name: str) -> dict[str, torch.Tensor]:
    """Published weights and buffers of one student by name, fp32.

    Raises:
        InputError: no such student, or its file is missing or not the one that was published.
    """
    return _read_tensors(storage, checkpoint, f"{name}/student.safetensors")


def read_resume(storage: RunStorage, checkpoint: PublishedCheckpoint, name: str) -> StudentState:
    """Weights, Adam's state and average of one student.

    Raises:
        InputError: as `read_student`; also if the resume state has been pruned (train.keep_resume).
    """
    file = f"{name}/resume.safetensors"
    return unpack_state(_read_tensors(storage, checkpoint, file), f"{storage.root}/{checkpoint.folder}/{file}")


def unpack_state(tensors: Mapping[str, torch.Tensor], source: str) -> StudentState:
    """A student's state out of the tensors of `pack_state`. Raises `InputError`, beginning with ``source``."""
    parts: dict[str, dict[str, torch.Tensor]] = {key: {} for key in ("weights", *_MOMENTS, "average")}
    for key, tensor in tensors.items():
        part, _, own = key.partition("/")
        if part in parts:
            parts[part][own] = tensor
    if "step" not in tensors or tensors["step"].numel() != 1:
        raise InputError(f"{source} holds no step")
    moments = {key: parts[key] for key in _MOMENTS}
    return StudentState(parts["weights"], OptimizerState(int(tensors["step"]), **moments), parts["average"] or None)


def prune_resume(storage: RunStorage, keep: int) -> None:
    """Delete the resume state of all commits but the newest ``keep``."""
    kept = 0
    for folder in reversed(storage.list("checkpoints")):
        if not storage.exists(f"{folder}/{MANIFEST}"):
            continue
        kept += 1
        if kept <= keep:
            continue
        students = [name for name in storage.list(folder) if not name.endswith(".json")]
        present = [name for name in students if storage.exists(f"{name}/resume.safetensors")]
        if not present:
            return  # commits before this one were pruned earlier
        for name in present:
            storage.delete(f"{name}/resume.safetensors")


def code_version() -> dict[str, str]:
    """Version of the installed package, and the commit of the source tree if it is a git checkout."""
    try:
        version = metadata.version("echodfkd")
    except metadata.PackageNotFoundError:
        version = "unknown"
    commit = ""
    git = Path(__file__).resolve().parents[2] / ".git"
    try:
        commit = (git / "HEAD").read_text().strip()
        if commit.startswith("ref: "):
            commit = (git / commit.removeprefix("ref: ")).read_text().strip()
    except OSError:
        commit = ""
    return {"version": version, "commit": commit}


def pack_state(state: StudentState) -> dict[str, torch.Tensor]:
    """A student's state as the named tensors of resume.safetensors."""
    packed = {f"weights/{name}": tensor for name, tensor in state.weights.items()}
    for key in _MOMENTS:
        packed.update({f"{key}/{name}": tensor for name, tensor in getattr(state.optimizer, key).items()})
    packed.update({f"average/{name}": tensor for name, tensor in (state.average or {}).items()})
    return {**packed, "step": torch.tensor(state.optimizer.step)}


def _read_tensors(storage: RunStorage, checkpoint: PublishedCheckpoint, file: str) -> dict[str, torch.Tensor]:
    name = file.partition("/")[0]
    if name not in checkpoint.students:
        raise InputError(
            f"{storage.root}/{checkpoint.folder} has no student {name!r}; it has {', '.join(checkpoint.students)}"
        )
    return load_tensors(read_verified(storage, checkpoint, file), f"{storage.root}/{checkpoint.folder}/{file}")


def load_tensors(data: bytes, source: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file by name. Raises `InputError`, beginning with ``source``."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{source} holds no tensors: {error}") from error


@dataclass(frozen=True)
class OptimizerState:
    """Adam's state by parameter name: full fp32 first and second moments, and the number of steps taken."""

    step: int
    exp_avg: dict[str, torch.Tensor]
    exp_avg_sq: dict[str, torch.Tensor]


def copy_to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous copy in main memory that later steps do not change."""
    return tensor.detach().to("cpu", copy=True).contiguous()


TAP = "feature_tap"
"""Module name of a student's feature tap, and the prefix of its weights' names."""


def without_tap(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The student's weights without those of its feature tap."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(f"{TAP}.")}
