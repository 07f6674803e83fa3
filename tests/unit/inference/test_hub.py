"""A student goes to the Hugging Face hub and comes back, through huggingface_hub, against a fake of its HTTP API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from echodfkd.core.errors import InputError
from echodfkd.inference import hub
from echodfkd.inference.export.checks import Difference
from echodfkd.inference.student import load_student
from jobs import export
from tests.helpers.hub import TOKEN, FakeHub
from tests.unit.inference.test_export import saved


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub, with a token of the library's own file."""
    from huggingface_hub import constants

    fake = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", fake.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", fake.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "token").write_text(TOKEN)
    yield fake
    fake.close()


def test_a_student_is_pushed_and_pulled(
    fake: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [("stream", b"an ONNX file")]  # to make a true one takes seconds, and other tests do
    monkeypatch.setattr("echodfkd.inference.export.folder._build", lambda student, kinds: made)
    same = Difference(24, 0.0, 1.0, 1.0)
    monkeypatch.setattr("echodfkd.inference.export.folder.check_file", lambda *given: same)
    source, out = saved(tmp_path), tmp_path / "out"
    command = [source, "--out", str(out), "--formats", "stream", "--push", "me/tiny"]
    assert export.main(command) == 0
    assert fake.repos["me/tiny"] == {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(fake.repos["me/tiny"]) == {"student.safetensors", "student_stream.onnx", "config.json", "README.md"}
    assert fake.private == {"me/tiny"}, "a new repository is shown to nobody"
    again = load_student("hf://me/tiny")
    assert again.file.sha256 == load_student(str(out / "student.safetensors")).file.sha256
    with pytest.raises(InputError, match="is no ONNX model"):
        load_student("hf://me/tiny@v1/student_stream.onnx")
    assert export.main(command) == 0, "a repository that exists gets another commit"
    printed = capsys.readouterr()
    assert f"{fake.url}/me/tiny/commit/" in printed.out
    (tmp_path / "token").write_text(wrong := "hf_" + "Xy1" * 8)
    assert export.main(command) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: --push: me/tiny cannot be written: ")
    assert "401" in printed.err
    for secret in (TOKEN, wrong):
        assert secret not in printed.out + printed.err
        assert all(secret.encode() not in data for data in fake.repos["me/tiny"].values())


def test_what_the_hub_lacks_or_keeps_is_one_sentence(fake: FakeHub, tmp_path: Path) -> None:
    fake.repos["me/tiny"] = {"a.txt": b"1", "large.onnx": b"2" * 100}
    for address, words in (
        ("hf://me", "expected hf://OWNER/NAME"),
        ("hf://me/tiny/../x", "expected hf://OWNER/NAME"),
        ("hf://me/none", "cannot be fetched: .*401|cannot be fetched: .*Not Found"),
        ("hf://me/tiny", "cannot be fetched: .*404"),
        ("hf://me/tiny@v9/a.txt", "cannot be fetched: .*404"),
    ):
        with pytest.raises(InputError, match=words):
            load_student(address)
    fake.private = {"me/tiny"}
    (tmp_path / "token").unlink()
    with pytest.raises(InputError, match="401"):
        load_student("hf://me/tiny/a.txt")


def test_a_file_that_is_too_large_is_not_fetched(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.repos["me/tiny"] = {"student.safetensors": b"2" * 100}
    monkeypatch.setattr(hub, "MAX_TABLE_BYTES", 99)
    with pytest.raises(InputError, match=r"^--student: hf://me/tiny has 100 bytes, at most 99 are read"):
        load_student("hf://me/tiny")
    assert not any(asked.startswith("GET") for asked in fake.asked)


def test_a_push_needs_a_folder_a_name_and_the_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(tmp_path)
    with pytest.raises(SystemExit):
        export.main([source, "--web", str(tmp_path / "web"), "--push", "me/tiny"])
    assert "name that folder too" in capsys.readouterr().err
    assert export.main([source, "--out", str(tmp_path / "out"), "--push", "tiny"]) == 2
    assert "--push: got tiny, expected OWNER/NAME" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"needs huggingface_hub, .* pip install 'echodfkd\[hub\]'"):
        load_student("hf://me/tiny")
