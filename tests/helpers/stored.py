"""Read stored clips back with pyarrow and hashlib only, as another program would."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from echodfkd.core.records import Conditions, VideoClip
from echodfkd.storage.files import RunStorage


def read_shard(data: bytes) -> list[VideoClip]:
    """The clips of a Parquet shard; every blob must have the sha256 beside it."""
    clips = []
    for row in pq.read_table(io.BytesIO(data)).to_pylist():
        frames = {field: row[field] and tuple(row[field]) for field in ("ed_frames", "es_frames")}
        frames |= {field: () for field in frames if row[field] == []}
        same = {field.name: row[field.name] for field in dataclasses.fields(VideoClip) if field.name in row}
        made = {
            "conditions": Conditions(**row["conditions"]),
            "class_names": tuple(row["class_names"]),
            "video": _pixels(row, "video"),
            "truth_labels": _pixels(row, "truth"),
        }
        clips.append(VideoClip(**(same | made | frames)))
    return clips


def check_folder(storage: RunStorage) -> int:
    """Hold all that manifest.json names against its sizes and hashes. Returns the number of clips."""
    manifest = json.loads(storage.read("manifest.json"))
    for name, known in manifest["lists"].items():
        _check(storage, name, known)
    for entry in manifest["shards"]:
        for name, known in json.loads(_check(storage, entry["record"], entry))["files"].items():
            _check(storage, name, known)
    return manifest["clips"]


def _check(storage: RunStorage, name: str, known: dict[str, Any]) -> bytes:
    data = storage.read(name)
    assert (len(data), hashlib.sha256(data).hexdigest()) == (known["size"], known["sha256"]), name
    return data


def _pixels(row: dict[str, Any], prefix: str) -> np.ndarray | None:
    blob = row[f"{prefix}_blob"]
    if blob is None:
        return None
    assert hashlib.sha256(blob).hexdigest() == row[f"{prefix}_sha256"]
    data = pa.CompressedInputStream(pa.BufferReader(blob), row[f"{prefix}_codec"]).read()
    return np.frombuffer(data, row[f"{prefix}_dtype"]).reshape(row[f"{prefix}_shape"])
