"""Recorded masks and stored references: how they are spoiled and what must hold then."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from echodfkd.core.errors import ClipError
from echodfkd.models.teachers.protocol import ClipKey
from echodfkd.teaching.mask_files import StoredMask, decode_npz, encode_masks
from echodfkd.teaching.recorded import RecordedMasks
from echodfkd.teaching.reference import check_reference, encode_reference
from tests.fuzz.mutate import damage_bytes, damage_parquet, patch_after
from tests.helpers.teachers import FloatTeacher, masks_of

LEVELS = np.random.default_rng(0).integers(0, 256, (5, 1, 16, 16), dtype=np.uint8)


class SegNpz:
    """The authors' archives: the zip, the array inside of it, its header, bombs, objects, other names."""

    name = "seg_npz"
    ENDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    HEADERS = (
        b"'shape': (5, 1, 16, 16)", b"'shape': (99999999999, 9)", b"'shape': (-5, 1, 16, 16)", b"'shape': ()",
        b"'descr': '|O'", b"'descr': '<f8'", b"'descr': [('a', '|u1')]", b"'fortran_order': True",
        b"'shape': (1e3, 1, 1)", b"__import__('os').system('x')", b"'descr': '|V8'", b"(" * 300,
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self.good = []
        for array in (LEVELS, LEVELS[:, 0], np.asfortranarray(LEVELS), np.array([{"a": 1}], dtype=object)):
            sink = io.BytesIO()
            np.save(sink, array)
            self.good.append(sink.getvalue())

    def run(self, rng: random.Random) -> None:
        content = rng.choice(self.good)
        kind = rng.random()
        if kind < 0.3:
            content = damage_bytes(rng, content)
        elif kind < 0.5:
            at = content.index(rng.choice((b"'descr'", b"'shape'", b"'fortran_order'")))
            header = rng.choice(self.HEADERS)
            content = content[:at] + header + content[at + len(header) :]
        elif kind < 0.6:
            content = content + bytes(rng.choice((1, 1 << 16, 1 << 22)))
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", rng.choice(self.ENDS)) as archive:
            for name in rng.choice(
                (["arr_0.npy"], ["arr_0.npy"], ["output.npy"], ["../x.npy"], ["a.npy", "b.npy"], [])
            ):
                archive.writestr(name, content)
        data = sink.getvalue()
        if rng.random() < 0.4:
            data = rng.choice((damage_bytes(rng, data), patch_after(rng, data, [b"PK"], reach=40)))
        mask = decode_npz(data, "a.seg.npz")
        assert mask.dtype == np.uint8
        assert mask.ndim == 3
        assert mask.size > 0


class MaskRows:
    """Our Parquet rows behind a teacher: a clip has a mask of its own shape, or a reason."""

    name = "mask_rows"

    def __init__(self, folder: Path) -> None:
        self.root = folder
        folder.mkdir()
        self.good = encode_masks([StoredMask(f"c{i}", "t", ("LV",), LEVELS) for i in range(3)])

    def run(self, rng: random.Random) -> None:
        (self.root / "part.parquet").write_bytes(damage_parquet(rng, self.good, more=_damage_row))
        names = {"source_classes": ("LV",), "class_names": ("background", "LV")}
        teacher = RecordedMasks(str(self.root), channels=(0,), place=None, **names)
        prob, faults = masks_of(teacher, np.zeros((3, 5, 16, 16), np.uint8), [ClipKey(f"c{i}", i, 0) for i in range(3)])
        assert prob.shape == (3, 5, 1, 16, 16)
        assert ((prob >= 0) & (prob <= 1)).all()
        if faults:
            raise ClipError(next(iter(faults.values())))


class Reference:
    """A reference file, whose header is where all structure is."""

    name = "reference"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.path = folder / "r.safetensors"
        self.good = encode_reference(LEVELS[:, 0], LEVELS.astype(np.float32) / 255, ("LV",))

    def run(self, rng: random.Random) -> None:
        size = 8 + int.from_bytes(self.good[:8], "little")
        spoiled = damage_bytes(rng, self.good[:size]) + self.good[size:]
        self.path.write_bytes(spoiled if rng.random() < 0.8 else damage_bytes(rng, self.good))
        check_reference(_Echo(), str(self.path), tolerance=0.01)


class _Echo(FloatTeacher):
    teacher_id, class_names = "echo", ("background", "LV")

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        return video_NTHW.astype(np.float32) / 255


def _damage_row(rng: random.Random, table: pa.Table) -> pa.Table:
    """Another blob, shape or name, with a hash that fits."""
    blob = rng.choice((b"", rng.randbytes(80), pa.Codec("zstd").compress(bytes(1 << 22), asbytes=True)))
    new = {"blob": blob, "sha256": hashlib.sha256(blob).hexdigest()} if rng.random() < 0.6 else {}
    if rng.random() < 0.6:
        new["shape"] = rng.choice(([5, 1, 16, 16], [1 << 40] * 4, [0, 1, 16, 16], [-5, 1, 16, -16], [5, 16, 16], []))
    if rng.random() < 0.2:
        new["classes"] = rng.choice(([], ["LV", "RV"], ["x" * 9000], [None]))
    for key, value in new.items():
        if table.column_names.count(key) == 1:
            place = table.column_names.index(key)
            field = table.schema.field(place)
            try:
                table = table.set_column(place, field, pa.array([value] * table.num_rows, field.type))
            except (pa.ArrowException, TypeError):  # the column has another type by now
                continue
    return table
