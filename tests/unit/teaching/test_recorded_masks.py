"""Masks that were made before: our Parquet rows and the authors' archives, found by clip, cut as the clip was."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.evaluate import EvaluateConfig
from echodfkd.core.errors import ClipError, InputError, RunError
from echodfkd.evaluation.predictions import predict_teacher
from echodfkd.evaluation.scored_models import stored_masks
from echodfkd.models.teachers.protocol import ClipKey
from echodfkd.runtime.stream.builders import evaluation_source, load_teacher, slot_rules, training_source
from echodfkd.sources.video.echonet import read_file_list, read_video
from echodfkd.sources.video.windows import resize_video
from echodfkd.teaching.blocks import make_block, teach_block
from echodfkd.teaching.mask_files import StoredMask, decode_mask, decode_masks, decode_npz, encode_masks
from echodfkd.teaching.recorded import RecordedMasks
from tests.helpers.echonet import write_small_folder
from tests.helpers.teachers import lv_prob, masks_of

RNG = np.random.default_rng(0)


def npz(array: np.ndarray, *, key: str = "arr_0") -> bytes:
    sink = io.BytesIO()
    np.savez_compressed(sink, **{key: array})
    return sink.getvalue()


def masks(count: int = 3, classes: tuple[str, ...] = ("LV",)) -> list[StoredMask]:
    return [
        StoredMask(f"c{i}", "t-1", classes, RNG.integers(0, 256, (4, len(classes), 8, 8), dtype=np.uint8))
        for i in range(count)
    ]


def keys(*names: str) -> list[ClipKey]:
    return [ClipKey(name, index, 0) for index, name in enumerate(names)]


def folder_of(root: Path, rows: list[StoredMask], *, name: str = "part.parquet") -> Path:
    root.mkdir(exist_ok=True)
    (root / name).write_bytes(encode_masks(rows))
    return root


def teacher_of(root: Path, *, classes: tuple[str, ...] = ("LV",), kept: tuple[int, ...] = (0,)) -> RecordedMasks:
    names = ("background", *(classes[place] for place in kept))
    return RecordedMasks(str(root), source_classes=classes, channels=kept, class_names=names, place=None)


def test_parquet_masks_are_found_by_clip_id(tmp_path: Path) -> None:
    rows = masks(20)
    root = folder_of(tmp_path / "m", rows[:12])
    folder_of(root, rows[12:], name="more.parquet")
    teacher = teacher_of(root)
    prob, faults = masks_of(teacher, np.zeros((3, 4, 8, 8), np.uint8), keys("c13", "nobody", "c9"))
    assert faults == {1: f"{root} holds no mask of nobody"}
    np.testing.assert_array_equal(np.rint(255 * prob[0, :, 0]), rows[13].levels[:, 0])
    np.testing.assert_array_equal(np.rint(255 * prob[2, :, 0]), rows[9].levels[:, 0])
    assert not prob[1].any()
    assert teacher.teacher_id == teacher_of(root).teacher_id
    with pytest.raises(RunError, match="finds masks by clip id, and was shown only pixels"):
        lv_prob(teacher, np.zeros((1, 4, 8, 8), np.uint8))


def test_classes_are_picked_by_name_and_other_sizes_are_resized(tmp_path: Path) -> None:
    rows = masks(2, classes=("atrium", "LV", "RV"))
    teacher = teacher_of(folder_of(tmp_path / "m", rows), classes=("atrium", "LV", "RV"), kept=(1, 2))
    prob, faults = masks_of(teacher, np.zeros((1, 4, 16, 16), np.uint8), keys("c1"))
    assert not faults
    assert teacher.class_names == ("background", "LV", "RV")
    np.testing.assert_array_equal(np.rint(255 * prob[0, :, 1]), resize_video(rows[1].levels[:, 2], 16))
    _, faults = masks_of(teacher, np.zeros((1, 5, 8, 8), np.uint8), keys("c1"))
    assert faults == {
        0: "the stored mask of c1 holds 4 frames of 8 x 8, expected 5 of 8 x 8 (frames, height, width), or of another"
        " size with the same ratio"
    }
    words = r"holds no usable mask among the 2 .* with the classes atrium, LV, RV, expected LV \(teacher.outputs\)"
    with pytest.raises(InputError, match=words):
        teacher_of(tmp_path / "m", classes=("LV",))
    folder_of(tmp_path / "m", [StoredMask("a0", "t", ("LV",), rows[0].levels[:, :1])], name="lv.parquet")
    _, faults = masks_of(teacher_of(tmp_path / "m"), np.zeros((1, 4, 8, 8), np.uint8), keys("c1"))
    assert "with the classes atrium, LV, RV, expected LV (teacher.outputs)" in faults[0]


def test_a_damaged_file_loses_its_own_clips_alone(tmp_path: Path) -> None:
    rows = masks(4)
    root = folder_of(tmp_path / "m", rows[:2])
    (root / "bad.parquet").write_bytes(b"PAR1 not at all PAR1")
    spoiled = bytearray(encode_masks(rows[2:]))
    (root / "spoiled.parquet").write_bytes(spoiled)
    place = spoiled.index(b"\x28\xb5\x2f\xfd") + 20  # inside of the first zstd blob
    spoiled[place] ^= 255
    (root / "spoiled.parquet").write_bytes(spoiled)
    teacher = teacher_of(root)
    _, faults = masks_of(teacher, np.zeros((4, 4, 8, 8), np.uint8), keys("c0", "c2", "c3", "lost"))
    assert set(faults) == {1, 3}
    assert "do not have the sha256 beside them; the file is damaged" in faults[1]
    assert "holds no mask of lost; it also holds bad.parquet, which cannot be read" in faults[3]


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    outside = folder_of(tmp_path / "outside", masks(1))
    root = tmp_path / "m"
    root.mkdir()
    (root / "part.parquet").symlink_to(outside / "part.parquet")
    _, faults = masks_of(teacher_of(root), np.zeros((1, 4, 8, 8), np.uint8), keys("c0"))
    assert "part.parquet is no plain file inside of the folder" in faults[0]


def test_a_folder_of_neither_or_both_kinds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds 0 .parquet and 0 .seg.npz files; expected masks of one kind"):
        teacher_of(tmp_path)
    folder_of(tmp_path, masks(1))
    (tmp_path / "x.seg.npz").write_bytes(b"")
    with pytest.raises(InputError, match="expected masks of one kind"):
        teacher_of(tmp_path)


@pytest.mark.parametrize("key", ["arr_0", "output"])
@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 1, 6, 7)])
def test_both_shapes_of_the_authors_archives_are_read(key: str, shape: tuple[int, ...]) -> None:
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    for stored in (array, np.asfortranarray(array)):
        np.testing.assert_array_equal(decode_npz(npz(stored, key=key), "a.seg.npz"), array.reshape(5, 6, 7))


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        import os

        return os.mkdir, (str(self.path),)


def lying_header(data: bytes, old: bytes, new: bytes) -> bytes:
    """The archive with another header in its array, of the same length."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(sink, "w") as other:
        content = archive.read("arr_0.npy")
        assert old in content
        other.writestr("arr_0.npy", content.replace(old, new.ljust(len(old))))
    return sink.getvalue()


GOOD = np.zeros((5, 6, 7), np.uint8)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is no readable .npz archive"),
        (b"PK\x03\x04 and no more", "is no readable .npz archive"),
        (npz(GOOD)[:-40], "is no readable .npz archive"),
        (npz(GOOD, key="masks"), "holds 1 entries, expected one array, arr_0 or output"),
        (npz(GOOD.astype(np.float32)), "holds an array of '<f4', expected uint8"),
        (npz(GOOD[0]), r"has the shape \(6, 7\), expected"),
        (npz(GOOD[:, None, :, :, None]), "has the shape"),
        (npz(GOOD[:0]), "has the shape"),
        (lying_header(npz(GOOD), b"(5, 6, 7)", b"(5, 6, 9)"), "holds 210 bytes, its shape needs 270"),
        (lying_header(npz(GOOD), b"(5, 6, 7), }", b"(9999,999,9)"), "no plain numbers"),
        (lying_header(npz(np.zeros((50, 60, 70), np.uint8)), b"(50, 60, 70)", b"(9999,999,99"), "no plain numbers"),
        (lying_header(npz(np.zeros((50, 60, 70), np.uint8)), b"(50, 60, 70)", b"(9999,9,999)"), "holds 210000 bytes"),
        (lying_header(npz(np.zeros((50, 60, 70), np.uint8)), b"(50, 60, 70)", b"(9999,99,999"), "no plain numbers"),
        (lying_header(npz(np.zeros((50, 60, 700), np.uint8)), b"(50, 60, 700)", b"(9999,99,999)"), "at most 268435456"),
    ],
)
def test_an_archive_at_fault_is_refused_with_a_reason(data: bytes, words: str) -> None:
    with pytest.raises(ClipError, match=words):
        decode_npz(data, "a.seg.npz")


def test_a_pickled_object_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for array in (np.array([Payload(mark)], dtype=object), np.array({"a": Payload(mark)}, dtype=object)):
        with pytest.raises(ClipError, match=r"holds an array of '\|O', expected uint8 .* objects are never unpickled"):
            decode_npz(npz(array), "a.seg.npz")
    assert not mark.exists()
    with np.load(io.BytesIO(npz(np.array([Payload(mark)], dtype=object))), allow_pickle=True) as archive:
        archive["arr_0"]
    assert mark.exists()  # the payload would have


def test_a_file_of_masks_round_trips_and_another_parquet_file_is_refused() -> None:
    rows = masks(11, classes=("LV", "RV"))
    again = decode_masks(encode_masks(rows), "m.parquet")
    assert [(m.clip_id, m.teacher_id, m.classes, m.video_sha256) for m in again] == [
        (m.clip_id, m.teacher_id, m.classes, m.video_sha256) for m in rows
    ]
    for one, other in zip(again, rows, strict=True):
        np.testing.assert_array_equal(one.levels, other.levels)
    with pytest.raises(ClipError, match="is no readable Parquet file"):
        decode_masks(b"no", "m.parquet")


def test_rows_of_either_order_of_axes_are_the_same_mask_and_no_other_codec_is_read() -> None:
    """Expected arrays are of pyarrow's own codec; a mask that moves slowly takes fewer bytes with time last."""
    levels = RNG.integers(0, 256, (3, 2, 4, 5), dtype=np.uint8)
    (row,) = pq.read_table(io.BytesIO(encode_masks([StoredMask("c", "t", ("LV", "RV"), levels)]))).to_pylist()
    stored = pa.decompress(row["blob"], levels.nbytes, "zstd", asbytes=True)
    assert stored == levels.transpose(1, 2, 3, 0).tobytes()
    plain = pa.compress(levels.tobytes(), "zstd", asbytes=True)
    by_time = row | {"codec": "zstd", "blob": plain, "sha256": hashlib.sha256(plain).hexdigest()}
    for known in (row, by_time):
        np.testing.assert_array_equal(decode_mask(known, "m.parquet").levels, levels)
    with pytest.raises(ClipError, match=r"as lz4 for 2 classes, expected .* as zstd or zstd of \(C, H, W, T\)"):
        decode_mask(row | {"codec": "lz4"}, "m.parquet")


@pytest.fixture(scope="module")
def echonet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recorded videos; the mask of each is the video itself, so that a mask cut rightly is its clip."""
    root = tmp_path_factory.mktemp("set")
    write_small_folder(str(root / "data"), videos=6, splits=("TRAIN",), size=32, num_frames=40)
    (root / "masks").mkdir()
    for place, row in enumerate(read_file_list(str(root / "data"))):
        video = read_video(str(root / "data"), row).video
        array = video[:, None] if place % 2 else video
        (root / "masks" / f"{row.name}.seg.npz").write_bytes(npz(array))
    return root


def recorded_config(root: Path, *overrides: str) -> RunConfig:
    options = [f"source.path={root}/data", f"evaluation.source.path={root}/data", f"teacher.weights={root}/masks"]
    kinds = ["source.kind=recorded", "evaluation.source.kind=recorded", "teacher.kind=recorded"]
    size = ["window.size=32", "window.fps=20", "window.frames=6", "evaluation.frames=8", "students.a.blocks=2"]
    return load_config(None, [*kinds, *options, *size, "evaluation.source.split=TRAIN", *overrides])


@pytest.mark.parametrize("fps", [20, 0, 50])
def test_whole_video_masks_are_cut_as_their_clips_are(echonet: Path, fps: int) -> None:
    config = recorded_config(echonet, f"window.fps={fps}")
    source, teacher = training_source(config), load_teacher(config, "cpu")
    block = make_block(source, list(range(9)), slot_rules(config), actor="s")
    taught = teach_block(teacher, block, lambda: source, slot_rules(config), actor="t")
    assert not taught.quarantined
    np.testing.assert_array_equal(taught.teacher_prob[:, :, 0], taught.video)
    cases = evaluation_source(config)
    for index in range(6):
        case = cases.case(index)
        assert case.truth_labels is not None  # traced frames moved its samples
        prob = predict_teacher(teacher, case, classes=("LV",), tasks=()).lv_prob
        np.testing.assert_array_equal(np.rint(255 * prob), case.video)


def test_a_hostile_mask_quarantines_its_clip_and_the_run_goes_on(echonet: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "data").symlink_to(echonet / "data")
    files = sorted((echonet / "masks").iterdir())
    hostile = {files[0]: npz(np.array([Payload(tmp_path / "mark")], dtype=object)), files[1]: b"junk"}
    for file in files:
        (tmp_path / "masks" / file.name).write_bytes(hostile.get(file, file.read_bytes()))
    (tmp_path / "masks" / files[2].name).write_bytes(npz(np.zeros((39, 32, 32), np.uint8)))
    config = recorded_config(tmp_path, "data.max_attempts=64")
    source, teacher = training_source(config), load_teacher(config, "cpu")
    block = make_block(source, list(range(6)), slot_rules(config), actor="s")
    batch = teach_block(teacher, block, lambda: source, slot_rules(config), actor="t")
    assert not batch.fault
    np.testing.assert_array_equal(batch.teacher_prob[:, :, 0], batch.video)
    words = {
        files[0]: "objects are never unpickled",
        files[1]: "is no readable .npz archive",
        files[2]: "holds 39 frames of 32 x 32, expected 40 of 32 x 32",
    }
    assert {row.stage for row in batch.quarantined} == {"teacher"}
    for file, reason in words.items():
        name = file.name.removesuffix(".seg.npz")
        assert any(f"-{name}-" in row.clip_id and reason in row.reason for row in batch.quarantined), file
    assert not (tmp_path / "mark").exists()


def with_masks(
    root: Path, echonet: Path, change: Callable[[np.ndarray], np.ndarray], *, only_first: bool = False
) -> RunConfig:
    """A run whose stored masks are those of the folder, changed."""
    (root / "masks").mkdir(exist_ok=True)
    for place, file in enumerate(sorted((echonet / "masks").iterdir())):
        mask = decode_npz(file.read_bytes(), file.name)
        (root / "masks" / file.name).write_bytes(npz(mask if place and only_first else change(mask)))
    return recorded_config(echonet, f"teacher.weights={root}/masks")


def twice(masks: np.ndarray) -> np.ndarray:
    """Every pixel as four."""
    return masks.repeat(2, axis=1).repeat(2, axis=2)


HARD = "levels of 0 to 1 in all, which are classes (a mask of 0 and 1, a label map); expected 255 times the probability"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda masks: (masks > 40).astype(np.uint8), HARD),
        (lambda masks: masks // 64, "levels of 0 to 2 in all, which are classes"),
        (lambda masks: (masks > 40), "holds an array of '|b1', expected uint8 ('|u1'), 255 times the probability"),
        (lambda masks: (masks / 255).astype(np.float32), "holds an array of '<f4', expected uint8"),
        (lambda masks: masks.astype(np.int64), "holds an array of '<i8', expected uint8"),
        (lambda masks: masks.transpose(1, 2, 0), "holds 32 frames of 32 x 40, expected 40 of 32 x 32"),
        (lambda masks: masks[1:], "holds 39 frames of 32 x 32, expected 40 of 32 x 32"),
        (lambda masks: np.concatenate([masks, masks[:1]]), "holds 41 frames of 32 x 32, expected 40"),
        (lambda masks: masks[:, :, 4:], "holds 40 frames of 32 x 28, expected 40 of 32 x 32"),
    ],
)  # fmt: skip
def test_stored_masks_that_are_no_levels_of_every_frame_are_refused_as_teacher_and_as_model(
    echonet: Path, tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    config = with_masks(tmp_path, echonet, change, only_first=True)
    source = evaluation_source(config)
    key = ClipKey(source.case(0).clip_id, 0, source.case(0).window_start, is_case=True)
    faults = load_teacher(config, "cpu").teach(source.case(0).video[None], [key]).faults
    assert words in faults[0]
    (model,) = stored_masks(EvaluateConfig(masks=f"{tmp_path}/masks"), source)
    with pytest.raises(ClipError, match=re.escape(words)):
        model.predict(source.case(0))
    with_masks(tmp_path, echonet, change)
    if "frames of" not in words:  # known without a clip, so that nothing starts
        for option, build in (
            ("teacher.weights", lambda: load_teacher(config, "cpu")),
            ("evaluate.masks", lambda: stored_masks(EvaluateConfig(masks=f"{tmp_path}/masks"), source)),
        ):
            with pytest.raises(
                InputError, match=f"{option}: .* no usable mask among the 3 that were tried: .*{re.escape(words)}"
            ):
                build()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda masks: masks * 0, lambda video: video * 0),  # nothing is found in it
        (lambda masks: 255 * (masks > 40).astype(np.uint8), lambda video: 255 * (video > 40)),
        (lambda masks: masks[:, None], lambda video: video),
        (lambda masks: twice(masks), lambda video: resize_video(twice(video), 32)),  # the size does not count
    ],
)
def test_honest_masks_are_taken(
    echonet: Path,
    tmp_path: Path,
    change: Callable[[np.ndarray], np.ndarray],
    expected: Callable[[np.ndarray], np.ndarray],
) -> None:
    config = with_masks(tmp_path, echonet, change)
    case = evaluation_source(recorded_config(echonet, "window.fps=0")).case(0)
    (model,) = stored_masks(
        EvaluateConfig(masks=f"{tmp_path}/masks"), evaluation_source(recorded_config(echonet, "window.fps=0"))
    )
    codes = np.rint(255 * model.predict(case).lv_prob)
    np.testing.assert_array_equal(codes, expected(case.video))
    assert load_teacher(config, "cpu").class_names == ("background", "LV")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_rows_of_classes_are_refused(tmp_path: Path, dtype: type) -> None:
    label_map = np.zeros((4, 1, 8, 8), dtype)
    label_map[:, :, 2:5] = 2
    rows = [StoredMask("c0", "t", ("LV",), label_map)]
    root = folder_of(tmp_path / "m", rows)
    with pytest.raises(
        InputError, match="holds no usable mask among the 1 that were tried: the stored mask of c0 holds levels of 0 to"
    ):
        teacher_of(root)
    folder_of(root, [*rows, *masks(3)[1:]])
    _, faults = masks_of(teacher_of(root), np.zeros((1, 4, 8, 8), np.uint8), keys("c0"))
    assert "the stored mask of c0 holds levels of 0 to 2 in all, which are classes" in faults[0]
    wide = StoredMask("c1", "t", ("LV",), RNG.integers(0, 256, (4, 1, 8, 12), dtype=np.uint8))
    _, faults = masks_of(teacher_of(folder_of(root, [wide])), np.zeros((1, 4, 8, 8), np.uint8), keys("c1"))
    assert "the stored mask of c1 holds 4 frames of 8 x 12, expected 4 of 8 x 8" in faults[0]


def test_masks_of_videos_are_placed_in_the_parts_of_a_mixture(echonet: Path) -> None:
    parts = "source={kind: mixture, parts: {film: {kind: recorded, path: %s/data, weight: 0.5}, drawn: {weight: 0.5}}}"
    config = load_config(
        None,
        [parts % echonet, "evaluation.source.kind=phantom", f"teacher.weights={echonet}/masks", "teacher.kind=recorded",
         "window.size=32", "window.fps=20", "window.frames=6", "students.a.blocks=2"],
    )  # fmt: skip
    source, teacher = training_source(config), load_teacher(config, "cpu")
    clips = [source.clip(index) for index in range(2)]
    keys = [ClipKey(clip.clip_id, clip.index, clip.window_start) for clip in clips]
    output = teacher.teach(np.stack([clip.video for clip in clips]), keys, code="probability")
    film = next(row for row, clip in enumerate(clips) if clip.source == "film")
    np.testing.assert_array_equal(output.masks[film, :, 0], clips[film].video)
    assert "is cut from no recorded video" in output.faults[1 - film]


def test_masks_of_videos_without_videos_are_refused_when_the_teacher_is_built(echonet: Path) -> None:
    config = recorded_config(echonet, "source.kind=phantom", "source.path=''", "evaluation.source.kind=phantom")
    with pytest.raises(InputError, match=r"teacher.weights: .* holds .seg.npz files, .* no source here is one"):
        load_teacher(config, "cpu")


def test_a_list_without_rate_and_length_takes_those_of_the_videos(echonet: Path, tmp_path: Path) -> None:
    shutil.copytree(echonet / "data/Videos", tmp_path / "data/Videos")
    names = [row.name for row in read_file_list(str(echonet / "data"))]
    lines = ["FileName,FPS,NumberOfFrames,Split", *(f"{name},,,TRAIN" for name in names)]
    (tmp_path / "data/FileList.csv").write_text("\n".join(lines))
    config = recorded_config(tmp_path, f"teacher.weights={echonet}/masks")
    source, teacher = training_source(config), load_teacher(config, "cpu")
    taught = teach_block(
        teacher,
        make_block(source, [0, 1], slot_rules(config), actor="s"),
        lambda: source,
        slot_rules(config),
        actor="t",
    )
    assert not taught.quarantined
    np.testing.assert_array_equal(taught.teacher_prob[:, :, 0], taught.video)


def test_a_case_without_a_mask_says_so(echonet: Path, tmp_path: Path) -> None:
    config = recorded_config(echonet, "evaluation.source.kind=phantom")
    case = evaluation_source(config).case(0)
    with pytest.raises(ClipError, match="is cut from no recorded video, so that no stored mask"):
        predict_teacher(load_teacher(config, "cpu"), case, classes=("LV",), tasks=())
