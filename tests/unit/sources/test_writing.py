"""Stored clips: shards committed once, lists made from commits alone, tracings of the right frames."""

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest

from echodfkd.config.file import config_from_dict, load_config
from echodfkd.config.identity import config_hash
from echodfkd.core.errors import ClipError, ConfigError, InputError, RunError
from echodfkd.core.records import TRUTH_UNKNOWN, VideoClip
from echodfkd.sources.video.decode import decode_video
from echodfkd.sources.written.preview import animated_preview, preview_sheet
from echodfkd.sources.written.stored import merge_lists, open_folder, pending_shards, write_manifest
from echodfkd.sources.written.writing import Shard, Splits, file_name, plan_shards, traced_masks, write_shard
from echodfkd.storage.files import RunStorage
from tests.helpers.echonet import beating_clip
from tests.helpers.stored import check_folder, read_shard


class FewClips:
    """A fake source: small beating ellipses, some indices broken."""

    name = "few"
    num_cases = None

    def __init__(self, broken: tuple[int, ...] = (), brightness: int = 0) -> None:
        self.broken, self.brightness = broken, brightness

    def clip(self, index: int) -> VideoClip:
        if index in self.broken:
            raise ClipError(f"few-{index} is broken")
        clip = beating_clip(f"few-{index}", num_frames=12, size=24, period=8, ed_frame=1 + index % 3)
        return dataclasses.replace(clip, index=index, video=clip.video + np.uint8(self.brightness))

    case = clip


@pytest.fixture(params=["local", "object store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> RunStorage:
    root = str(tmp_path / "with space") if request.param == "local" else f"memory://{tmp_path.name}/clips"
    return RunStorage(root)


SHARDS = plan_shards(clips=10, shard_clips=4, first_index=100)


def write(storage: RunStorage, shards: list[Shard], layout: str, source: FewClips | None = None) -> None:
    for shard in shards:
        write_shard(storage, source or FewClips(), shard, layout=layout, splits=["TRAIN"] * shard.count)


def finish(storage: RunStorage, layout: str) -> dict:
    manifest = merge_lists(storage, SHARDS, layout=layout)
    write_manifest(storage, manifest)
    return manifest


def tree(storage: RunStorage) -> dict[str, bytes]:
    base = storage.path("")
    names = [str(name)[len(base) :] for name in storage.fs.find(base)]
    return {name: storage.fs.cat_file(base + name) for name in names}


def rows(storage: RunStorage, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(storage.read(name).decode())))


def test_shards_cover_every_index_once() -> None:
    assert [(s.number, s.first_index, s.count) for s in SHARDS] == [(0, 100, 4), (1, 104, 4), (2, 108, 2)]
    assert [i for s in SHARDS for i in s.indices] == list(range(100, 110))
    assert SHARDS[1].record == "shards/shard-000001.json"


def test_splits_hold_their_shares_and_follow_no_pattern() -> None:
    shares = {"TRAIN": 0.744, "VAL": 0.128, "TEST": 0.128}
    splits = Splits(clips=1000, seed=3, shares=shares)
    found = [splits[position] for position in range(1000)]
    assert {name: found.count(name) for name in shares} == {"TRAIN": 744, "VAL": 128, "TEST": 128}
    assert found == [Splits(clips=1000, seed=3, shares=shares)[position] for position in range(1000)]
    assert found != [Splits(clips=1000, seed=4, shares=shares)[position] for position in range(1000)]
    # A source that alternates between two parts: each split gets both, 64 +- 5 (hypergeometric sd) of 128.
    assert 40 < found[::2].count("TEST") < 88
    thirds = Splits(clips=10, seed=0, shares={"A": 1, "B": 1, "C": 1})
    counts = [[thirds[p] for p in range(10)].count(name) for name in "ABC"]
    assert sum(counts) == 10
    assert all(abs(count - 10 / 3) < 1 for count in counts)


@pytest.mark.parametrize("layout", ["echonet", "parquet"])
def test_any_order_and_any_repetition_give_the_same_bytes(storage: RunStorage, tmp_path: Path, layout: str) -> None:
    write(storage, SHARDS, layout)
    finish(storage, layout)
    other = RunStorage(str(tmp_path / "other"))
    write(other, [SHARDS[2], SHARDS[0], SHARDS[2]], layout)
    pending, _ = pending_shards(other, SHARDS, layout=layout)
    assert pending == [SHARDS[1]]
    write(other, pending, layout)
    finish(other, layout)
    assert tree(other) == tree(storage)
    assert check_folder(storage) == 10
    assert pending_shards(storage, SHARDS, layout=layout) == ([], 0)


def test_files_without_a_commit_record_are_in_no_list(storage: RunStorage) -> None:
    write(storage, SHARDS[:2], "echonet")
    storage.write("Videos/few-108.avi", b"half a file")
    manifest = finish(storage, "echonet")
    assert (manifest["clips"], manifest["complete"]) == (8, False)
    assert [row["FileName"] for row in rows(storage, "FileList.csv")] == [f"few-{i}" for i in range(100, 108)]
    assert {row["FileName"] for row in rows(storage, "VolumeTracings.csv")} == {f"few-{i}.avi" for i in range(100, 108)}
    assert storage.read_table("clips.parquet")["clip_id"].to_pylist() == [f"few-{i}" for i in range(100, 108)]
    write(storage, pending_shards(storage, SHARDS, layout="echonet")[0], "echonet")
    assert finish(storage, "echonet")["complete"]
    assert check_folder(storage) == 10


def test_a_damaged_file_is_found_and_written_again(storage: RunStorage) -> None:
    write(storage, SHARDS, "echonet")
    finish(storage, "echonet")
    whole = tree(storage)
    storage.write("Videos/few-105.avi", b"")
    with pytest.raises(AssertionError, match=r"Videos/few-105.avi"):
        check_folder(storage)
    storage.fs.rm(storage.path("Videos/few-109.avi"))
    pending, _ = pending_shards(storage, SHARDS, layout="echonet")
    assert pending == [SHARDS[1], SHARDS[2]]
    write(storage, pending, "echonet")
    assert tree(storage) == whole


def test_a_committed_shard_never_changes(storage: RunStorage) -> None:
    write(storage, SHARDS[:1], "parquet")
    with pytest.raises(RunError, match=r"shard-000000.json was committed with other clips than those made now"):
        write(storage, SHARDS[:1], "parquet", FewClips(brightness=1))


@pytest.mark.parametrize("layout", ["echonet", "parquet"])
def test_broken_clips_are_left_out_with_their_reason(storage: RunStorage, layout: str) -> None:
    write(storage, SHARDS, layout, FewClips(broken=(105, 108, 109)))
    manifest = finish(storage, layout)
    assert manifest["clips"] == check_folder(storage) == 7
    assert [row["index"] for row in manifest["quarantined"]] == [105, 108, 109]
    assert manifest["quarantined"][0]["reason"] == "few-105 is broken"
    assert 105 not in storage.read_table("clips.parquet")["index"].to_pylist()
    assert pending_shards(storage, SHARDS, layout=layout) == ([], 3)


def test_parquet_shards_hold_every_frame_of_truth(storage: RunStorage) -> None:
    write(storage, SHARDS, "parquet")
    read = [c for s in SHARDS for c in read_shard(storage.read(f"clips/{s.name}.parquet"))]
    for index, clip in enumerate(read, start=100):
        made = FewClips().clip(index)
        assert (clip.clip_id, clip.index, clip.conditions) == (made.clip_id, index, made.conditions)
        assert np.array_equal(clip.video, made.video)
        assert np.array_equal(clip.truth_labels, made.truth_labels)


def test_avi_files_decode_to_the_clips(storage: RunStorage) -> None:
    write(storage, SHARDS, "echonet")
    made = FewClips().clip(103)
    decoded = decode_video(storage.read("Videos/few-103.avi"), name="few-103.avi")
    assert decoded.fps == made.fps
    assert decoded.video.shape == made.video.shape
    assert np.abs(decoded.video.astype(int) - made.video).mean() < 3.0  # MJPEG's loss around a sharp wall


def test_tracings_are_of_ed_and_es_or_of_what_stands_in_for_them() -> None:
    clip = FewClips().clip(0)  # ED 1, ES 5, period 8: areas fall from frame 1 to 5 and rise to 9
    area = (clip.truth_labels == 1).sum((1, 2))
    assert list(traced_masks(clip)) == [1, 5]
    assert list(traced_masks(dataclasses.replace(clip, ed_frames=(5,), es_frames=(2, 7, 9)))) == [5, 7]
    assert list(traced_masks(dataclasses.replace(clip, ed_frames=(7,), es_frames=(2, 3)))) == [7, 2]
    bare = traced_masks(dataclasses.replace(clip, ed_frames=None, es_frames=()))
    assert [area[frame] for frame in bare] == [area.max(), area.min()]
    assert list(traced_masks(dataclasses.replace(clip, ed_frames=()))) == [int(area.argmax()), 5]
    labels = clip.truth_labels.copy()
    labels[1], labels[5] = TRUTH_UNKNOWN, 0  # unannotated, empty: others stand in
    largest, smallest = traced_masks(dataclasses.replace(clip, truth_labels=labels))
    assert (area[largest], area[smallest]) == (max(np.delete(area, [1, 5])), min(np.delete(area, [1, 5])))
    labels[2:] = 0
    assert traced_masks(dataclasses.replace(clip, truth_labels=labels)) == {}
    assert traced_masks(dataclasses.replace(clip, truth_labels=None)) == {}
    still = np.repeat(clip.truth_labels[:1], 12, axis=0)
    assert len(traced_masks(dataclasses.replace(clip, truth_labels=still, ed_frames=(), es_frames=()))) == 2


def test_names_that_echonets_loader_would_skip_are_refused() -> None:
    assert file_name("mix-phantom-s0-i1-e0-w0") == "mix-phantom-s0-i1-e0-w0"
    for name in ("a.b", "../a", "a/b", "", "-a"):
        with pytest.raises(InputError, match="cannot be the name of a file"):
            file_name(name)


def test_two_clips_of_one_id_are_refused(storage: RunStorage) -> None:
    class Same(FewClips):
        def clip(self, index: int) -> VideoClip:
            return super().clip(100)

    write(storage, SHARDS, "parquet", Same())
    with pytest.raises(InputError, match="the clip id 'few-100' comes twice"):
        merge_lists(storage, SHARDS, layout="parquet")


def test_a_folder_belongs_to_one_request(storage: RunStorage) -> None:
    request = {"seed": 1, "source": {"kind": "phantom", "shares": [1, 2]}}
    open_folder(storage.root, request, on_exists="resume")
    open_folder(storage.root, request, on_exists="resume")
    with pytest.raises(
        ConfigError, match=r"holds clips of another source.kind \(phantom, now recorded\); name another"
    ):
        open_folder(storage.root, {"seed": 1, "source": {"kind": "recorded", "shares": [1, 2]}}, on_exists="resume")
    with pytest.raises(ConfigError, match="holds clips already and on_exists is refuse"):
        open_folder(storage.root, request, on_exists="refuse")
    storage.fs.rm(storage.path("synthesis.json"))
    storage.write("thesis.txt", b"mine")
    with pytest.raises(ConfigError, match="is not empty and holds no clips of this job"):
        open_folder(storage.root, request, on_exists="resume")


def test_previews_show_every_clip() -> None:
    from PIL import Image

    clips = [FewClips().clip(index) for index in range(7)]
    clips[3] = dataclasses.replace(clips[3], truth_labels=None, ed_frames=None)
    picture = np.asarray(Image.open(io.BytesIO(preview_sheet(clips))))
    tile = 24 * 6  # the largest multiple of 24 up to 160
    assert picture.shape == (2 * (tile + 14), 4 * tile, 3)  # 7 tiles: 4 columns, 2 rows
    coloured = (picture[..., 0] != picture[..., 2]).reshape(2, tile + 14, 4, tile).any((1, 3)).ravel()
    assert coloured.tolist() == [True, True, True, False, True, True, True, False]
    video = decode_video(animated_preview(clips), name="preview.mp4")
    assert (len(video.video), video.fps) == (12, 50.0)
    assert animated_preview(clips) == animated_preview(clips)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("synthesize.format=dicom", "synthesize.format: got 'dicom', allowed are echonet, parquet"),
        ("synthesize.clips=0", "synthesize.clips: got 0, must be at least 1"),
        ("synthesize.num_cpus=0", "synthesize.num_cpus: got 0.0, must be at least 0.01"),
        ("synthesize.split=train", "synthesize.split: got 'train', expected capital letters"),
        ("synthesize.split_shares={TRAIN: 1, ALL: 1}", "synthesize.split: got 'ALL'"),
        ("synthesize.split_shares={TRAIN: 1, VAL: 0}", "synthesize.split_shares.VAL: got 0.0, must be above 0"),
        ("synthesize.shard=3", "synthesize.shard: unknown option"),
    ],
)
def test_options_that_cannot_work_are_named(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["synthesize.out=clips", override])
    assert words in str(caught.value)


def test_a_record_is_plain_json(storage: RunStorage) -> None:
    write(storage, SHARDS[:1], "echonet")
    record = json.loads(storage.read("shards/shard-000000.json"))
    assert (record["first_index"], record["indices"], len(record["clips"])) == (100, 4, 4)
    assert len(record["tracings"]) == 4 * 2 * 21
    data = storage.read("Videos/few-100.avi")
    assert record["files"]["Videos/few-100.avi"]["size"] == len(data)


def test_what_is_written_to_a_folder_does_not_change_a_run() -> None:
    student = "students.a.blocks=1"
    config = load_config(None, [student, "synthesize.split_shares={TRAIN: 1}"])
    assert config_hash(config) == config_hash(load_config(None, [student]))
    assert config_from_dict(dataclasses.asdict(config)) == config
    assert not load_config(None, ["synthesize.out=clips"]).students
