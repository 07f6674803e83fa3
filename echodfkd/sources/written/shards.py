"""Encode clips with the truth of every frame as Parquet files: a row per clip, pixels as compressed bytes.

Legend: T frames, H rows, W columns.

Pixels are a binary column of zstd blobs beside their shape, dtype, codec and sha256, never a tensor column: Parquet
has no 8-bit type and stores each pixel of a tensor as a 32-bit number, which was ten times slower to read. Any
Parquet reader can decode them::

    row = pyarrow.parquet.read_table("shard-000000.parquet").to_pylist()[0]
    data = pyarrow.Codec("zstd").decompress(row["video_blob"], decompressed_size=math.prod(row["video_shape"]))
    video = numpy.frombuffer(data, row["video_dtype"]).reshape(row["video_shape"])
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from echodfkd.core.records import Conditions, VideoClip

CODEC = "zstd"
LEVEL = 3
"""Of the levels tried on echo masks and videos, higher ones cost more time than the space they save is worth."""

ROWS_PER_GROUP = 8
"""A reader that wants one clip reads a row group: 8 clips of 64 frames at 112 pixels are about 8 MB."""

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
"""`records.VideoClip`, with ``split``. ``video`` and ``truth`` (label map, null if there is none) are uint8
(T, H, W); their sha256 is that of the blob as it is stored, so that a damaged one is not decompressed."""


def encode_shard(clips: Sequence[VideoClip], splits: Sequence[str]) -> bytes:
    """One Parquet file of these clips; the same clips give the same bytes."""
    rows = [_row(clip, split) for clip, split in zip(clips, splits, strict=True)]
    sink = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=SHARD_SCHEMA)
    pq.write_table(table, sink, compression="none", use_dictionary=False, row_group_size=ROWS_PER_GROUP)
    return sink.getvalue()


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
