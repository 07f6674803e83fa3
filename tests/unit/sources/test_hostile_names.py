"""Names that others chose (ids, files, students, runs) stay inside, and do nothing where they are shown."""

import csv
import functools
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echodfkd.config.file import load_config
from echodfkd.core.errors import ClipError, ConfigError, InputError
from echodfkd.core.records import CaseScore, Quarantined
from echodfkd.sources.video.decode import decode_video
from echodfkd.sources.video.echonet import read_file_list, read_video
from echodfkd.sources.video.file_list import plain_name
from echodfkd.sources.written.writing import file_list_fields, file_name, tracing_fields
from echodfkd.storage.files import RunStorage, read_inside
from echodfkd.storage.manifests import latest_checkpoint, list_checkpoints, parse_manifest
from echodfkd.storage.schemas import TRAINING_SCHEMA, write_records
from echodfkd.storage.untrusted import parse_yaml
from tests.helpers.echonet import beating_clip, write_small_folder
from tests.helpers.reports import render_report

HOSTILE = [
    "../x", "..", ".", "/etc/passwd", "~root/x", "~", "a/../../x", "a\\..\\x", "C:\\x", "a\0b", "a\nb", "a\rb",
    "\x1b[2J", "x" * 300, "", " ", "=1+1", "+1", "-1", "@x", "<script>", "a\u202eb", "a%2e%2e/b", "con/nul",
    "..%00", "a;rm -rf", "$(x)",
]  # fmt: skip
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40))


def accepted(check: Callable[[], Any]) -> Any:
    """What it returns, or None where it refuses with a printable sentence."""
    try:
        return check()
    except (ConfigError, InputError) as error:
        sentence = str(error)
    assert sentence.isprintable()
    return None


@given(TEXTS)
def test_a_name_that_is_accepted_is_one_plain_component(name: str) -> None:
    for check in (lambda: plain_name(name, "line 2"), lambda: file_name(name)):
        kept = accepted(check)
        if kept is not None:
            assert kept == name
            assert os.path.basename(os.path.normpath(f"/base/{kept}")) == kept
            assert len(kept) <= 200
            assert kept.isprintable()
            assert kept[0] not in "=+-@\t\r~. "


@settings(max_examples=25)
@given(TEXTS)
def test_names_of_students_and_runs_are_checked(name: str) -> None:
    quoted = json.dumps({name: {"blocks": 1}})
    for overrides in ([f"students={quoted}"], ["students={a: {}}", f"name={json.dumps(name)}"]):
        config = accepted(functools.partial(load_config, None, overrides))
        for kept in () if config is None else (config.name, *config.students):
            assert kept.isascii()
            assert "/" not in kept
            assert kept.strip(".") != ""
            assert kept[0] not in "-~."


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "x" * 101, "a b", "ä", "-x", "", "a\n", "<script>"])
def test_a_student_called_so_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="students"):
        load_config(None, [f"students={json.dumps({name: {'blocks': 1}})}"])


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "~/x", "a\\x", "a\0", "checkpoints/.."])
def test_a_run_folder_is_never_left(name: str, tmp_path: Path) -> None:
    storage = RunStorage(str(tmp_path / "run"))
    for call in (storage.read, storage.exists, storage.list, lambda name: storage.write(name, b"x")):
        with pytest.raises(InputError, match="is not the name of a file inside of this folder"):
            call(name)
    assert list(tmp_path.iterdir()) == []


FOLDER = "checkpoints/step_00000001"
GOOD = {"step": 1, "folder": FOLDER, "students": ["a"], "files": {}, "ledger": [], "quarantine": [], "meta": {}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"folder": "../../other"}, "belongs to the folder '../../other'"),
        ({"step": 2}, "it is of step 2"),
        ({"step": True}, "its step is True"),
        ({"students": ["../a"]}, "its students names '../a'"),
        ({"ledger": ["../../secret.parquet"]}, r"its ledger names '\.\./"),
        ({"ledger": ["quarantine/../x.parquet"]}, "its ledger names"),
        ({"quarantine": [5]}, "its quarantine names 5"),
        ({"files": {"../x.json": {"size": 1, "sha256": "0" * 64}}}, "it names the file '../x.json'"),
        ({"files": {"a/student.safetensors": {"size": "1", "sha256": "0" * 64}}}, "size and sha256 of"),
        ({"files": []}, "its files are no object"),
        ({"meta": 1}, "its meta is no object"),
        ({"evil": 1}, "an unknown 'evil'"),
    ],
)
def test_a_manifest_names_nothing_outside(change: dict[str, object], sentence: str) -> None:
    assert parse_manifest(json.dumps(GOOD).encode(), folder=FOLDER, where="m").students == ("a",)
    with pytest.raises(InputError, match=f"^m is not a checkpoint's manifest: .*{sentence}"):
        parse_manifest(json.dumps({**GOOD, **change}).encode(), folder=FOLDER, where="m")


def test_a_folder_that_is_no_step_is_no_checkpoint(tmp_path: Path) -> None:
    storage = RunStorage(str(tmp_path))
    for folder in ("zzz", "step_1", "step_00000001.bak"):
        storage.write(f"checkpoints/{folder}/manifest.json", b"not even JSON")
    assert list_checkpoints(storage) == []
    assert latest_checkpoint(storage) is None


def test_links_pipes_and_huge_files_of_a_data_set_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "set"
    write_small_folder(str(root), videos=4, num_frames=10, size=32, period=6)
    outside = tmp_path / "outside.avi"
    (root / "Videos" / "0XA0.avi").rename(outside)
    (root / "Videos" / "0XA0.avi").symlink_to(outside)
    (root / "Videos" / "0XA1.avi").unlink()
    os.mkfifo(root / "Videos" / "0XA1.avi")
    (root / "Videos" / "0XA2.avi").rename(root / "moved.avi")
    (root / "Videos" / "0XA2.avi").symlink_to("../moved.avi")
    rows = read_file_list(str(root))
    with pytest.raises(ClipError, match=r"0XA0.avi is a link that leads out of the folder$"):
        read_video(str(root), rows[0])
    with pytest.raises(ClipError, match=r"0XA1.avi is not a plain file$"):
        read_video(str(root), rows[1])
    assert len(read_video(str(root), rows[2]).video) == 10  # a link inside of the folder is a usual way to share files
    monkeypatch.setattr("echodfkd.sources.video.echonet.MAX_STORED_VIDEO_BYTES", 100)
    with pytest.raises(ClipError, match="bytes, at most 100 are read"):
        read_video(str(root), rows[3])
    storage = RunStorage("memory://hostile")
    storage.write("x", b"12345")
    with pytest.raises(OSError, match="more than 3 bytes"):
        read_inside(storage.fs, "/hostile", "x", 3)
    (root / "FileList.csv").unlink()
    (root / "FileList.csv").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match=r"FileList.csv cannot be read: FileList.csv is a link that leads out"):
        read_file_list(str(root))


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9.0,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile 'http://127.0.0.1/x.avi'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ],
)
def test_a_list_of_addresses_is_no_video(text: str) -> None:
    with pytest.raises(ClipError, match="is not a readable video"):
        decode_video(text.encode(), name="a.avi")


@given(TEXTS)
def test_no_cell_of_our_csv_files_is_a_formula(name: str) -> None:
    clip = beating_clip("0XA", num_frames=12, size=16, period=6)
    try:
        plain = file_name(name)
    except InputError:
        return
    masks = {4: clip.truth_labels[4] == 1}
    rows = [file_list_fields(clip, plain, "TRAIN"), *tracing_fields(plain, masks)]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    for row in csv.reader(io.StringIO(text.getvalue(), newline="")):
        for cell in row:
            assert cell[:1] not in tuple("=+@\t\r") or not cell
            assert not cell.startswith("-") or float(cell) < 0


SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'


def test_the_report_shows_text_as_text(tmp_path: Path) -> None:
    storage = RunStorage(str(tmp_path))
    config = {"name": SCRIPT, "students": {IMAGE: {}}, "source": {"kind": SCRIPT, "path": IMAGE}}
    storage.write("config.yaml", json.dumps(config).encode())
    storage.write("identity.json", json.dumps({"teacher_id": SCRIPT, "config_hash": IMAGE, "version": SCRIPT}).encode())
    storage.write("run.json", json.dumps({"error": IMAGE + SCRIPT, "machine": {SCRIPT: IMAGE}}).encode())
    names = (SCRIPT, IMAGE, "a$\\frac$", "_b\x00\x1b[2J")
    scores = [CaseScore(SCRIPT, IMAGE, name, 1, "dice_all", SCRIPT, "", 0.5, 0.5, 1) for name in (*names, "")]
    write_records(storage, "scores/part-0.parquet", scores)
    write_records(storage, "quarantine/part-0.parquet", [Quarantined(1, 1, SCRIPT, IMAGE, SCRIPT + IMAGE)])
    rows = [
        dict(zip(TRAINING_SCHEMA.names, (name, step, 0.5, 1.0, 1.0, 2.0, 0.1, {name: 0.5}), strict=True))
        for name in names
        for step in (1, 2)
    ]
    storage.write_table("logs/training-0.parquet", rows, TRAINING_SCHEMA)
    page = render_report(storage)
    assert page.lower().count("<script") == 1  # its own, and the policy lets no other one run
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;") >= 10
    assert page.count("script-src 'sha256-") == 1
    assert "default-src 'none'" in page


def test_yaml_that_grows_or_loops_is_refused(tmp_path: Path) -> None:
    bomb = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    for text, sentence in (
        (bomb, "holds more than 100000 values once its aliases are expanded"),
        ("a: &a [*a]\n", "an alias \\*a inside of its own value"),
        ("[" * 3000, "nested deeper than 50 levels"),
        ("x: " + "y" * (2 << 20), "bytes, a config may have 1048576"),
        ("a: !!python/object/apply:os.system [touch x]", "could not determine a constructor"),
    ):
        with pytest.raises(InputError, match=sentence):
            parse_yaml(text.encode(), "config.yaml")
    path = tmp_path / "bomb.yaml"
    path.write_text(bomb)
    with pytest.raises(ConfigError, match=r"^--config: .*bomb.yaml is nested deeper"):
        load_config(str(path))
    assert parse_yaml(b"a: &x {b: 1}\nc: *x\n", "f") == {"a": {"b": 1}, "c": {"b": 1}}
