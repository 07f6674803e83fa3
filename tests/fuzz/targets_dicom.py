"""DICOM files: how they are spoiled and what must hold then."""

from __future__ import annotations

import io
import random
import warnings
from pathlib import Path

import numpy as np
import pydicom
from pydicom.encaps import encapsulate, generate_frames

from echodfkd.sources.video.container import MAX_VIDEO_BYTES
from echodfkd.sources.video.dicom import ELEMENTS, read_dicom
from tests.fuzz.mutate import damage_bytes, patch_after
from tests.helpers.dicom import dicom_bytes, region


class Dicom:
    """DICOM cines: elements, lengths, pixels, transfer syntaxes; files made here and those that pydicom ships."""

    name = "dicom"
    ODD = (
        None,
        "",
        0,
        1,
        -1,
        2,
        3,
        8,
        9,
        12,
        16,
        32,
        255,
        256,
        65535,
        1e-9,
        1e9,
        "NaN",
        "1e400",
        "DOE^JOHN",
        [1, 2],
        [0] * 40,
    )

    def __init__(self, folder: Path) -> None:
        levels = np.arange(256, dtype="<u2").tobytes()
        palette = {f"{colour}PaletteColorLookupTableData": levels for colour in ("Red", "Green", "Blue")}
        palette |= {f"{colour}PaletteColorLookupTableDescriptor": [256, 0, 16] for colour in ("Red", "Green", "Blue")}
        segments = np.array([0, 2, 0, 256, 1, 254, 65535], "<u2").tobytes()
        short = {
            key.replace("Red", "SegmentedRed"): segments for key in palette if key == "RedPaletteColorLookupTableData"
        }
        window = {"WindowCenter": 900, "WindowWidth": 2000, "RescaleSlope": "0.5", "RescaleIntercept": "-10"}
        times = {"FrameTime": None, "FrameTimeVector": ["0", "20", "20", "20", "20"]}
        self.good = [dicom_bytes(syntax=syntax) for syntax in ("explicit", "implicit", "rle", "jpeg")]
        self.good += [dicom_bytes(photometric=photometric) for photometric in ("RGB", "YBR_FULL", "YBR_FULL_422")]
        self.good += [dicom_bytes(bits=16), dicom_bytes(bits=16, elements=window), dicom_bytes(elements=times)]
        self.good += [dicom_bytes(photometric="PALETTE COLOR", elements={**palette, **more}) for more in ({}, short)]
        self.good += [dicom_bytes(regions=[region(0, 0, 31, 20), region(0, 10, 31, 23, RegionDataType=2)])]
        shipped = Path(pydicom.__file__).parent / "data" / "test_files"
        small = [data for path in sorted(shipped.glob("*.dcm")) if len(data := path.read_bytes()) < 150_000]
        self.shipped = [twice for data in small if (twice := _two_frames(data)) is not None]
        tags = "28000800 28001000 28001100 28000001 28000101 28000200 28000400 18006310 18001160 02001000 18001860"
        tags += " 28000201 28000600 28005010 28005110 28005310 28000111 28000112 28002112 18006510 18001860 18001c60"
        self.tags = [bytes.fromhex(tag) for tag in f"{tags} e07f1000 feff00e0 feffdde0".split()]
        self.keys = list(ELEMENTS)

    def run(self, rng: random.Random) -> None:
        data = rng.choice(self.good) if rng.random() < 0.6 else rng.choice(self.shipped)
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            data = self._other_element(rng, data)
        kind = rng.random()
        data = patch_after(rng, data, self.tags, reach=16) if kind < 0.5 else data
        data = damage_bytes(rng, data) if kind > 0.7 else data
        found = read_dicom(data, salt="sixteen letters!")
        assert found.video.dtype == np.uint8
        assert found.video.ndim == 3
        assert 0 < found.video.size <= MAX_VIDEO_BYTES
        assert np.isfinite(found.fps)
        assert found.spacing_mm is None or 0 < found.spacing_mm < np.inf
        assert all(text.isprintable() for text in found.warnings)
        assert "DOE" not in repr((found.clip_id, found.fps, found.spacing_mm, found.warnings))

    def _other_element(self, rng: random.Random, data: bytes) -> bytes:
        """The file with another value of an element that is read; the file itself if it cannot be written so."""
        sink = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                dataset = pydicom.dcmread(io.BytesIO(data))
                place = dataset
                if "SequenceOfUltrasoundRegions" in dataset and rng.random() < 0.3:
                    place = rng.choice(dataset.SequenceOfUltrasoundRegions)
                keys = [element.keyword for element in place if element.keyword] if rng.random() < 0.3 else self.keys
                setattr(place, rng.choice(keys), rng.choice(self.ODD))
                pydicom.dcmwrite(sink, dataset)
            except Exception:  # pydicom does not write every value everywhere
                return data
        return sink.getvalue()


def _two_frames(data: bytes) -> bytes | None:
    """A DICOM file with its only frame twice; None if it has no image."""
    sink = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(io.BytesIO(data))
            if dataset.file_meta.TransferSyntaxUID.is_compressed:
                frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
                dataset.PixelData = encapsulate([frame, frame])
            elif int(dataset.get("NumberOfFrames", 1)) == 1:
                dataset.PixelData = bytes(dataset.PixelData) * 2
            dataset.NumberOfFrames = max(2, int(dataset.get("NumberOfFrames", 1)))
            pydicom.dcmwrite(sink, dataset)
        except Exception:  # files that pydicom itself cannot write again
            return None
    return sink.getvalue()
