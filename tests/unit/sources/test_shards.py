"""Parquet shards: what goes in comes out, other readers can read them, damage is a sentence."""

import dataclasses
import io
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.records import VideoClip
from echodfkd.sources.written.shards import SHARD_SCHEMA, encode_shard, read_shard
from tests.helpers.echonet import beating_clip


def clips(number: int = 3) -> list[VideoClip]:
    return [beating_clip(f"c{i}", num_frames=10 + i, size=24, period=8, ed_frame=1) for i in range(number)]


def same(a: VideoClip, b: VideoClip) -> bool:
    plain = [f.name for f in dataclasses.fields(VideoClip) if not isinstance(getattr(a, f.name), np.ndarray)]
    arrays = [(a.video, b.video), (a.truth_labels, b.truth_labels)]
    return all(getattr(a, name) == getattr(b, name) for name in plain) and all(
        np.array_equal(x, y) for x, y in arrays if x is not None
    )


def changed(data: bytes, **columns: object) -> bytes:
    """The shard with one value of its first row replaced, per column."""
    rows = pq.read_table(io.BytesIO(data)).to_pylist()
    rows[0].update(columns)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SHARD_SCHEMA), sink)
    return sink.getvalue()


def test_clips_come_back_as_they_were() -> None:
    bare = dataclasses.replace(clips()[0], truth_labels=None, ed_frames=None, es_frames=(), clip_id="bare")
    given = [*clips(9), bare]
    read = list(read_shard(encode_shard(given, ["TRAIN"] * 10), name="s"))
    assert len(read) == 10
    assert all(same(a, b) for a, b in zip(given, read, strict=True))
    assert read[9].truth_labels is None
    assert read[0].video.dtype == np.uint8


def test_the_same_clips_give_the_same_bytes() -> None:
    assert encode_shard(clips(), ["A"] * 3) == encode_shard(clips(), ["A"] * 3)


def test_pixels_are_plain_zstd_that_any_parquet_reader_gets_at() -> None:
    given = clips()
    table = pq.read_table(io.BytesIO(encode_shard(given, ["TRAIN", "VAL", "TEST"])))
    assert table.schema.field("video_blob").type == pa.binary()
    assert table["split"].to_pylist() == ["TRAIN", "VAL", "TEST"]
    for clip, row in zip(given, table.to_pylist(), strict=True):
        reader = pa.CompressedInputStream(pa.BufferReader(row["video_blob"]), "zstd")
        pixels = np.frombuffer(reader.read(), row["video_dtype"]).reshape(row["video_shape"])
        assert np.array_equal(pixels, clip.video)
        assert len(pixels.tobytes()) == math.prod(row["video_shape"])
        assert row["conditions"]["ef_percent"] == clip.conditions.ef_percent


def test_damage_is_a_sentence_that_names_the_clip() -> None:
    data = encode_shard(clips(), ["TRAIN"] * 3)
    blob = bytearray(pq.read_table(io.BytesIO(data))["truth_blob"][0].as_py())
    blob[len(blob) // 2] ^= 1
    for columns, words in [
        ({"truth_blob": bytes(blob)}, "part.parquet: clip c0: the bytes of its truth do not have the sha256"),
        ({"video_shape": [10, 24, 25]}, r"clip c0: its video does not decompress to \[10, 24, 25\]"),
        ({"video_shape": [10, 24, 1 << 60]}, "does not decompress to"),
        ({"video_shape": [10, -24, -24]}, r"expected uint8 \[T, H, W\] as zstd"),
        ({"video_codec": "pickle"}, "as pickle, expected uint8"),
        ({"video_blob": None}, "clip c0 has no video"),
    ]:
        with pytest.raises(ClipError, match=words):
            list(read_shard(changed(data, **columns), name="part.parquet"))


def test_other_files_are_refused() -> None:
    with pytest.raises(InputError, match=r"x.parquet is not a readable Parquet file \(5 bytes\)"):
        list(read_shard(b"hello", name="x.parquet"))
    sink = io.BytesIO()
    pq.write_table(pa.table({"clip_id": ["a"]}), sink)
    with pytest.raises(InputError, match="lacks the columns index, seed"):
        list(read_shard(sink.getvalue(), name="x.parquet"))
