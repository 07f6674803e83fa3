"""Pin the files that a config names (initial weights, tables of patients, generators) by their sha256."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from importlib import resources

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.generator import SHIPPED
from echodfkd.config.sections.source import PartConfig
from echodfkd.config.sections.student import WEIGHTS_SUFFIXES, StudentConfig
from echodfkd.config.short_forms import map_parts
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.core.records import PublishedCheckpoint
from echodfkd.storage.files import RunStorage, read_bytes
from echodfkd.storage.local_files import hash_files
from echodfkd.storage.manifests import parse_manifest


def pin_initial(config: RunConfig) -> RunConfig:
    """The config with the file that each student starts from (``train.init_from`` names one by the student's name) and
    its sha256, as the manifest beside it says or as it is.

    Raises:
        InputError: such a file cannot be read, or the run that is named has no such student.
    """
    origin = config.train.init_from.rstrip("/")
    commit = None if not origin or origin.endswith(WEIGHTS_SUFFIXES) else _find_commit(origin)

    def pin(name: str, student: StudentConfig) -> StudentConfig:
        if origin and not student.initial:
            if commit is None:
                student = dataclasses.replace(student, initial=origin)
            else:
                return _start_from(commit, name, student)
        if not student.initial or student.initial_sha256:
            return student
        data = read_initial_bytes(f"students.{name}.initial", student.initial)
        return dataclasses.replace(student, initial_sha256=hashlib.sha256(data).hexdigest())

    return dataclasses.replace(config, students={name: pin(name, student) for name, student in config.students.items()})


@dataclasses.dataclass(frozen=True)
class _Commit:
    """A published checkpoint and the root of its run."""

    root: str
    manifest: PublishedCheckpoint


def _find_commit(origin: str) -> _Commit:
    """The commit that a run's folder (its newest) or a checkpoint's folder holds. Raises `InputError`."""
    found = re.fullmatch(r"(.*)/(checkpoints/step_\d{8,18})", origin)
    storage = RunStorage(found[1] if found else origin)
    try:
        folders = [found[2]] if found else [*reversed(storage.list("checkpoints"))]
        for folder in folders:
            if storage.exists(f"{folder}/manifest.json"):
                where = f"{storage.root}/{folder}/manifest.json"
                return _Commit(
                    storage.root, parse_manifest(storage.read(f"{folder}/manifest.json"), folder=folder, where=where)
                )
    except (OSError, ValueError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"train.init_from: {origin} cannot be read: {reason}") from error
    raise InputError(
        f"train.init_from: {origin} holds no published checkpoint; name a run's folder, one of its checkpoints, or a"
        " student.safetensors"
    )


def _start_from(commit: _Commit, name: str, student: StudentConfig) -> StudentConfig:
    """The student, with the file of its name. Raises `InputError` if the commit has none."""
    manifest, file = commit.manifest, f"{name}/student.safetensors"
    if name not in manifest.students or file not in manifest.files:
        raise InputError(
            f"train.init_from: {commit.root}/{manifest.folder} has no student {name}; it has"
            f" {', '.join(manifest.students)}. Give students.{name}.initial, or another name"
        )
    digest = str(manifest.files[file].get("sha256", ""))
    return dataclasses.replace(student, initial=f"{commit.root}/{manifest.folder}/{file}", initial_sha256=digest)


def read_initial_bytes(option: str, path: str) -> bytes:
    """The file's content. Raises `InputError` with the option's name."""
    try:
        return read_bytes(path)
    except (OSError, ValueError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{option}: {path} cannot be read: {reason}") from error


def pin_sources(config: RunConfig) -> RunConfig:
    """The config with the sha256 of every table of patients, every generator's files and privacy.reference.

    Raises:
        ConfigError: one cannot be read.
    """

    def pin(option: str, part: PartConfig) -> PartConfig:
        generator = part.generator
        files = generator.weights or (shipped_weights(part.kind) if part.kind in SHIPPED else "")
        if files and not generator.sha256:
            try:
                digest = hash_files(files)
            except InputError as error:
                raise ConfigError(f"{option}.generator.weights: {error}") from error
            part = dataclasses.replace(part, generator=dataclasses.replace(generator, sha256=digest))
        conditions = part.conditions
        if not conditions.table or conditions.table_sha256:
            return part
        try:
            digest = hashlib.sha256(read_bytes(conditions.table)).hexdigest()
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"{option}.conditions.table: {conditions.table} cannot be read: {reason}") from error
        return dataclasses.replace(part, conditions=dataclasses.replace(conditions, table_sha256=digest))

    privacy = config.privacy
    if privacy.reference and not privacy.reference_sha256:
        try:
            privacy = dataclasses.replace(privacy, reference_sha256=hash_files(privacy.reference))
        except InputError as error:
            raise ConfigError(f"privacy.reference: {error}") from error
    held_out = map_parts(config.evaluation.source, lambda suffix, part: pin(f"evaluation.source{suffix}", part))
    return dataclasses.replace(
        config,
        privacy=privacy,
        source=map_parts(config.source, lambda suffix, part: pin(f"source{suffix}", part)),
        evaluation=dataclasses.replace(config.evaluation, source=held_out),
    )


def shipped_weights(kind: str) -> str:
    """The file of a generator's weights in this package."""
    return str(resources.files("echodfkd").joinpath("weights", f"{kind}.safetensors"))
