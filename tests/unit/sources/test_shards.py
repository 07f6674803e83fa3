"""Parquet shards: another reader gets back the clips that were written."""

import dataclasses
import io
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from echodfkd.core.records import VideoClip
from echodfkd.sources.written.shards import encode_shard
from tests.helpers.echonet import beating_clip
from tests.helpers.stored import read_shard


def clips(number: int = 3) -> list[VideoClip]:
    return [beating_clip(f"c{i}", num_frames=10 + i, size=24, period=8, ed_frame=1) for i in range(number)]


def same(a: VideoClip, b: VideoClip) -> bool:
    plain = [f.name for f in dataclasses.fields(VideoClip) if not isinstance(getattr(a, f.name), np.ndarray)]
    arrays = [(a.video, b.video), (a.truth_labels, b.truth_labels)]
    return all(getattr(a, name) == getattr(b, name) for name in plain) and all(
        np.array_equal(x, y) for x, y in arrays if x is not None
    )


def test_clips_come_back_as_they_were() -> None:
    bare = dataclasses.replace(clips()[0], truth_labels=None, ed_frames=None, es_frames=(), clip_id="bare")
    given = [*clips(9), bare]
    read = read_shard(encode_shard(given, ["TRAIN"] * 10))
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
