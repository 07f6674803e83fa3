"""Write a student for other programs: every file is held against the trained student before it takes its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

from echodfkd.core.counter import Counter
from echodfkd.core.errors import InputError
from echodfkd.core.redaction import dump_json
from echodfkd.inference.export import card
from echodfkd.inference.export.checks import check_file, multiple_of, phantom_clips
from echodfkd.inference.export.graphs import archive, clip_onnx, clip_program, stream_onnx
from echodfkd.inference.export.int8 import quantise
from echodfkd.inference.student import LoadedStudent
from echodfkd.storage.checkpoints import NETWORK_KEY, WINDOW_KEY, code_version, pack_student
from echodfkd.storage.files import RunStorage, describe

FILES = {
    "pt2": "student.pt2",
    "onnx": "student.onnx",
    "stream": "student_stream.onnx",
    "int8": "student_stream_int8.onnx",
}
"""Formats beside ``student.safetensors``, which is always written, and the names of their files."""
ALL = "all"
_CAUSAL = ("stream", "int8")
_CALIBRATION_CLIPS = 8


def export_folder(
    student: LoadedStudent,
    out: str,
    *,
    formats: Sequence[str],
    title: str = "student",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write ``student.safetensors``, some of `FILES`, ``config.json`` and the model card ``README.md``.

    Args:
        student: of `load_student`.
        out: folder that is written to; its files of these names are replaced.
        formats: of `FILES`, or ``all``, which takes those that suit the student.
        title: of the card, if the student's run has no name.
        say: takes a line about each file.

    Returns:
        The content of config.json.

    Raises:
        InputError: a format does not exist or does not suit the student, a package is missing, or the folder holds a
            file of another export that is not replaced.
        RunError: a file differs from the trained student; nothing has been written then.
    """
    check_source(student)
    chosen = _formats(student, formats)
    facts = card.read_run_facts(student.file.path, student.file.step)
    storage = RunStorage(out)
    _check_folder(storage, chosen)
    files = {"student.safetensors": pack_student(student.file.weights, _about(student))}
    described = {"student.safetensors": _described(files["student.safetensors"])}
    with Counter("formats", len(chosen), say) as counter:
        for kind, data in _build(student, chosen):
            file = FILES[kind]
            found = check_file(student, file, kind, data)
            say(
                f"{file}: {len(data):,} bytes; over {found.frames} frames its largest difference from the student is"
                f" {found.largest_difference:.2g}, the Dice of their masks {found.masks_dice:.4f}"
            )
            files[file] = data
            described[file] = {**_described(data), **asdict(found)}
            counter.show(len(described) - 1, file)
    config = {**_config(student), "files": described}
    config |= {"run": facts.run, "teacher": facts.teacher, "scores": dict(facts.scores)}
    files["config.json"] = dump_json(config, indent=2)
    files["README.md"] = card.model_card(facts.run or title, config, facts).encode()
    for file, data in files.items():
        storage.write(file, data)
    return config


def _check_folder(storage: RunStorage, chosen: Sequence[str]) -> None:
    storage.check_writable("--out")
    if stale := [file for kind, file in FILES.items() if kind not in chosen and storage.exists(file)]:
        raise InputError(
            f"--out: {storage.root} holds {stale[0]} of another export, which this one would not describe; name another"
        )


def check_source(student: LoadedStudent) -> None:
    """Raise `InputError` if the student came out of an ONNX file, which has no weights to write, or if it is loaded at
    another size than its own.
    """
    if not student.file.weights:
        raise InputError(
            f"SOURCE: {student.file.path} is an exported file; name the run or the student.safetensors it came from"
        )
    side = student.network_side
    if side and student.size != side:
        raise InputError(
            f"--size: got {student.size}, but this student works at {side} pixels; its files take no other"
        )


def _formats(student: LoadedStudent, formats: Sequence[str]) -> list[str]:
    """The formats to write, in the order of `FILES`."""
    suited = [kind for kind in FILES if student.is_causal or kind not in _CAUSAL]
    for kind in formats:
        if kind not in (*FILES, ALL):
            raise InputError(f"--formats: got {kind!r}, allowed are {', '.join(FILES)} and {ALL}")
        if kind not in (*suited, ALL):
            raise InputError(
                f"--formats: got {kind}, but this student is bidirectional, its first mask needs the last frame; it can"
                f" be exported as {', '.join(suited)}"
            )
    return [kind for kind in suited if kind in formats or ALL in formats]


def _build(student: LoadedStudent, kinds: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(kind, bytes) of each format, in the order of `FILES`."""
    texts = {key: json.dumps(value, sort_keys=True) for key, value in _about(student).items()}
    network, multiple = student.network, multiple_of(student)
    if {"pt2", "onnx"} & set(kinds):
        program = clip_program(network, multiple)
        if "pt2" in kinds:
            yield "pt2", archive(program)
        if "onnx" in kinds:
            yield "onnx", clip_onnx(program, network, texts)
    if set(_CAUSAL) & set(kinds):
        stream = stream_onnx(network, multiple, texts)
        if "stream" in kinds:
            yield "stream", stream
        if "int8" in kinds:
            yield "int8", quantise(stream, phantom_clips(student, _CALIBRATION_CLIPS, first=100))


def _about(student: LoadedStudent) -> dict[str, dict[str, Any]]:
    """Metadata of the files: options of the network, and the window it was trained on, or else is used with."""
    assert student.file.options is not None, "load_student: a student describes its network"
    known = student.file.window
    window = vars(known) if known else {"size": student.size, "fps": student.fps}
    return {NETWORK_KEY: student.file.options.network, WINDOW_KEY: window}


def _config(student: LoadedStudent) -> dict[str, Any]:
    about = _about(student)
    return {
        "model_type": "echodfkd-student",
        **about,
        "classes": list(student.classes),
        "size": student.size,
        "fps": student.fps,
        "multiple": multiple_of(student),
        "step": student.file.step,
        "source_sha256": student.file.sha256,
        "versions": {"echodfkd": code_version()["version"], "torch": metadata.version("torch")},
    }


def _described(data: bytes) -> dict[str, Any]:
    known = describe(data)
    return {"bytes": known["size"], "sha256": known["sha256"]}
