"""Clips with the truth of every frame as Parquet files: a row per clip, pixels as compressed bytes.

Legend: T frames, H rows, W columns.

Pixels are a binary column of zstd blobs beside their shape, dtype, codec and sha256, never a tensor column: Parquet
has no 8-bit type and stores each pixel of a tensor as a 32-bit number, which was ten times slower to read. Any
Parquet reader gets at them::

    row = pyarrow.parquet.read_table("shard-000000.parquet").to_pylist()[0]
    data = pyarrow.Codec("zstd").decompress(row["video_blob"], decompressed_size=math.prod(row["video_shape"]))
    video = numpy.frombuffer(data, row["video_dtype"]).reshape(row["video_shape"])
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from echodfkd.core.errors import ClipError, EchoDFKDError, InputError
from echodfkd.core.records import TRUTH_UNKNOWN, Conditions, VideoClip

CODEC = "zstd"
LEVEL = 3
"""Level 3: of those tried on echo masks and videos, higher ones cost more time than they save space."""

ROWS_PER_GROUP = 8
"""A reader that wants one clip reads a row group: 8 clips of 64 frames at 112 pixels are about 8 MB."""

MAX_BYTES = 1 << 28
"""Largest array that a shape may promise (64 frames of 2048 x 2048): what a damaged file asks for is not allocated."""

MAX_BLOB_BYTES = 1 << 30
"""Largest row group that is read; ours have some 8 MB."""

_NEEDED = (
    "clip_id", "index", "seed", "epoch", "window_start", "source", "domain", "fps", "sample_weight", "class_names"
)  # fmt: skip

_CONDITION_TYPES = {"float | None": pa.float64(), "str | None": pa.string()}

_BLOB = [
    ("shape", pa.list_(pa.int64())),
    ("dtype", pa.string()),
    ("codec", pa.string()),
    ("sha256", pa.string()),
    ("blob", pa.binary()),
]

SHARD_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("index", pa.int64()),
        ("seed", pa.int64()),
        ("epoch", pa.int64()),
        ("window_start", pa.int64()),
        ("source", pa.string()),
        ("domain", pa.string()),
        ("split", pa.string()),
        ("fps", pa.float64()),
        ("spacing_mm", pa.float64()),
        ("sample_weight", pa.float64()),
        ("conditions", pa.struct([(f.name, _CONDITION_TYPES[str(f.type)]) for f in fields(Conditions)])),
        ("class_names", pa.list_(pa.string())),
        ("ed_frames", pa.list_(pa.int64())),
        ("es_frames", pa.list_(pa.int64())),
        *((f"video_{name}", kind) for name, kind in _BLOB),
        *((f"truth_{name}", kind) for name, kind in _BLOB),
    ]
)
"""`records.VideoClip`, with ``split``. ``video`` and ``truth`` (label map, null where there is none) are uint8
(T, H, W); their sha256 is that of the blob as it is stored, so that a damaged one is not decompressed."""


def encode_shard(clips: Sequence[VideoClip], splits: Sequence[str]) -> bytes:
    """One Parquet file of these clips, a function of them alone: the same clips give the same bytes."""
    rows = [_row(clip, split) for clip, split in zip(clips, splits, strict=True)]
    sink = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=SHARD_SCHEMA)
    pq.write_table(table, sink, compression="none", use_dictionary=False, row_group_size=ROWS_PER_GROUP)
    return sink.getvalue()


def read_shard(data: bytes, *, name: str) -> Iterator[VideoClip]:
    """The clips of one Parquet file, one row group in memory at a time.

    Args:
        data: the file's content.
        name: the file's name, for the error's sentence.

    Raises:
        InputError: not a Parquet file, or not one of clips.
        ClipError: one clip's bytes are not those that were written, or the row contradicts itself; its ``clip_id``
            is in the sentence.
    """
    for row in _rows(data, name):
        yield _clip(row, name)


def _rows(data: bytes, name: str) -> Iterator[dict[str, Any]]:
    """The rows as they are stored. Raises `InputError`."""
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        found = file.schema_arrow
        missing = [column for column in SHARD_SCHEMA.names if column not in found.names]
        if missing:
            raise InputError(f"{name} is not a shard of clips: it lacks the columns {', '.join(missing)}")
        for field in SHARD_SCHEMA:
            if found.names.count(field.name) > 1 or found.field(field.name).type != field.type:
                raise InputError(f"{name} is not a shard of clips: its {field.name} is not one {field.type}")
        groups = range(file.metadata.num_row_groups)
        if any(file.metadata.row_group(group).total_byte_size > MAX_BLOB_BYTES for group in groups):
            raise InputError(f"{name} has a row group of more than {MAX_BLOB_BYTES} bytes")
        for batch in file.iter_batches(batch_size=1, columns=SHARD_SCHEMA.names, use_threads=False):
            batch.validate(full=True)
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, EchoDFKDError):
            raise
        raise InputError(f"{name} is not a readable Parquet file ({len(data)} bytes): {error}") from error


def _row(clip: VideoClip, split: str) -> dict[str, Any]:
    return {
        "clip_id": clip.clip_id,
        "index": clip.index,
        "seed": clip.seed,
        "epoch": clip.epoch,
        "window_start": clip.window_start,
        "source": clip.source,
        "domain": clip.domain,
        "split": split,
        "fps": clip.fps,
        "spacing_mm": clip.spacing_mm,
        "sample_weight": clip.sample_weight,
        "conditions": asdict(clip.conditions),
        "class_names": list(clip.class_names),
        "ed_frames": None if clip.ed_frames is None else list(clip.ed_frames),
        "es_frames": None if clip.es_frames is None else list(clip.es_frames),
        **_packed("video", clip.video),
        **({} if clip.truth_labels is None else _packed("truth", clip.truth_labels)),
    }


def _packed(prefix: str, array: np.ndarray) -> dict[str, Any]:
    assert array.dtype == np.uint8, f"{prefix} is {array.dtype}, shards hold uint8"
    blob = pa.Codec(CODEC, compression_level=LEVEL).compress(np.ascontiguousarray(array), asbytes=True)
    return {
        f"{prefix}_shape": list(array.shape),
        f"{prefix}_dtype": "uint8",
        f"{prefix}_codec": CODEC,
        f"{prefix}_sha256": hashlib.sha256(blob).hexdigest(),
        f"{prefix}_blob": blob,
    }


def _clip(row: dict[str, Any], name: str) -> VideoClip:
    where = f"{name}: clip {row['clip_id']}"
    for key in _NEEDED:
        if row[key] is None or row[key] == [] or (isinstance(row[key], list) and None in row[key]):
            raise ClipError(f"{where} has no {key}")
    video = _unpacked(row, "video", where)
    if video is None:
        raise ClipError(f"{where} has no video")
    truth = _unpacked(row, "truth", where)
    _check_row(row, video, truth, where)
    return VideoClip(
        clip_id=row["clip_id"],
        index=row["index"],
        seed=row["seed"],
        epoch=row["epoch"],
        window_start=row["window_start"],
        video=video,
        fps=row["fps"],
        source=row["source"],
        domain=row["domain"],
        spacing_mm=row["spacing_mm"],
        conditions=Conditions(**{f.name: (row["conditions"] or {}).get(f.name) for f in fields(Conditions)}),
        sample_weight=row["sample_weight"],
        truth_labels=truth,
        class_names=tuple(row["class_names"]),
        ed_frames=None if row["ed_frames"] is None else tuple(row["ed_frames"]),
        es_frames=None if row["es_frames"] is None else tuple(row["es_frames"]),
    )


def _check_row(row: dict[str, Any], video: np.ndarray, truth: np.ndarray | None, where: str) -> None:
    """Refuse what would break a reader later. Raises `ClipError`."""
    spacing = row["spacing_mm"]
    for key, fits in (
        ("fps", 0 < row["fps"] < math.inf),
        ("sample_weight", 0 <= row["sample_weight"] < math.inf),
        ("spacing_mm", spacing is None or 0 < spacing < math.inf),
    ):
        if not fits:
            raise ClipError(f"{where}: its {key} is {row[key]}")
    for key in ("ed_frames", "es_frames"):
        if any(frame is None or not 0 <= frame < len(video) for frame in row[key] or ()):
            raise ClipError(f"{where}: its {key} are {row[key][:8]}, but it has {len(video)} frames")
    if truth is not None:
        if truth.shape != video.shape:
            raise ClipError(f"{where}: its truth is {list(truth.shape)} and its video {list(video.shape)}")
        known = np.isin(truth, [*range(len(row["class_names"])), TRUTH_UNKNOWN])
        if not known.all():
            raise ClipError(f"{where}: its truth holds {truth[~known][0]}, it has {len(row['class_names'])} classes")


def _unpacked(row: dict[str, Any], prefix: str, where: str) -> np.ndarray | None:
    blob = row[f"{prefix}_blob"]
    if blob is None:
        return None
    if hashlib.sha256(blob).hexdigest() != row[f"{prefix}_sha256"]:
        raise ClipError(f"{where}: the bytes of its {prefix} do not have the sha256 beside them; the file is damaged")
    shape, dtype, codec = (row[f"{prefix}_{key}"] for key in ("shape", "dtype", "codec"))
    sides = shape if shape and len(shape) == 3 and None not in shape else [0]
    if dtype != "uint8" or codec != CODEC or not all(0 < side for side in sides):
        raise ClipError(f"{where}: its {prefix} is {dtype} {shape} as {codec}, expected uint8 [T, H, W] as {CODEC}")
    size = math.prod(shape)
    try:
        if size > MAX_BYTES:
            raise OSError
        data = pa.Codec(CODEC).decompress(blob, decompressed_size=size, asbytes=True)
        return np.frombuffer(data, np.uint8).reshape(shape).copy()
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        raise ClipError(f"{where}: its {prefix} does not decompress to {shape} pixels; the file is damaged") from error
