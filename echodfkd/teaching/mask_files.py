"""Soft masks as files: our Parquet rows, and the authors' ``.seg.npz``. Both are read without trust.

Legend: T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from echodfkd.core.errors import ClipError
from echodfkd.core.mask_codes import MASK_CODES
from echodfkd.sources.written.shards import CODEC, LEVEL, ROWS_PER_GROUP
from echodfkd.storage.parquet import PARQUET_ERRORS, open_parquet

MASK_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("teacher_id", pa.string()),
        ("classes", pa.list_(pa.string())),
        ("video_sha256", pa.string()),
        ("shape", pa.list_(pa.int64())),
        ("dtype", pa.string()),
        ("codec", pa.string()),
        ("sha256", pa.string()),
        ("blob", pa.binary()),
    ]
)
"""One row per clip: `StoredMask`. ``blob`` is the compressed array; ``sha256`` is that of the blob as stored."""
TIME_LAST = "zstd of (C, H, W, T)"
"""The codec that is written: with a pixel's levels of all frames side by side, zstd takes a fifth fewer bytes. Plain
``zstd`` of (T, C, H, W) is read too."""

NPZ_KEYS = ("arr_0", "output")
"""Names of the one array in a ``.seg.npz``: the authors' scripts write the first, their loader takes both."""
MAX_NPY_HEADER = 10_000

MAX_BYTES = 1 << 28
"""Largest mask array or file that is read, so that a damaged file cannot have more allocated."""
MAX_BLOB_BYTES = 1 << 30
"""Largest row group that is read; ours have some 8 MB."""
MAX_GROUP_ROWS = 1 << 16
MAX_CLASS = 15
"""Largest level that is taken for the number of a class: no frame of honest masks is that sure of its background."""
_DTYPES = tuple(dtype.name for dtype in MASK_CODES.values())
_CODECS = (CODEC, TIME_LAST)

_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, *PARQUET_ERRORS)
"""Raised by the standard library for damaged bytes."""

_NPY_ENTRY = re.compile(r"\x93NUMPY[\x01\x02\x03]\x00", re.DOTALL)
_NPY_HEADER = re.compile(
    r"\{\s*'descr':\s*'([^']{1,20})',\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(([0-9, ]{0,100})\),?\s*\}\s*"
)
"""A header that numpy writes for an array of plain numbers. Anything else (records, objects) is refused unread."""


@dataclass(frozen=True)
class StoredMask:
    """The mask of one clip: ``levels`` (T, C, H, W), uint8 or int8 codes of `mask_codes`.

    ``video_sha256`` is that of the pixels it was made from, or "".

    Example: ``StoredMask("phantom-s0-i17-e0-w0", "embedded-1a2b3c4d", ("LV",), np.zeros((16, 1, 56, 56), np.uint8))``.
    """

    clip_id: str
    teacher_id: str
    classes: tuple[str, ...]
    levels: np.ndarray
    video_sha256: str = ""


def encode_masks(masks: Sequence[StoredMask]) -> bytes:
    """One Parquet file of these masks; equal masks give equal bytes."""
    sink = io.BytesIO()
    table = pa.Table.from_pylist([_row(mask) for mask in masks], schema=MASK_SCHEMA)
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}  # else blobs are there 3 times
    plain["store_schema"] = False  # `MASK_SCHEMA` says the same
    pq.write_table(table, sink, row_group_size=ROWS_PER_GROUP, **plain)
    return sink.getvalue()


def decode_masks(data: bytes, name: str) -> list[StoredMask]:
    """All masks of one small Parquet file.

    Raises:
        ClipError: it is no file of masks, or one of its rows is at fault.
    """
    try:
        file = open_parquet(data)
        check_mask_file(file, name)
        rows = [row for group in range(file.metadata.num_row_groups) for row in read_mask_rows(file, group)]
    except ClipError:
        raise
    except PARQUET_ERRORS as error:
        raise ClipError(f"{name} is no readable Parquet file ({len(data)} bytes): {error}") from error
    return [decode_mask(row, name) for row in rows]


def check_mask_file(file: pq.ParquetFile, name: str) -> None:
    """Raise `ClipError` if a Parquet file has other columns than `MASK_SCHEMA` or a row group of undue size."""
    found = file.schema_arrow
    for field in MASK_SCHEMA:
        if found.names.count(field.name) != 1 or found.field(field.name).type != field.type:
            raise ClipError(f"{name} is no file of masks: its {field.name} is not one {field.type}")
    for group in range(file.metadata.num_row_groups):
        about = file.metadata.row_group(group)
        if about.total_byte_size > MAX_BLOB_BYTES or about.num_rows > MAX_GROUP_ROWS:
            raise ClipError(f"{name} has a row group of more than {MAX_BLOB_BYTES} bytes or {MAX_GROUP_ROWS} rows")


def read_mask_rows(
    file: pq.ParquetFile, group: int, columns: Sequence[str] = MASK_SCHEMA.names
) -> list[dict[str, Any]]:
    """The rows of one row group. Raises one of `PARQUET_ERRORS`."""
    table = file.read_row_group(group, columns=list(columns), use_threads=False)
    table.validate(full=True)
    return table.to_pylist()


def decode_mask(row: Mapping[str, Any], where: str) -> StoredMask:
    """A row of `MASK_SCHEMA` as it was read.

    Raises:
        ClipError: it lacks something, or its bytes are not those that were written.
    """
    blob, shape, classes = row["blob"], row["shape"] or [], row["classes"] or []
    if row["clip_id"] is None or blob is None or not classes or None in classes:
        raise ClipError(f"{where} lacks its clip_id, its classes or its blob")
    if hashlib.sha256(blob).hexdigest() != row["sha256"]:
        raise ClipError(f"{where}: the bytes of its mask do not have the sha256 beside them; the file is damaged")
    fits = len(shape) == 4 and all(side is not None and side > 0 for side in shape) and shape[1] == len(classes)
    if not fits or row["dtype"] not in _DTYPES or row["codec"] not in _CODECS or math.prod(shape) > MAX_BYTES:
        raise ClipError(
            f"{where}: its mask is {row['dtype']} {shape} as {row['codec']} for {len(classes)} classes, expected"
            f" {' or '.join(_DTYPES)} [T, C, H, W] as {' or '.join(_CODECS)}, of at most {MAX_BYTES} bytes"
        )
    try:
        data = pa.Codec(CODEC).decompress(blob, decompressed_size=math.prod(shape), asbytes=True)
        flat = np.frombuffer(data, row["dtype"])
        if row["codec"] == TIME_LAST:
            levels = np.ascontiguousarray(np.moveaxis(flat.reshape(*shape[1:], shape[0]), -1, 0))
        else:
            levels = flat.reshape(shape)
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        raise ClipError(f"{where}: its mask does not decompress to {shape}; the file is damaged") from error
    known = str(row["clip_id"]), str(row["teacher_id"] or ""), tuple(map(str, classes))
    return StoredMask(*known, levels, str(row["video_sha256"] or ""))


def check_levels(levels: np.ndarray, name: str) -> None:
    """Refuse levels that are classes and no probabilities: 0 and 1, or a label map. All zeros are a mask of nothing.

    Raises:
        ClipError: the largest uint8 level is 1 .. `MAX_CLASS`, or all int8 levels are 0 .. `MAX_CLASS`.
    """
    low, high = int(levels.min()), int(levels.max())
    if high <= MAX_CLASS and low >= 0 and (high > 0 or levels.dtype == np.int8):
        code = "255 times the probability" if levels.dtype == np.uint8 else "16 times the logit, -127 .. 127"
        raise ClipError(
            f"{name} holds levels of {low} to {high} in all, which are classes (a mask of 0 and 1, a label map);"
            f" expected {code}"
        )


def check_shape(shape_THW: tuple[int, ...], wanted_THW: tuple[int, ...], name: str) -> None:
    """Refuse stored masks of another number of frames than their video or clip, or of another ratio of sides.

    Raises:
        ClipError: they differ, the ratio by more than a pixel's rounding.
    """
    (T, H, W), (frames, rows, columns) = shape_THW, wanted_THW
    if frames != T or abs(H * columns - W * rows) > max(H, W, rows, columns):
        raise ClipError(
            f"{name} holds {T} frames of {H} x {W}, expected {frames} of {rows} x {columns} (frames, height, width), or"
            " of another size with the same ratio"
        )


def decode_npz(data: bytes, name: str) -> np.ndarray:
    """The mask in a ``.seg.npz`` of the authors, uint8 (T, H, W), 0..255.

    They wrote ``(T, H, W)`` and, from another script, ``(T, 1, H, W)``; both are read. The header is matched, not
    evaluated, and nothing is unpickled: the equivalent of ``allow_pickle=False``, with the size that it promises
    bounded before it is allocated.

    Args:
        data: the file.
        name: its name, for errors.

    Raises:
        ClipError: it is no such archive, holds something else than one uint8 array of such a shape, or is damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if len(names) != 1 or names[0] not in [f"{key}.npy" for key in NPZ_KEYS]:
                raise ClipError(f"{name} holds {len(names)} entries, expected one array, {' or '.join(NPZ_KEYS)}")
            with archive.open(names[0]) as entry:
                return _read_array(entry, name)
    except ClipError:
        raise
    except _DAMAGED as error:
        raise ClipError(f"{name} is no readable .npz archive ({len(data)} bytes): {error}") from error


def _read_array(entry: Any, name: str) -> np.ndarray:
    magic = entry.read(8)
    if not _NPY_ENTRY.fullmatch(magic.decode("latin-1")):
        raise ClipError(f"{name} holds something else than a numpy array")
    length = int.from_bytes(entry.read(2 if magic[6] == 1 else 4), "little")
    if length > MAX_NPY_HEADER:
        raise ClipError(f"{name}: its array has a header of {length} bytes, at most {MAX_NPY_HEADER} are read")
    header = _NPY_HEADER.fullmatch(entry.read(length).decode("latin-1"))
    if header is None or header[1] != "|u1":
        what = header[1] if header else "no plain numbers"
        raise ClipError(
            f"{name} holds an array of {what!r}, expected uint8 ('|u1'), 255 times the probability; objects are never"
            " unpickled"
        )
    shape = [int(side) for side in header[3].split(",") if side.strip()]
    if len(shape) == 4 and shape[1] == 1:
        shape = [shape[0], *shape[2:]]
    size = math.prod(shape)
    if len(shape) != 3 or not 0 < size <= MAX_BYTES:
        raise ClipError(f"{name} has the shape ({header[3]}), expected (T, H, W) or (T, 1, H, W), at most {MAX_BYTES}")
    pixels = entry.read(size + 1)
    if len(pixels) != size:
        raise ClipError(f"{name} holds {'more' if len(pixels) > size else len(pixels)} bytes, its shape needs {size}")
    array = np.frombuffer(pixels, np.uint8)
    return array.reshape(shape, order="F" if header[2] == "True" else "C")


def _row(mask: StoredMask) -> dict[str, Any]:
    assert mask.levels.dtype.name in _DTYPES, f"masks are stored as uint8 or int8, got {mask.levels.dtype}"
    assert mask.levels.ndim == 4, f"masks are stored as (T, C, H, W), got {mask.levels.shape}"
    time_last = np.ascontiguousarray(np.moveaxis(mask.levels, 0, -1))
    blob = pa.Codec(CODEC, compression_level=LEVEL).compress(time_last, asbytes=True)
    return {
        "clip_id": mask.clip_id,
        "teacher_id": mask.teacher_id,
        "classes": list(mask.classes),
        "video_sha256": mask.video_sha256 or None,
        "shape": list(mask.levels.shape),
        "dtype": mask.levels.dtype.name,
        "codec": TIME_LAST,
        "sha256": hashlib.sha256(blob).hexdigest(),
        "blob": blob,
    }
