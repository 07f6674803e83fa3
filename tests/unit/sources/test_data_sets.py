"""Data sets as users have them: what fits nothing is read by a stated rule, counted, or refused in one sentence."""

import csv
import dataclasses
import io
import shutil

import numpy as np
import pytest

from echodfkd.core.errors import ClipError, InputError
from echodfkd.sources.clip_source import WindowSettings
from echodfkd.sources.notes import first_look
from echodfkd.sources.recorded import RecordedSource
from echodfkd.sources.video.echonet import read_file_list, read_tracings
from echodfkd.sources.video.encode import encode_avi
from echodfkd.sources.video.file_list import select_split
from echodfkd.sources.video.tracing import mask_to_tracing, traced_mask, tracing_to_mask

HEAD = "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split"
THEAD = "FileName,X1,Y1,X2,Y2,Frame"
Y, X = np.mgrid[:64, :64]
ED, ES = np.hypot((Y - 34) / 1.5, X - 32) < 15, np.hypot((Y - 35) / 1.5, X - 33) < 10
AVI = encode_avi(np.where(ED, 40, 120).astype(np.uint8)[None].repeat(12, 0), 50.0)


def row(name="P0", ef=55, esv=40, edv=89, height=64, width=64, fps=50, frames=12, split="TRAIN"):
    return f"{name},{ef},{esv},{edv},{height},{width},{fps},{frames},{split}"


PLAIN = row()


def chords(name, mask, frame, moved=0.0):
    return [f"{name},{','.join(f'{v + moved:.4f}' for v in line)},{frame}" for line in mask_to_tracing(mask)]


def contour(name, mask, frame):
    rows = mask_to_tracing(mask)[1:]
    points = np.concatenate([rows[:, :2], rows[::-1, 2:]])
    return [f"{name},{x:.3f},{y:.3f},{frame}" for x, y in points]


def both(name="P0.avi"):
    return chords(name, ED, 2) + chords(name, ES, 9)


@pytest.fixture
def make(tmp_path):
    def write(rows=(PLAIN,), traced=None, head=HEAD, thead=THEAD, files=("P0.avi",)):
        root = tmp_path / f"set{len(list(tmp_path.iterdir()))}"
        (root / "Videos").mkdir(parents=True)
        for file in files:
            (root / "Videos" / file).write_bytes(AVI)
        (root / "FileList.csv").write_text("\n".join([head, *rows]) + "\n")
        traced = both() if traced is None else traced
        (root / "VolumeTracings.csv").write_text("\n".join([thead, *traced]) + "\n")
        return root

    return write


def source(root, split="TRAIN"):
    return RecordedSource(str(root), split, WindowSettings(4, 0.0, 64, 12), seed=0)


def truth(root):
    """Area of the truth by frame, and (ED, ES)."""
    case = source(root).case(0)
    labels = case.truth_labels
    known = [] if labels is None else np.flatnonzero((labels != 255).any((1, 2)))
    return {int(frame): int((labels[frame] == 1).sum()) for frame in known}, (case.ed_frames, case.es_frames)


RIGHT = (
    {
        2: int(tracing_to_mask(mask_to_tracing(ED), 64, 64).sum()),
        9: int(tracing_to_mask(mask_to_tracing(ES), 64, 64).sum()),
    },
    ((2,), (9,)),
)


@pytest.mark.parametrize(
    "traced",
    [
        chords("P0", ED, 2) + chords("P0", ED, 2, 0.6) + chords("P0", ES, 9),  # two readers, one after the other
        chords("P0", ED, 2) + chords("P0", ED, 2, 4) + chords("P0", ED, 2, 2) + chords("P0", ES, 9),
        both() + both(),  # a file that was appended to itself
        chords("P0", ED, 2) + chords("P0", ES, 9) + chords("P0", ED, 2, 1)[1:],  # the second reader has no axis
        both("P0.avi") + both("Videos/P0.AVI"),
        chords("P0", ED, 2)[1:2] * 0 + chords("P0", ED, 2) * 2 + chords("P0", ES, 9),
    ],
)
def test_the_first_of_several_tracings_of_a_frame_counts_and_the_others_are_said(make, traced):
    root = make(traced=traced)
    assert truth(root) == RIGHT
    assert any(
        "traced frames with several tracings, of which the first counts: " in note for note in source(root).notes
    )


def test_several_contours_of_a_frame(make):
    one, two = contour("P0", ED, 2), contour("P0", ES, 9)
    for traced in (one + two, one + one + two, one + two + one, one + two + one + two):
        root = make(traced=traced, thead="FileName,X,Y,Frame")
        assert truth(root) == RIGHT
        assert len([note for note in source(root).notes if "several tracings" in note]) == (len(traced) > 80)
    joined = make(traced=one + contour("P0", ES, 2) + two, thead="FileName,X,Y,Frame")
    with pytest.raises(
        ClipError, match=r"^P0\.avi, frame 2 of VolumeTracings\.csv: a tracing's outline crosses itself"
    ):
        source(joined).case(0)


def test_a_reader_without_axes_is_one_tracing_and_is_said(make):
    traced = chords("P0", ED, 2)[1:] + chords("P0", ES, 9)[1:]
    areas, phases = truth(make(traced=traced))
    assert phases == RIGHT[1]
    assert 0.95 * RIGHT[0][2] < areas[2] < RIGHT[0][2]
    assert any("first row is no long axis" in note for note in source(make(traced=traced)).notes)
    with pytest.raises(ClipError, match="crosses itself"):
        source(make(traced=traced[:20] + chords("P0", ED, 2, 0.7)[1:] + traced[20:])).case(0)


def scaled(lines, factor, shift=0.0):
    cells = [line.split(",") for line in lines]
    return [",".join([a, *(f"{float(v) * factor + shift:.5f}" for v in b), c]) for a, *b, c in cells]


@pytest.mark.parametrize(
    ("traced", "words"),
    [
        (scaled(both(), 4), r"^P0\.avi, frame 2 of VolumeTracings\.csv: a tracing has . from .* its frame has 64 x 64"),
        (scaled(both(), 1, 50), "a tracing has x from .* its frame has 64 x 64 pixels"),
        (scaled(both(), 0.1), "a tracing fills 0.* of its frame of 64 x 64, expected 0.5% to 60%"),
        (scaled(both(), 1 / 32), "a tracing fills"),
        (chords("P0", np.ones((64, 64), bool), 2) + chords("P0", ES, 9), "a tracing fills 100.00% of its frame"),
        (both()[:9] + both()[21:], "chords cover 3.% of its long axis, expected 60% or more: rows are missing"),
        (both()[:2] + both()[21:], "a tracing of 2 rows has no area"),
        (both()[:1] + both()[12:21] + both()[1:12] + both()[21:], "a tracing's chords go to and fro"),
        (chords("P0", ED, 2) + chords("P0", ED, 9), r"^P0\.avi: its traced frames 2, 9 have one area, \d+ pixels"),
        (chords("P0", ED, 2) + chords("P0", ES, 12), "a tracing at frame 12, but only 12 frames"),
    ],
)
def test_a_tracing_that_can_be_no_ventricle_is_one_sentence(make, traced, words):
    with pytest.raises(ClipError, match=words) as caught:
        source(make(traced=traced)).case(0)
    assert caught.value.clip_id == "recorded-P0-s0-case"


def test_tracings_of_frames_of_another_size(make):
    with pytest.raises(ClipError, match="has frames of 64 x 64, its tracings are those of frames of 112 x 100"):
        source(make([row(height=100, width=112)])).case(0)
    assert source(make([row(height=100, width=112)], traced=[])).case(0).truth_labels is None


def test_fractions_for_pixels_are_refused_when_the_source_is_built(make):
    for thead, lines in ((THEAD, scaled(both(), 1 / 64)), ("FileName,X,Y,Frame", scaled(contour("P0", ED, 2), 1 / 64))):
        with pytest.raises(
            InputError, match=r"VolumeTracings.csv: all coordinates lie in 0\.\d+ .. 0\.\d+, as fractions"
        ):
            source(make(traced=lines, thead=thead))


def test_tracings_without_any_outline_are_refused_when_the_source_is_built(make):
    words = r"VolumeTracings.csv: no traced frame has more than {} rows, an outline needs 3 or more$"
    with pytest.raises(InputError, match=words.format(1)):
        source(make(traced=["P0.avi,50,60,5", "P0.avi,,,No Systolic"], thead="FileName,X,Y,Frame"))
    with pytest.raises(InputError, match=words.format(2)):
        source(make(traced=both()[:2] + both()[21:22]))


def test_a_tracing_with_a_twist_at_its_apex_is_still_one():
    rows = mask_to_tracing(ED)
    rows[1] = rows[1][[2, 3, 0, 1]]
    assert traced_mask(rows, 64, 64).sum() == pytest.approx(RIGHT[0][2], rel=0.03)


@pytest.mark.parametrize(
    ("rows", "files", "traced", "note"),
    [
        ([row("P0.mp4")], ("P0.mp4",), both("P0.avi"), None),
        ([row()], ("P0.avi",), both("Videos/P0.avi"), None),
        ([row()], ("P0.avi",), both("C:\\data\\P0.avi"), None),
        ([row("P0.MOV")], ("P0.MOV",), both("P0"), None),
        (
            [row("P0.avi")],
            ("P0.mp4",),
            both(),
            "whose file has another name than FileList.csv says: 1 (first: 'P0.avi' is 'P0.mp4')",
        ),
        ([row()], ("P0.AVI",), both("p0"), "matched to a video in spite of their case: 1 (first: 'p0')"),
    ],
)
def test_names_meet_if_there_is_no_doubt(make, rows, files, traced, note):
    root = make(rows, traced, files=(*files, "._P0.avi"))
    assert truth(root) == RIGHT
    assert note is None or any(note in said for said in source(root).notes)


def test_what_fits_nothing_is_counted_when_the_source_is_built(make):
    names = ("P0", "P1", "P2", "p3", "P3")
    rows = [*(row(name) for name in names), row("P4", split=""), ",,,,,,,,", row("P5", split=" val ")]
    traced = [*both("P0"), *both("Q9.avi"), *both("Q8"), *both("P3x"), *chords("P2", ED, 2)[:20], *chords("P2", ES, 9)]
    root = make(rows, [*traced, ",,,,,"], files=("P0.avi", "P2.mp4", "P3.avi", "p3.avi"))
    assert source(root).notes == (
        "rows of FileList.csv with a blank Split, which only ALL takes: 1 (first: line 7, 'P4')",
        "videos in FileList.csv that are not in Videos/; their clips are quarantined: 1 (first: 'P1.avi')",
        "videos whose file has another name than FileList.csv says: 1 (first: 'P2.avi' is 'P2.mp4')",
        "names in VolumeTracings.csv of which no video is in FileList.csv: 3 (first: 'Q9.avi')",
        "tracings with another number of rows than most (21): 1 (first: 'P2' frame 2, 20 rows)",
        "videos of split TRAIN without a tracing: 3 (first: 'P1')",
    )
    assert source(root).num_cases == 5
    with pytest.raises(InputError, match=r"none of the 1 videos of .*FileList.csv is in .*/Videos, e.g. P5.avi"):
        source(root, "VAL")


def test_a_clean_data_set_has_no_notes(make):
    assert source(make()).notes == ()


def test_columns_by_any_spelling_that_leaves_no_doubt(make):
    head = "file name,Ef,Esv ,EDV (mL),frame_height,FrameWidth,fps,Number Of Frames,SPLIT,Operator"
    root = make([row() + ",x"], head=head)
    known = source(root).case(0).conditions
    assert (known.ef_percent, known.esv_ml, known.edv_ml) == (55, 40, 89)
    assert source(root).notes == (
        "FileList.csv has columns that are not read: Operator",
        "columns of FileList.csv with another spelling: 8 (first: 'file name' is read as FileName)",
    )
    with pytest.raises(InputError, match="has the column EF twice"):
        source(make([row() + ",1"], head=HEAD + ",ef"))
    with pytest.raises(InputError, match="lacks the columns Split; it needs FileName, Split"):
        source(make(head=HEAD.replace("Split", "Fold")))


@pytest.mark.parametrize(
    ("values", "read", "note"),
    [
        ({"ef": 0.55}, (None, 89, 40), "as unknown: 1 (first: line 2, 0.55, a fraction? expected percent)"),
        ({"ef": 155}, (None, 89, 40), "taken as unknown: 1 (first: line 2, 155)"),
        ({"edv": -3, "ef": ""}, (None, None, 40), "EDV outside of the possible 5 .. 1000"),
        ({"esv": 95}, (55, None, None), "both taken as unknown: 1 (first: line 2, 95 and 89)"),
        ({"ef": 20}, (20, 89, 40), "EF more than 5 points off EDV and ESV in rows of"),
        ({"ef": ""}, (None, 89, 40), None),
    ],
)  # fmt: skip
def test_clinical_values_are_held_against_the_possible(make, values, read, note):
    root = make([row(**values)])
    known = source(root).case(0).conditions
    assert (known.ef_percent, known.edv_ml, known.esv_ml) == read
    assert source(root).notes == () if note is None else note in source(root).notes[0]


def test_further_facts_that_only_the_lists_show(make):
    root = make([row(fps=0)], chords("P0", ED, 2) + chords("P0", ES, 12) + chords("P0", ES, 5)[:2])
    assert source(root).clip(0).fps == 50.0
    assert source(root).notes == (
        "FPS that is not above 0 in rows of FileList.csv: the video's header tells it: 1 (first: line 2, 0)",
        "tracings with another number of rows than most (21): 1 (first: 'P0' frame 5, 2 rows)",
        "tracings of fewer than 3 rows; their cases are quarantined: 1 (first: 'P0' frame 5)",
        "videos with a tracing behind the last frame (frames count from 0): 1 (first: 'P0' frame 12 of 12)",
    )
    for lines in ([], both("Q7")):
        assert source(make(traced=lines)).notes[0] == (
            "VolumeTracings.csv holds no tracing of a listed video, so that no case has truth"
        )
    (root / "VolumeTracings.csv").rename(root / "volumetracings.csv")
    assert (
        source(root).notes[0]
        == "there is no VolumeTracings.csv, so that no case has truth; 'volumetracings.csv' is not read"
    )
    (root / "Videos").rename(root / "videos")
    with pytest.raises(InputError, match=r"holds no Videos folder; expected .*, and 'videos' is another name"):
        source(root)
    (root / "videos").rename(root / "Videos")
    (root / "FileList.csv").rename(root / "Filelist.csv")
    with pytest.raises(InputError, match=r"holds no FileList.csv; expected .*, and 'Filelist.csv' is another name"):
        source(root)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_every_end_of_a_line_and_quotes(make, end):
    root = make()
    for file in ("FileList.csv", "VolumeTracings.csv"):
        lines = (root / file).read_text().split("\n")
        quoted = [",".join(f'"{cell}"' for cell in line.split(",")) if line else "" for line in lines]
        (root / file).write_bytes(end.join(quoted).encode())
    assert truth(root) == RIGHT
    assert source(root).notes == ()


@pytest.mark.parametrize(("sign", "word"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_other_separators_are_named(make, sign, word):
    for file in ("FileList.csv", "VolumeTracings.csv"):
        root = make()
        (root / file).write_text((root / file).read_text().replace(",", sign))
        with pytest.raises(InputError, match=f"{file} separates its cells by {word}, expected commas"):
            source(root)


def test_videos_that_are_links(make, tmp_path):
    root = make([row(), row("P1")], files=("P0.avi", "P1.avi"))
    (root / "Videos" / "P0.avi").rename(tmp_path / "P0.avi")
    (root / "Videos" / "P0.avi").symlink_to(tmp_path / "P0.avi")
    assert source(root).notes[0] == (
        "videos that are links out of the folder; their clips are quarantined: 1 (first: 'P0.avi')"
    )
    (root / "Videos").rename(tmp_path / "elsewhere")
    (root / "Videos").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"/Videos is a symbolic link that leads out of the folder.* source\.path"):
        source(root)
    (root / "Videos").unlink()
    (tmp_path / "elsewhere").rename(root / "real")
    (root / "Videos").symlink_to("real")
    assert source(root).num_cases == 2  # a link inside of the folder leads nowhere else


def pediatric(root):
    text = io.StringIO()
    rows = [
        ("CR1-1.avi", "P", 64.5, "F", 0.5, 7.1, 66),
        ("CR2-2.avi", "", 61, "M", 12, 40, 150),
        ("CR3-3.avi", "", "", "", 300, "", ""),
    ]
    csv.writer(text).writerow(["FileName", "EF", "Sex", "Age", "Weight", "Height", "Split"])
    for fold, (name, _, *rest) in enumerate(rows):
        csv.writer(text).writerow([name, *rest, fold])
    (root / "Videos").mkdir(parents=True)
    for name, *_ in rows:
        (root / "Videos" / name).write_bytes(AVI)
    (root / "FileList.csv").write_text(text.getvalue())
    traced = contour("CR1-1.avi", ED, 2) + contour("CR1-1.avi", ES, 9) + contour("CR2-2.avi", ED, 4)
    (root / "VolumeTracings.csv").write_text("\n".join(["FileName,X,Y,Frame", *traced, "CR2-2.avi,,,No Systolic"]))


def test_the_layout_of_echonet_pediatric(tmp_path):
    pediatric(tmp_path / "A4C")
    root = str(tmp_path / "A4C")
    found = source(root, "0, 1")
    assert found.num_cases == 2
    one, two = found.case(0), found.case(1)
    assert (one.ed_frames, one.es_frames, one.fps) == ((2,), (9,), 50.0)
    assert int((one.truth_labels[2] == 1).sum()) == RIGHT[0][2]
    known = one.conditions
    assert (known.ef_percent, known.sex, known.age_years) == (64.5, "F", 0.5)
    assert known.bsa_m2 == pytest.approx((7.1 * 66 / 3600) ** 0.5)
    assert (two.ed_frames, two.es_frames) == (None, None)  # one traced frame may be either
    assert np.flatnonzero((two.truth_labels != 255).any((1, 2))).tolist() == [4]
    assert found.notes == (
        "FileList.csv has no column FPS, NumberOfFrames: only the header of each video tells them",
        "Age outside of the possible 0 .. 120 in rows of FileList.csv, taken as unknown: 1 (first: line 4, 300)",
        "videos of which VolumeTracings.csv says that a phase is not traced: 1 (first: 'CR2-2.avi')",
    )
    with pytest.raises(InputError, match=r"no video of split 'TRAIN' .*it has '0' \(1 videos\), .* or ALL, or several"):
        source(root)
    with pytest.raises(InputError, match=r"holds no Videos folder; .*as its A4C is: name that folder \(source.path\)"):
        source(str(tmp_path))
    (tmp_path / "A4C" / "VolumeTracings.csv").write_text("FileName,X,Y,Frame\nCR1-1,1,2,Systole\n")
    with pytest.raises(InputError, match="Frame is 'Systole', expected a number"):
        source(root, "ALL")


def test_several_splits_at_once_and_folds_that_were_floats(make):
    rows = [row(f"P{fold}", split=f"{fold}.0") for fold in range(10)]
    found = read_file_list(str(make(rows)))
    assert [kept.name for kept in select_split(found, "0,3 , 7", "a")] == ["P0", "P3", "P7"]
    with pytest.raises(InputError, match="no video of split '11'"):
        select_split(found, "1,11", "a")


def test_tracings_of_a_large_file_are_read_in_a_moment(make):
    """20,000 traced frames as EchoNet-Dynamic has them: what is done per frame is done for all at once."""
    one = both("NAME")
    root = make(
        [row(f"P{number}") for number in range(300)],
        [line.replace("NAME", f"P{n}") for n in range(300) for line in one],
    )
    found = read_tracings(str(root), [f"P{n}" for n in range(300)])
    assert len(found) == 300
    assert all(np.array_equal(found["P7"][frame], found["P99"][frame]) for frame in (2, 9))
    shutil.rmtree(root)


def test_the_first_clips_tell_what_no_list_shows(make):
    root = make([row(), row("P1"), row("P2")], [*both("P0"), *scaled(both("P1"), 0.1)], files=("P0.avi", "P1.avi"))
    (root / "Videos" / "P2.avi").write_bytes(AVI[:2000])
    found = source(root)
    (cases,) = first_look(found.case, found.num_cases, "cases")
    assert cases.startswith("of the first 3 cases, those that cannot be used: 2 (first: P1.avi, frame 2 of Volume")
    told = dataclasses.replace(found.case(0), warnings=("a.avi is turned", "a.avi has two streams"))
    assert first_look(lambda index: told, None, "clips") == (
        "warnings on the first 4 clips: 8 (first: a.avi is turned)",
    )
