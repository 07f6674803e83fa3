"""Read tensors from a file of ``torch.save`` without running anything in it.

Such a file is a zip archive: ``NAME/data.pkl`` is a pickle that describes the saved object, ``NAME/data/0`` and so on
are the bytes of its storages. The pickle is not loaded but followed (`pickle_records`), and only the tensors asked for
are made, each checked against the bytes that are there.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Sequence

import torch

from echodfkd.core.errors import InputError
from echodfkd.models.archives.pickle_records import TensorRecord, follow_pickle

MAX_PICKLE_BYTES = 2 << 20
"""Largest description that is read; those of the students' checkpoints have some ten thousand bytes."""
MAX_DIMENSIONS = 8

_DTYPES = {
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
}

_DAMAGED = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
)
"""Raised by the standard library and torch for damaged bytes."""


def read_state_dict(data: bytes, *, name: str, entries: Sequence[str] = ("state_dict",)) -> dict[str, torch.Tensor]:
    """The tensors of one dictionary in a file of ``torch.save``, by name.

    Args:
        data: the whole file.
        name: the file's name, for the error's sentence.
        entries: keys of the dictionary in the saved object, itself a dictionary: the first that is there; "" stands
            for the saved object itself.

    Raises:
        InputError: not such a file, damaged, or one that promises more than it holds; which, in one sentence.
    """
    if not data.startswith(b"PK"):
        raise InputError(
            f"{name} is no zip archive: checkpoints written before torch 1.6 or by other programs are not read;"
            " save it again with a current torch"
        )
    try:
        archive = _Archive(data, name)
        saved = follow_pickle(archive.pickle)
        known = {"": saved, **saved} if isinstance(saved, dict) else {}
        found = next((known[key] for key in entries if isinstance(known.get(key), dict)), None)
        if found is None:
            raise InputError(f"{name} holds no dictionary {entries[0]!r}: it is not a training checkpoint")
        return {key: archive.tensor(key, value) for key, value in found.items()}
    except InputError:
        raise
    except _DAMAGED as error:
        reason = str(error).splitlines() or [type(error).__name__]
        raise InputError(f"{name} cannot be read as a checkpoint: {reason[0][:160]}") from error


class _Archive:
    """The zip archive: only stored entries, each once, and together no more than the file's own bytes."""

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self.zip = zipfile.ZipFile(io.BytesIO(data))
        entries = self.zip.infolist()
        names = [entry.filename for entry in entries]
        if len(set(names)) != len(names):
            raise InputError(f"{name} has two entries of the same name: it is damaged or was made to mislead")
        packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise InputError(f"{name}: the entry {packed[0]} is compressed, which torch never does")
        total = sum(entry.file_size for entry in entries)
        if total > len(data):
            raise InputError(f"{name}: its entries claim {total} bytes, the whole file has {len(data)}")
        roots = [entry.removesuffix("data.pkl") for entry in names if entry.endswith("/data.pkl")]
        if len(roots) != 1 or roots[0].count("/") != 1:
            raise InputError(f"{name} is a zip archive, but none that torch.save wrote: it has {len(roots)} data.pkl")
        self.root = roots[0]
        self.sizes = {entry.filename: entry.file_size for entry in entries}
        self.values_left = len(data)  # tensors may share a storage, but not so as to outgrow the file
        self.storages: dict[str, torch.Tensor] = {}
        order = self.zip.read(f"{self.root}byteorder") if f"{self.root}byteorder" in self.sizes else b"little"
        if order != b"little":
            raise InputError(f"{name} was written on a machine of another byte order ({order[:16]!r})")

    @property
    def pickle(self) -> bytes:
        """The description."""
        size = self.sizes[f"{self.root}data.pkl"]
        if size > MAX_PICKLE_BYTES:
            raise InputError(f"{self.name}: its description has {size} bytes, at most {MAX_PICKLE_BYTES} are read")
        return self.zip.read(f"{self.root}data.pkl")

    def tensor(self, key: object, record: object) -> torch.Tensor:
        """A tensor of its own out of a record; its size is bounded by that of its storage."""
        if not isinstance(key, str) or not key.isprintable():
            raise InputError(f"{self.name}: a key of its tensors is not a name")
        where = f"{self.name}: {key[:80]}"
        if not isinstance(record, TensorRecord) or len(record.size) > MAX_DIMENSIONS:
            raise InputError(f"{where} is not a plain tensor")
        storage = record.storage
        if storage.kind not in _DTYPES:
            raise InputError(f"{where} is of {storage.kind.replace(' ', '.')}, expected one of floats or integers")
        dtype, entry = _DTYPES[storage.kind], f"{self.root}data/{storage.key}"
        if self.sizes.get(entry) != storage.numel * dtype.itemsize:
            raise InputError(
                f"{where} needs {storage.numel * dtype.itemsize} bytes at {entry}, found {self.sizes.get(entry)}"
            )
        count, last = 1, record.offset
        for side, step in zip(record.size, record.stride, strict=True):
            count *= side
            last += (side - 1) * step
        whole = min((*record.size, *record.stride, record.offset), default=0) >= 0
        if not whole or count > storage.numel or (count and last >= storage.numel):
            raise InputError(f"{where} of shape {record.size} reaches outside its {storage.numel} stored values")
        self.values_left -= count
        if self.values_left < 0:
            raise InputError(f"{self.name}: its tensors claim more values than the whole file has bytes")
        if not count:
            return torch.empty(record.size, dtype=dtype)
        if entry not in self.storages:
            self.storages[entry] = torch.frombuffer(bytearray(self.zip.read(entry)), dtype=dtype)
        return self.storages[entry].view(dtype).as_strided(record.size, record.stride, record.offset).clone()
