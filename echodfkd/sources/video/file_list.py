"""Read FileList.csv of EchoNet-Dynamic, EchoNet-Synthetic and EchoNet-Pediatric: one row per video.

EchoNet-Dynamic has EF, ESV, EDV, the frames' size, rate and number, and a Split of TRAIN, VAL or TEST.
EchoNet-Synthetic's generator writes the same columns, with a size and a number of frames that are wrong: both are only
used to refuse a video that is shorter, or tracings of another size. EchoNet-Pediatric (Reddy et al., "Video-Based Deep
Learning for Automated Assessment of Left Ventricular Ejection Fraction in Pediatric Patients", JASE 2023) has EF, Sex,
Age, Weight, Height, and a Split that is one of ten folds, 0 .. 9.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from echodfkd.config.sections.source import LIMITS
from echodfkd.core.errors import InputError
from echodfkd.core.records import Conditions
from echodfkd.sources.notes import Notes
from echodfkd.sources.video.cine_files import VIDEO_SUFFIXES
from echodfkd.sources.video.csv_lists import known_columns

FILE_LIST_COLUMNS = ("FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split")
"""EchoNet-Dynamic's columns, in its order."""

_NEEDED = ("FileName", "Split")
_FROM_HEADER = ("FPS", "NumberOfFrames")
_SPELLINGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(FILE_LIST_COLUMNS, ()),
    "EF": ("ef%", "efpercent"),
    "ESV": ("esvml",),
    "EDV": ("edvml",),
    "Sex": (),
    "Age": ("ageyears",),
    "Weight": ("weightkg",),
    "Height": ("heightcm",),
}
_EF_SLACK = 5.0
"""Points by which EF and the two volumes may disagree before it is said. Chosen: published lists round all three."""


@dataclass(frozen=True)
class EchoNetRow:
    """One row of FileList.csv; None if the field is blank.

    ``name`` is the FileName without its suffix, ``file`` the file in Videos/ (``.avi`` is added to a name without a
    suffix), ``frame_size`` height and width.
    """

    name: str
    file: str
    split: str
    fps: float | None
    num_frames: int | None
    frame_size: tuple[int, int] | None = None
    conditions: Conditions = field(default_factory=Conditions)


def parse_file_list(text: str, where: str, notes: Notes) -> list[EchoNetRow]:
    """The rows of a FileList.csv, in its order.

    Raises:
        InputError: missing columns, no rows, a field that is not a number, a FileName that is repeated or is not a
            plain file name.
    """
    reader = csv.reader(io.StringIO(text, newline=""))
    rows: dict[str, EchoNetRow] = {}
    try:
        header = next(reader, [])
        places = known_columns(header, _SPELLINGS, _NEEDED, where, notes)
        for cells in reader:
            if not any(cell.strip() for cell in cells):  # spreadsheets write lines of commas
                continue
            if len(cells) > len(header):
                raise InputError(f"{where} line {reader.line_num} has more fields than the file has columns")
            row = _Fields(cells, places, f"{where} line {reader.line_num}", where, notes).row()
            if row.name in rows:
                raise InputError(f"{where} line {reader.line_num}: FileName {row.name!r} is there twice")
            rows[row.name] = row
    except csv.Error as error:
        raise InputError(f"{where} line {reader.line_num + 1} cannot be read: {error}") from error
    if not rows:
        raise InputError(f"{where} lists no videos; expected one row per video")
    if missing := [column for column in _FROM_HEADER if column not in places]:
        notes.say(f"FileList.csv has no column {', '.join(missing)}: only the header of each video tells them")
    return list(rows.values())


def select_split(rows: Sequence[EchoNetRow], split: str, root: str) -> list[EchoNetRow]:
    """Rows of one split or several (``TRAIN``, ``0,1,2``; in upper or lower case), or all of them for ``ALL``.

    Raises:
        InputError: no row has one of these splits.
    """
    wanted = [word.strip().upper() for word in split.split(",")]
    if wanted == ["ALL"]:
        return list(rows)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.split] = counts.get(row.split, 0) + 1
    known = {name.upper() for name in counts}
    if unknown := [word for word in wanted if word not in known]:
        found = ", ".join(f"{name!r} ({count} videos)" for name, count in sorted(counts.items()))
        several = ", or several with commas" if len(counts) > 1 else ""
        raise InputError(
            f"{root}/FileList.csv has no video of split {unknown[0] if len(wanted) > 1 else split!r} (source.split);"
            f" it has {found}, or ALL{several}"
        )
    return [row for row in rows if row.split.upper() in wanted]


def plain_name(name: str, where: str) -> str:
    """Refuse a name that could lead out of Videos/ or has a meaning for a file system. Raises `InputError`."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+= -]{0,199}", name):
        raise InputError(
            f"{where}: FileName {name!r} is not a plain file name; "
            "allowed are letters, digits, '_', '-', '.', '+', '=' and blanks, with no folder"
        )
    return name


def stem(file: str) -> str:
    """A video's name without its suffix, if that is one of `VIDEO_SUFFIXES` in upper or lower case."""
    suffix = file[-4:].lower()
    return file[:-4] if suffix in VIDEO_SUFFIXES else file


@dataclass(frozen=True)
class _Fields:
    """The cells of one row."""

    cells: Sequence[str]
    places: dict[str, int]
    line: str
    where: str
    notes: Notes

    def row(self) -> EchoNetRow:
        file, split = self.text("FileName"), self.text("Split")
        name = plain_name(stem(file), self.line)
        if not split:
            self.count("rows of FileList.csv with a blank Split, which only ALL takes", repr(name))
        frames, height, width = (self.number(key) for key in ("NumberOfFrames", "FrameHeight", "FrameWidth"))
        return EchoNetRow(
            name=name,
            file=f"{name}.avi" if file == name else file,
            split=re.sub(r"(?<=[0-9])\.0$", "", split),  # a fold that went through floating-point numbers
            fps=self.rate(),
            num_frames=None if frames is None else int(frames),
            frame_size=(int(height), int(width)) if height and width else None,
            conditions=self.conditions(),
        )

    def rate(self) -> float | None:
        fps = self.number("FPS")
        if fps is None or fps > 0:
            return fps
        self.count("FPS that is not above 0 in rows of FileList.csv: the video's header tells it", f"{fps:g}")
        return None

    def conditions(self) -> Conditions:
        ef, edv, esv = self.possible("EF"), self.possible("EDV"), self.possible("ESV")
        if edv is not None and esv is not None:
            if esv > edv:
                self.count("ESV above EDV in rows of FileList.csv, both taken as unknown", f"{esv:g} and {edv:g}")
                edv = esv = None
            elif ef is not None and abs(ef - 100 * (1 - esv / edv)) > _EF_SLACK:
                self.count(f"EF more than {_EF_SLACK:g} points off EDV and ESV in rows of FileList.csv", f"EF {ef:g}")
        sex = self.text("Sex").upper()
        return Conditions(
            ef_percent=ef,
            edv_ml=edv,
            esv_ml=esv,
            age_years=self.possible("Age"),
            sex=sex[0] if sex in ("F", "M", "FEMALE", "MALE") else None,
            bsa_m2=self.body_surface(),
        )

    def body_surface(self) -> float | None:
        """Mosteller, "Simplified calculation of body-surface area", NEJM 1987: kilogrammes and centimetres."""
        weight, height = self.number("Weight"), self.number("Height")
        if weight is None or height is None or not (weight > 0 and height > 0):
            return None
        return self.within("bsa_m2", "body surface", math.sqrt(weight * height / 3600))

    def possible(self, column: str) -> float | None:
        """A clinical value; None, and counted, if no patient can have it."""
        value = self.number(column)
        return None if value is None else self.within(_LIMITED[column], column, value)

    def within(self, condition: str, what: str, value: float) -> float | None:
        low, high = LIMITS[condition]
        if low <= value <= high:
            return value
        hint = ", a fraction? expected percent" if what == "EF" and 0 < value < 1 else ""
        fact = f"{what} outside of the possible {low:g} .. {high:g} in rows of FileList.csv, taken as unknown"
        self.count(fact, f"{value:g}{hint}")
        return None

    def count(self, fact: str, example: str) -> None:
        self.notes.count(fact, f"{self.line[len(self.where) :].strip()}, {example}")

    def text(self, column: str) -> str:
        place = self.places.get(column, len(self.cells))
        return self.cells[place].strip() if place < len(self.cells) else ""

    def number(self, column: str) -> float | None:
        text = self.text(column)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError as error:
            raise InputError(f"{self.line}: {column} is {text!r}, expected a number") from error
        return value if math.isfinite(value) else None


_LIMITED = {"EF": "ef_percent", "EDV": "edv_ml", "ESV": "esv_ml", "Age": "age_years"}
