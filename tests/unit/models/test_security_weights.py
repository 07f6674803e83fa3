"""Every loader of weights gets files that would leave a mark if anything in them ran."""

import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from echodfkd.config.sections.teacher import TeacherConfig
from echodfkd.core.errors import ClipError, InputError
from echodfkd.models.judges.embedded import read_towers
from echodfkd.models.teachers.deeplabv3 import load_echonet_checkpoint
from echodfkd.models.teachers.unet import load_embedded_teacher
from echodfkd.storage.checkpoints import read_resume, read_student
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint
from echodfkd.teaching.build import build_configured_teacher
from echodfkd.teaching.mask_files import decode_masks, decode_npz
from tests.helpers.training import run_training, small_config


class Payload:
    """Touches the mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


def as_archive(payload: Payload) -> bytes:
    sink = io.BytesIO()
    torch.save({"state_dict": {"module.weight": torch.zeros(2)}, "extra": payload}, sink)
    return sink.getvalue()


def as_old_archive(payload: Payload) -> bytes:
    sink = io.BytesIO()
    torch.save({"state_dict": payload}, sink, _use_new_zipfile_serialization=False)
    return sink.getvalue()


def as_pickle(payload: Payload) -> bytes:
    return pickle.dumps(payload)


def as_npy(payload: Payload) -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.array([payload], dtype=object), allow_pickle=True)
    return sink.getvalue()


def as_npz(payload: Payload) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, weights=np.array([payload], dtype=object))
    return sink.getvalue()


def as_safetensors_lookalike(payload: Payload) -> bytes:
    """A true header, and a pickle where the tensors should be, longer than the header says."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return len(header).to_bytes(8, "little") + header + pickle.dumps(payload)


def as_zip_with_code(payload: Payload) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(payload))
        archive.writestr("archive/version", "3")
        archive.writestr("archive/code/__torch__.py", "import os")
        archive.writestr("archive/constants.pkl", pickle.dumps(payload))
    return sink.getvalue()


FILES = (as_archive, as_old_archive, as_pickle, as_npy, as_npz, as_safetensors_lookalike, as_zip_with_code)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("security") / "run"
    assert "error" not in run_training(small_config(), root)
    return root


@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
def test_no_loader_runs_what_a_file_holds(make: Callable[[Payload], bytes], tmp_path: Path, run: Path) -> None:
    mark = tmp_path / "mark"
    data = make(Payload(mark))
    path = tmp_path / "weights.pt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"teacher.weights: .*(was not opened|is not a torch checkpoint)"):
        load_echonet_checkpoint(str(path))
    with pytest.raises(InputError, match=r"cannot be read as a safetensors file|is not an embedded teacher"):
        load_embedded_teacher(str(path))
    for kind, words in (("torchvision", "cannot be read as a safetensors file"), ("exported", "was not opened")):
        options = {"network": "fcn_resnet50", "pixel_mean": [0.0], "pixel_std": [1.0]}
        with pytest.raises(InputError, match=words):
            build_configured_teacher(TeacherConfig(kind=kind, weights=str(path), **options), device="cpu")
    with pytest.raises(InputError, match=r"teacher.reference: .* cannot be read"):
        build_configured_teacher(TeacherConfig(reference=str(path)), device="cpu")
    for read in (decode_npz, decode_masks):
        with pytest.raises(ClipError, match=r"no readable|no plain numbers|objects are never unpickled|expected one"):
            read(data, "weights.pt")
    with pytest.raises(InputError, match="the embedded judge cannot be loaded"):
        read_towers(path)
    shutil.copytree(run, tmp_path / "run")
    storage = RunStorage(str(tmp_path / "run"))
    for file, read in (("student", read_student), ("resume", read_resume)):
        replace_and_sign(storage, f"a/{file}.safetensors", data)
        commit = latest_checkpoint(storage)
        assert commit is not None
        with pytest.raises(InputError, match=r"holds no tensors|holds no step"):
            read(storage, commit, "a")
    assert not mark.exists()
    os.system(f"touch '{mark}'")
    assert mark.exists()  # the payload would have


def replace_and_sign(storage: RunStorage, file: str, data: bytes) -> None:
    """Another file under the newest manifest, with its true size and hash: what a bucket's other user can do."""
    folder = storage.list("checkpoints")[-1]
    manifest = json.loads(storage.read(f"{folder}/manifest.json"))
    manifest["files"][file] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    storage.write(f"{folder}/{file}", data)
    storage.write(f"{folder}/manifest.json", json.dumps(manifest).encode())


def test_a_run_leaves_no_pickle(run: Path) -> None:
    files = [path for path in run.rglob("*") if path.is_file()]
    assert files
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".parquet", ".yaml", ".jsonl"}
    for path in files:
        assert not path.read_bytes().startswith((b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")), path
