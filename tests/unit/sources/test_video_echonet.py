import csv
import dataclasses
import shutil

import numpy as np
import pytest

from echodfkd.core.errors import ClipError, InputError
from echodfkd.sources.video.echonet import read_file_list, read_tracings, read_video
from echodfkd.sources.video.file_list import select_split
from echodfkd.sources.video.tracing import order_by_area, tracing_to_mask
from tests.helpers.echonet import beating_clip, write_echonet_folder, write_small_folder

HEADER = "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split\n"


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def folder_with(tmp_path, file_list):
    (tmp_path / "Videos").mkdir()
    (tmp_path / "FileList.csv").write_text(file_list)
    return str(tmp_path)


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_round_trip(tmp_path, scheme):
    root = str(tmp_path / "set") if scheme == "file" else f"memory://{tmp_path.name}/set"
    clips = write_small_folder(root, videos=3, splits=("TRAIN", "TEST"), size=80)
    rows = read_file_list(root)
    assert [row.name for row in rows] == ["0XA0", "0XA1", "0XA2"]
    assert [row.split for row in rows] == ["TRAIN", "TEST", "TRAIN"]
    tracings = read_tracings(root)
    for row, clip in zip(rows, clips, strict=True):
        assert (row.fps, row.num_frames) == (50.0, 40)
        assert row.conditions.ef_percent == clip.conditions.ef_percent
        decoded = read_video(root, row)
        assert np.abs(decoded.video.astype(int) - clip.video).mean() < 2.0  # MJPEG's loss around a sharp wall
        frames = tracings[row.name]
        assert sorted(frames) == [4, 16]
        assert all(lines.shape == (21, 4) for lines in frames.values())
        masks = {frame: tracing_to_mask(lines, 80, 80) for frame, lines in frames.items()}
        assert order_by_area(masks) == (4, 16)
        for frame, mask in masks.items():
            assert dice(mask, clip.truth_labels[frame] == 1) >= 0.95
    assert [row.name for row in select_split(rows, "test", root)] == ["0XA1"]
    assert len(select_split(rows, "ALL", root)) == 3
    assert sorted(read_tracings(root, {"0XA1"})) == ["0XA1"]


def test_tracings_have_echonets_header_and_the_long_axis_first(tmp_path):
    write_small_folder(str(tmp_path / "a"), videos=1)
    with open(tmp_path / "a" / "VolumeTracings.csv", newline="") as text:
        lines = list(csv.reader(text))
    assert lines[0] == ["FileName", "X1", "Y1", "X2", "Y2", "Frame"]
    assert len(lines) == 1 + 2 * 21
    first = [np.hypot(float(x2) - float(x1), float(y2) - float(y1)) for _, x1, y1, x2, y2, _ in lines[1:22]]
    assert np.argmax(first) == 0


def test_names_with_and_without_suffix_meet(tmp_path):
    root = tmp_path / "a"
    write_small_folder(str(root), videos=2)
    for file in ("FileList.csv", "VolumeTracings.csv"):
        text = (root / file).read_text().replace("0XA0,", "0XA0.avi,")
        (root / file).write_bytes(b"\xef\xbb\xbf" + text.encode())  # as a spreadsheet saves it
    rows = read_file_list(str(root))
    assert [(row.name, row.file) for row in rows] == [("0XA0", "0XA0.avi"), ("0XA1", "0XA1.avi")]
    assert sorted(read_tracings(str(root))) == ["0XA0", "0XA1"]


def test_shuffled_tracing_frames_keep_the_order_of_rows(tmp_path):
    root = tmp_path / "a"
    write_small_folder(str(root), videos=2)
    whole = read_tracings(str(root))
    header, *lines = (root / "VolumeTracings.csv").read_text().splitlines()
    later_first = [*lines[42:], *lines[21:42], *lines[:21]]
    (root / "VolumeTracings.csv").write_text("\n".join([header, *later_first]))
    shuffled = read_tracings(str(root))
    assert all(np.array_equal(shuffled[n][f], whole[n][f]) for n in whole for f in whole[n])


def test_a_folder_without_tracings_has_none(tmp_path):
    write_echonet_folder(str(tmp_path / "a"), [dataclasses.replace(beating_clip("0XB"), truth_labels=None)])
    assert read_tracings(str(tmp_path / "a")) == {}
    (tmp_path / "a" / "VolumeTracings.csv").unlink()
    assert read_tracings(str(tmp_path / "a")) == {}


@pytest.mark.parametrize(
    ("file_list", "sentence"),
    [
        ("FileName,EF\na,1\n", "FileList.csv lacks the columns Split; it needs FileName, Split"),
        ("", "lacks the columns FileName"),
        (HEADER, "FileList.csv lists no videos; expected one row per video"),
        (HEADER + "../x,,,,,,50,9,TRAIN\n", r"line 2: FileName '../x' is not a plain file name"),
        (HEADER + "/etc/passwd,,,,,,50,9,TRAIN\n", "line 2: FileName '/etc/passwd' is not a plain file name"),
        (HEADER + "a\\b.avi,,,,,,50,9,TRAIN\n", "is not a plain file name"),
        (HEADER + "..,,,,,,50,9,TRAIN\n", "is not a plain file name"),
        (HEADER + ",,,,,,50,9,TRAIN\n", "line 2: FileName '' is not a plain file name"),
        (HEADER + "a,,,,,,fast,9,TRAIN\n", "line 2: FPS is 'fast', expected a number"),
        (HEADER + "a,,,,,,5,9,TRAIN\na.avi,,,,,,5,9,VAL\n", "line 3: FileName 'a' is there twice"),
    ],
)
def test_unusable_file_lists_say_why(tmp_path, file_list, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        read_file_list(folder_with(tmp_path, file_list))
    assert "\n" not in str(caught.value)


def test_unusable_folders_say_why(tmp_path):
    with pytest.raises(
        InputError, match=r"there is no folder '.*/nowhere' \(source.path\); expected a folder with Vid"
    ):
        read_file_list(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="there is no folder ''"):
        read_file_list("")
    with pytest.raises(InputError, match=r"is empty; expected a folder with Videos/ and FileList.csv"):
        read_file_list(str(tmp_path))
    with pytest.raises(InputError, match="cannot be opened: Protocol not known: nosuch"):
        read_file_list("nosuch://bucket/x")
    (tmp_path / "FileList.csv").write_text(HEADER)
    with pytest.raises(InputError, match="holds no Videos folder"):
        read_file_list(str(tmp_path))
    (tmp_path / "FileList.csv").unlink()
    (tmp_path / "Videos").mkdir()
    with pytest.raises(InputError, match=r"holds no FileList.csv"):
        read_file_list(str(tmp_path))
    (tmp_path / "FileList.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"FileList.csv is not UTF-8 text"):
        read_file_list(str(tmp_path))


def test_an_empty_split_lists_what_there_is(tmp_path):
    write_small_folder(str(tmp_path / "a"), videos=3, splits=("TRAIN", "TEST"))
    rows = read_file_list(str(tmp_path / "a"))
    with pytest.raises(
        InputError,
        match=r"no video of split 'VAL' \(source.split\); it has 'TEST' \(1 videos\), 'TRAIN' \(2 videos\), or ALL",
    ):
        select_split(rows, "VAL", "a")


def test_unusable_tracings_say_why(tmp_path):
    write_small_folder(str(tmp_path / "a"), videos=1)
    path = tmp_path / "a" / "VolumeTracings.csv"
    path.write_text("FileName,X1,Y1,Frame\na,1,2,3\n")
    with pytest.raises(InputError, match=r"VolumeTracings.csv lacks the columns X2, Y2"):
        read_tracings(str(tmp_path / "a"))
    path.write_text("FileName,X1,Y1,X2,Y2,Frame\na,1,2,3,left,5\n")
    with pytest.raises(InputError, match=r"VolumeTracings.csv cannot be read: .*left"):
        read_tracings(str(tmp_path / "a"))
    path.write_text("FileName,X1,Y1,X2,Y2,Frame\na,1,2,3,,5\n")
    with pytest.raises(InputError, match=r"VolumeTracings.csv has blank fields in 1 rows \(first: of 'a'\)"):
        read_tracings(str(tmp_path / "a"))
    path.write_text("FileName,X1,Y1,X2,Y2,Frame\n")
    assert read_tracings(str(tmp_path / "a")) == {}


def test_a_missing_or_short_video_is_one_clips_fault(tmp_path):
    write_small_folder(str(tmp_path / "a"), videos=2)
    rows = read_file_list(str(tmp_path / "a"))
    (tmp_path / "a" / "Videos" / "0XA0.avi").unlink()
    with pytest.raises(ClipError, match=r"^0XA0\.avi is in FileList.csv but not in .*/Videos$"):
        read_video(str(tmp_path / "a"), rows[0])
    short = beating_clip("0XA1", num_frames=20)
    write_echonet_folder(str(tmp_path / "c"), [short])
    shutil.copy(tmp_path / "c" / "Videos" / "0XA1.avi", tmp_path / "a" / "Videos" / "0XA1.avi")
    with pytest.raises(ClipError, match=r"^0XA1\.avi has 20 readable frames, the file list says 40$"):
        read_video(str(tmp_path / "a"), rows[1])
