"""Read folders in the layout of CAMUS: apical two- and four-chamber half cycles with labels of three structures.

Leclerc et al., "Deep Learning for Segmentation Using an Open Large-Scale Dataset in 2D Echocardiography", IEEE TMI
2019. Two layouts are in use, PATIENT being ``patient0001`` and so on, VIEW ``2CH`` or ``4CH``:

* NIfTI: ``PATIENT/PATIENT_VIEW_half_sequence.nii.gz``, ``..._half_sequence_gt.nii.gz`` (labels of every frame), and
  single ED and ES frames as ``PATIENT_VIEW_{ED,ES}[_gt].nii.gz``;
* MetaImage: ``PATIENT/PATIENT_VIEW_sequence.mhd`` and ``PATIENT_VIEW_{ED,ES}[_gt].mhd``, pixels in ``.raw``/``.zraw``.

``Info_VIEW.cfg`` beside them has ``key: value`` lines: ED and ES (frames counted from 1), FrameRate (only in the NIfTI
layout), Sex, Age, ImageQuality, EF or LVef, LVedv, LVesv. Patients may lie in a folder ``database_nifti``, and lists of
them in ``database_split/subgroup_{training,validation,testing}.txt``.
"""

from __future__ import annotations

import codecs
import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from echodfkd.config.sections.source import LIMITS
from echodfkd.core.errors import ClipError, InputError, one_line
from echodfkd.core.records import TRUTH_UNKNOWN, Conditions
from echodfkd.sources.notes import Notes
from echodfkd.sources.video.volumes import MAX_VOLUME_HEADER_BYTES, Volume, read_metaimage, read_nifti
from echodfkd.storage.files import read_inside
from echodfkd.storage.object_store import as_os_errors, open_filesystem

VIEWS = {"2CH": "A2C", "4CH": "A4C"}
"""CAMUS's name of a view to `Conditions.view`."""
CAMUS_CLASSES = ("background", "LV", "myocardium", "LA")
SPLITS = {"TRAIN": "training", "VAL": "validation", "TEST": "testing"}
QUALITY = {"good": 5 / 6, "medium": 1 / 2, "poor": 1 / 6}
"""CAMUS's grades on our scale, 0 (barely readable) .. 1 (textbook): the middles of its thirds. Chosen."""
MAX_VOLUME_BYTES = 1 << 28
_ENDINGS = (".nii.gz", ".nii", ".mhd")
_SEQUENCES = tuple(f"{what}{end}" for what in ("half_sequence", "sequence") for end in _ENDINGS)
_EXPECTED = "expected a folder with patient0001, patient0002 ... or database_nifti"


@dataclass(frozen=True)
class CamusRecording:
    """One view of one patient.

    ``video`` uint8 (T, H, W); ``labels`` uint8 (T, H, W) into `CAMUS_CLASSES`, `TRUTH_UNKNOWN` in frames without
    labels; ``spacing_mm`` height and width of a pixel; ``fps`` None if the layout has none; ``ed_frame`` and
    ``es_frame`` as chosen by its readers, counted from 0.
    """

    video: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float]
    fps: float | None
    ed_frame: int
    es_frame: int
    conditions: Conditions


def list_patients(root: str, split: str) -> list[str]:
    """Names of the patients of a split (TRAIN, VAL, TEST) or of all (ALL), in order.

    Raises:
        InputError: no such folder, no patients in it, no such split, or its list is missing or names unknown patients.
    """
    fs, base = _patients_folder(root)
    found = sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in fs.ls(base, detail=False))
    patients = [name for name in found if re.fullmatch(r"patient[0-9]{1,6}", name)]
    if not patients:
        raise InputError(f"the folder {root} holds no patients; {_EXPECTED}")
    if split.upper() == "ALL":
        return patients
    if split.upper() not in SPLITS:
        raise InputError(f"{root} has no split {split!r} (source.split); allowed are {', '.join(SPLITS)}, ALL")
    file = f"database_split/subgroup_{SPLITS[split.upper()]}.txt"
    folders = [folder for folder in (base, base.rpartition("/")[0]) if fs.exists(f"{folder}/{file}")]
    if not folders:
        raise InputError(f"{root} holds no {file}, which source.split={split} needs; ALL takes every patient")
    try:
        listed = read_inside(fs, folders[0], file, 1 << 20).decode().split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{root}: {file} cannot be read: {error}") from error
    if unknown := sorted(set(listed) - set(patients)):
        raise InputError(f"{root}: {file} names {unknown[0][:40]!r}, of whom there is no folder")
    return sorted(set(listed))


def check_recordings(root: str, recordings: Sequence[tuple[str, str]], notes: Notes) -> None:
    """Count the recordings (patient, view) whose files are missing, by one listing.

    Raises:
        InputError: the folder cannot be listed, no recording has its files, or nibabel is needed and not installed.
    """
    fs, base = _patients_folder(root)
    try:
        with as_os_errors():
            files = {str(path)[len(base) + 1 :] for path in fs.find(base, maxdepth=2)}
    except OSError as error:
        raise InputError(f"the folder {root} cannot be listed: {one_line(error)}") from error
    absent = 0
    for patient, view in recordings:
        stem = f"{patient}/{patient}_{view}"
        sequence = any(f"{stem}_{what}" in files for what in _SEQUENCES)
        stills = all(any(f"{stem}_{phase}{end}" in files for end in _ENDINGS) for phase in ("ED", "ES"))
        if not sequence and not stills:
            notes.count("recordings with neither a sequence nor images of ED and ES; they are quarantined", stem)
            absent += 1
        elif sequence and f"{patient}/Info_{view}.cfg" not in files:
            fact = "sequences without the file that tells ED and ES; they are quarantined"
            notes.count(fact, f"Info_{view}.cfg of {stem}")
            absent += 1
    if absent == len(recordings):
        raise InputError(f"{root}: none of the {absent} recordings has its files; {notes.sentences[0]}")
    if any(name.endswith((".nii", ".nii.gz")) for name in files) and not importlib.util.find_spec("nibabel"):
        raise InputError("reading NIfTI needs nibabel: pip install 'echodfkd[medical]'")


def read_recording(root: str, patient: str, view: str) -> CamusRecording:
    """Read one view of one patient; only ED and ES if there is no sequence.

    Raises:
        InputError: nibabel is needed and not installed.
        ClipError: a file is missing, damaged or too large, or the files do not fit together.
    """
    folder = _Folder(root, patient, view)
    info = folder.info()
    sequence = folder.volume("half_sequence") or folder.volume("sequence")
    stills = {phase: folder.labels(phase) for phase in ("ED", "ES")}
    if sequence is None:
        images = [folder.volume(phase) for phase in ("ED", "ES")]
        if images[0] is None or images[1] is None:
            raise ClipError(f"{folder.name} has neither a sequence nor images of ED and ES")
        ed, es, sequence = 0, 1, _join(images[0], images[1], folder.name)
        every = None
    else:
        ed, es = (_frame(info, phase, len(sequence.values), folder.name) for phase in ("ED", "ES"))
        every = folder.labels("half_sequence")
    if ed == es:
        raise ClipError(f"{folder.name}: ED and ES are one frame ({ed + 1})")
    if (brightest := sequence.values.max()) <= 1:
        raise ClipError(f"{folder.name}: its largest grey level is {brightest}, which is black; expected up to 255")
    labels = np.full(sequence.values.shape, TRUTH_UNKNOWN, np.uint8)
    if every is not None:
        labels = _fitting(every, sequence.values.shape, folder.name)
    for frame, still in ((ed, stills["ED"]), (es, stills["ES"])):
        if still is not None and every is None:
            labels[frame] = _fitting(still, (1, *sequence.values.shape[1:]), folder.name)[0]
    _check_phases(labels, ed, es, folder.name)
    fps = _number(info, "FrameRate")
    if fps is not None and not 1 <= fps <= 1000:
        raise ClipError(f"{folder.name} has {fps:g} frames a second, expected 1 .. 1000")
    return CamusRecording(sequence.values, labels, sequence.spacing_mm, fps, ed, es, _conditions(info, view))


class _Folder:
    """The files of one view."""

    def __init__(self, root: str, patient: str, view: str) -> None:
        self.name = f"{patient}_{view}"
        self._fs, base = _patients_folder(root)
        self._folder, self._view = f"{base}/{patient}", view

    def info(self) -> dict[str, str]:
        data = self._read(f"Info_{self._view}.cfg", MAX_VOLUME_HEADER_BYTES)
        if data is None:
            return {}
        text = data.decode("utf-8-sig" if data.startswith(codecs.BOM_UTF8) else "latin-1", errors="replace")
        pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
        found = {key.strip(): value.strip() for key, _, value in pairs}
        if not found:
            raise ClipError(f"{self.name}: Info_{self._view}.cfg has no line `key: value`")
        return found

    def volume(self, what: str) -> Volume | None:
        """The frames of a file in either format; None if there is no such file."""
        stem = f"{self.name}_{what}"
        for ending in (".nii.gz", ".nii"):
            data = self._read(stem + ending, MAX_VOLUME_BYTES)
            if data is not None:
                return read_nifti(data, stem + ending)
        header = self._read(f"{stem}.mhd", MAX_VOLUME_HEADER_BYTES)
        return None if header is None else read_metaimage(header, self._pixels, f"{stem}.mhd")

    def labels(self, what: str) -> np.ndarray | None:
        found = self.volume(f"{what}_gt")
        if found is not None and found.values.max() >= len(CAMUS_CLASSES):
            raise ClipError(
                f"{self.name}_{what}_gt holds the label {found.values.max()}, known are 0 to {len(CAMUS_CLASSES) - 1}"
            )
        return None if found is None else found.values

    def _pixels(self, file: str) -> bytes:
        data = self._read(file, MAX_VOLUME_BYTES)
        if data is None:
            raise ClipError(f"{self.name}: {file} is missing, but its header names it")
        return data

    def _read(self, file: str, limit: int) -> bytes | None:
        if not self._fs.exists(f"{self._folder}/{file}"):
            return None
        try:
            return read_inside(self._fs, self._folder, file, limit)
        except (OSError, ValueError) as error:
            raise ClipError(f"{self.name}: {file} cannot be read: {error}") from error


def _patients_folder(root: str) -> tuple[Any, str]:
    try:
        fs, base = open_filesystem(root.rstrip("/"))
        if not fs.isdir(base):
            raise InputError(f"there is no folder {root}; {_EXPECTED}")
        return fs, f"{base}/database_nifti" if fs.isdir(f"{base}/database_nifti") else base
    except (ValueError, ImportError, OSError) as error:
        raise InputError(f"the folder {root} cannot be read: {error}") from error


def _join(ed: Volume, es: Volume, name: str) -> Volume:
    if ed.values.shape != es.values.shape or len(ed.values) != 1:
        raise ClipError(
            f"{name}: ED is {ed.values.shape} and ES {es.values.shape}, expected one frame each of one size"
        )
    return Volume(np.concatenate([ed.values, es.values]), ed.spacing_mm)


def _fitting(labels: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    if labels.shape != shape:
        raise ClipError(f"{name} has labels {labels.shape} for images {shape}")
    return labels


def _frame(info: dict[str, str], phase: str, frames: int, name: str) -> int:
    file = f"Info_{name.rpartition('_')[2]}.cfg"
    if phase not in info:
        found = f"{file} has no line {phase}" if info else f"{file} is missing"
        raise ClipError(f"{name}: {found}, which says the frame of {phase}")
    number = _number(info, phase)
    if number is None or number != int(number) or not 1 <= number <= frames:
        raise ClipError(f"{name}: {phase} is {info[phase][:20]!r} in {file}, expected 1 .. {frames}")
    return int(number) - 1


def _check_phases(labels: np.ndarray, ed: int, es: int, name: str) -> None:
    """Raise `ClipError` if the LV is not larger at ED than at ES, if both are labelled."""
    areas = [int((labels[frame] == CAMUS_CLASSES.index("LV")).sum()) for frame in (ed, es)]
    if all((labels[frame] != TRUTH_UNKNOWN).any() for frame in (ed, es)) and not areas[0] > areas[1] > 0:
        raise ClipError(
            f"{name}: its LV has {areas[0]} pixels at ED (frame {ed + 1}) and {areas[1]} at ES (frame {es + 1}),"
            " expected more at ED, and some at ES"
        )


def _number(info: dict[str, str], key: str) -> float | None:
    try:
        value = float(info.get(key, ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _possible(info: dict[str, str], key: str, condition: str) -> float | None:
    """A clinical value; None if no patient can have it."""
    value = _number(info, key)
    low, high = LIMITS[condition]
    return value if value is not None and low <= value <= high else None


def _conditions(info: dict[str, str], view: str) -> Conditions:
    ef = _possible(info, "EF", "ef_percent")
    sex = info.get("Sex", "").upper()
    return Conditions(
        ef_percent=_possible(info, "LVef", "ef_percent") if ef is None else ef,
        edv_ml=_possible(info, "LVedv", "edv_ml"),
        esv_ml=_possible(info, "LVesv", "esv_ml"),
        age_years=_possible(info, "Age", "age_years"),
        sex=sex if sex in ("F", "M") else None,
        view=VIEWS[view],
        image_quality=QUALITY.get(info.get("ImageQuality", "").lower()),
    )
