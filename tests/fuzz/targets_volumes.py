"""CAMUS's folders and numpy's own files: how they are spoiled and what must hold then."""

from __future__ import annotations

import importlib.util
import io
import random
import shutil
from pathlib import Path

import numpy as np

from echodfkd.core.errors import ClipError
from echodfkd.sources.camus import CamusSource
from echodfkd.sources.clip_source import WindowSettings
from echodfkd.sources.video.annotations import AnnotationFolder
from echodfkd.sources.video.arrays import parse_npy
from tests.fuzz.mutate import WORDS, damage_bytes
from tests.helpers.camus import write_metaimage_patient, write_nifti_patient


class Camus:
    """One file of a patient's folder: headers, pixels, info; NIfTI where nibabel is installed."""

    name = "camus"

    def __init__(self, folder: Path) -> None:
        self.folder, self.good = folder / "spoiled", folder / "good"
        write_metaimage_patient(self.good, "patient0001")
        write_metaimage_patient(self.good, "patient0002", compressed=True)
        if importlib.util.find_spec("nibabel"):
            write_nifti_patient(self.good, "patient0003", ("4CH",))

    def run(self, rng: random.Random) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.good, self.folder)
        patient = rng.choice(sorted(self.folder.iterdir()))
        file = rng.choice([path for path in sorted(patient.iterdir()) if "_E" not in path.name or rng.random() < 0.3])
        if file.suffix in (".mhd", ".cfg") and rng.random() < 0.7:
            lines = file.read_text().splitlines()
            place = rng.randrange(len(lines))
            key = lines[place].split("=" if file.suffix == ".mhd" else ":")[0]
            word = rng.choice([word for word in WORDS if len(word) < 1000])
            lines[place] = f"{key}{'=' if file.suffix == '.mhd' else ':'} {word}"
            file.write_text("\n".join(lines), errors="surrogatepass")
        else:
            file.write_bytes(damage_bytes(rng, file.read_bytes()))
        window = WindowSettings(frames=4, fps=0.0, size=16, case_frames=8)
        source = CamusSource(str(self.folder), "ALL", "4CH", window, seed=0)
        error = None
        for number in range(source.num_cases):
            try:
                case = source.case(number)
            except ClipError as found:
                error = found
                continue
            assert case.video.dtype == case.truth_labels.dtype == np.uint8
            assert case.video.shape == case.truth_labels.shape
            assert 0 < case.spacing_mm < 1e6
            assert case.fps >= 1
        if error is not None:
            assert error.clip_id.startswith("camus-patient")
            raise error


class Arrays:
    """.npy files, also as a reader's tracing."""

    name = "arrays"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        rng = np.random.default_rng(0)
        sinks = [io.BytesIO() for _ in range(2)]
        np.save(sinks[0], rng.uniform(0, 112, (21, 4)))
        np.save(sinks[1], np.array([{"a": 1}], dtype=object), allow_pickle=True)
        self.good = [sink.getvalue() for sink in sinks]

    def run(self, rng: random.Random) -> None:
        kind = rng.randrange(2)
        data = damage_bytes(rng, self.good[kind]) if rng.random() < 0.9 else self.good[kind]
        if kind == 0:
            (self.folder / "0X1A.systol.label0.npy").write_bytes(data)
            masks = AnnotationFolder(str(self.folder)).masks("0X1A", "es", 112, 112)
            assert masks.shape == (1, 112, 112)
            return
        try:
            found = parse_npy(data)
        except ValueError as error:
            raise ClipError(str(error)) from error
        assert found.dtype.kind in "fiub"
