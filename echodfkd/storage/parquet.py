"""Open Parquet files that others may have written: the one place that does.

Arrow keeps a file's own types in the footer's entry ``ARROW:schema``. A type in it may be an extension type, whose
code runs if the process has registered it, and `import ray.data` registers some: the values of
``ray.data.arrow_pickled_object`` are unpickled by ``to_pylist``, and a tensor type of earlier versions of Ray (or of
this one, with RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA set) is unpickled as soon as a file is opened. So the
entry is renamed in the footer before Arrow sees it, and a file that has such a type is refused.
"""

from __future__ import annotations

import base64
import io
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError, KeyError, IndexError, OverflowError, MemoryError)
"""Raised by `open_parquet`, and by pyarrow as it reads on, for a file that is no valid Parquet file of plain columns.
(`InputError` and `ClipError` are ValueErrors: catch them first.)"""

MAX_FOOTER_BYTES = 1 << 24
"""Longest footer that is read; ours have a few kB."""

MAX_ROWS = 20_000_000
"""Most rows of one file: a few bytes can promise any number."""

_OWN_TYPES, _IGNORED = b"ARROW:schema", b"-----:schema"
_EXTENSION = b"ARROW:extension:name"
_MAGIC = b"PAR1"


def open_parquet(source: bytes | BinaryIO) -> pq.ParquetFile:
    """A Parquet file whose columns are plain, whatever types the process has registered.

    Args:
        source: the file's bytes, or a file that can seek.

    Raises:
        ValueError: a column is of an extension type, it promises too many rows, or it is no Parquet file.
        Exception: another one of `PARQUET_ERRORS`.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    footer = _read_footer(file).replace(_OWN_TYPES, _IGNORED)
    ending = len(footer).to_bytes(4, "little") + _MAGIC
    metadata = pq.ParquetFile(io.BytesIO(_MAGIC + footer + ending), arrow_extensions_enabled=False).metadata
    if metadata.num_rows > MAX_ROWS:
        raise ValueError(f"it promises {metadata.num_rows} rows, at most {MAX_ROWS} are allowed")
    if _EXTENSION in base64.b64decode((metadata.metadata or {}).get(_IGNORED, b"")):
        raise ValueError(
            "it has a column of an Arrow extension type, whose own code would read it; write plain columns"
        )
    opened = pq.ParquetFile(file, metadata=metadata, arrow_extensions_enabled=False)
    for field in opened.schema_arrow:
        _check_plain(field.type)
    return opened


def _read_footer(file: BinaryIO) -> bytes:
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 8))
    ending = file.read(8)
    length = int.from_bytes(ending[:4], "little")
    if len(ending) < 8 or ending[4:] != _MAGIC or length > size - 12:
        raise ValueError("it does not end as a Parquet file does")
    if length > MAX_FOOTER_BYTES:
        raise ValueError(f"its footer has {length} bytes, at most {MAX_FOOTER_BYTES} are read")
    file.seek(size - 8 - length)
    return file.read(length)


def _check_plain(kind: pa.DataType) -> None:
    """Refuse extension types, nested ones too: Parquet has types of its own that Arrow turns into some."""
    if isinstance(kind, pa.BaseExtensionType):
        raise ValueError(f"it has a column of the Arrow extension type {kind.extension_name}; write plain columns")
    for place in range(kind.num_fields):
        _check_plain(kind.field(place).type)
