"""Bytes of a clip's teacher masks in the cache and in the stream, beside stores of other kinds.

Legend: T frames, H = W pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from echodfkd.core.mask_codes import PROBABILITY, decode, encode
from echodfkd.metrics.overlap import dice
from echodfkd.models.teachers.build import build_teacher
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.sources.written.shards import CODEC, LEVEL
from echodfkd.teaching.mask_files import StoredMask, encode_masks
from tests.benchmarks.timing import Report

SETTINGS = {"demo": (16, 32.0, 56), "published size": (25, 32.0, 112)}
CLIPS, QUICK_CLIPS = 64, 6
TOP_SHARE = 0.05
"""Of a frame's pixels, whose values a top-k store keeps: the least certain ones."""

Store = Callable[[np.ndarray], tuple[int, np.ndarray]]
"""Codes uint8 (T, H, W) -> bytes, and the probability that is read back."""


def mask_stores(report: Report, *, quick: bool) -> dict[str, object]:
    """Bytes of a clip's masks in the cache over a bit a pixel, and bytes and errors of other stores."""
    worst, rows = 0.0, []
    for name, (frames, fps, size) in SETTINGS.items():
        source = default_phantom(seed=90_000_001, num_frames=frames, fps=fps, size=size, case_frames=frames)
        teacher = build_teacher(kind="embedded", weights="", device="cpu", batch_frames=128)
        clips = [source.clip(number) for number in range(QUICK_CLIPS if quick else CLIPS)]
        codes = [teacher.teach(clip.video[None], code=PROBABILITY).masks[0, :, 0] for clip in clips]
        table = {}
        for store, keep in STORES.items():
            kept = [keep(one) for one in codes]
            error = np.mean([np.abs(read - decode(one)).mean() for (_, read), one in zip(kept, codes, strict=True)])
            overlap = [
                dice(read > 0.5, clip.truth_labels == 1).mean() for (_, read), clip in zip(kept, clips, strict=True)
            ]
            table[store] = float(np.mean([size for size, _ in kept]))
            report(f"{name:<15} {store:<22} {table[store]:9.0f} bytes  Dice {np.mean(overlap):.4f}  error {error:.5f}")
            rows.append({"setting": name, "store": store, "bytes": table[store], "error": float(error)})
        worst = max(worst, table["cache"] / table["bits"])
    return {"value": worst, "target": 1.0, "holds": worst <= 1.0, "unit": "cache over a bit a pixel", "rows": rows}


def _stream(codes: np.ndarray) -> tuple[int, np.ndarray]:
    return codes.nbytes, decode(codes)


def _cache(codes: np.ndarray) -> tuple[int, np.ndarray]:
    return len(encode_masks([StoredMask("clip", "teacher", ("LV",), codes[:, None], "0" * 64)])), decode(codes)


def _npz(codes: np.ndarray) -> tuple[int, np.ndarray]:
    sink = io.BytesIO()
    np.savez_compressed(sink, codes)
    return sink.tell(), decode(codes)


def _zstd_bytes(data: bytes) -> int:
    return len(pa.Codec(CODEC, compression_level=LEVEL).compress(data))


def _packed(codes: np.ndarray) -> bytes:
    return np.packbits(decode(codes) > 0.5).tobytes()


def _bits(codes: np.ndarray) -> tuple[int, np.ndarray]:
    return len(_packed(codes)), (decode(codes) > 0.5).astype(np.float32)


def _bits_zstd(codes: np.ndarray) -> tuple[int, np.ndarray]:
    return _zstd_bytes(_packed(codes)), (decode(codes) > 0.5).astype(np.float32)


def _top(codes: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Each frame's least certain pixels, as numbers (uint16) and codes, beside the bits of all."""
    prob = decode(codes).reshape(len(codes), -1)
    count = round(TOP_SHARE * prob.shape[1])
    places = np.sort(np.argsort(np.abs(prob - 0.5), axis=1, kind="stable")[:, :count], axis=1)
    read = (prob > 0.5).astype(np.float32)
    values = np.take_along_axis(prob, places, 1)
    np.put_along_axis(read, places, values, 1)
    kept = places.astype(np.uint16).tobytes() + encode(values, PROBABILITY).tobytes() + _packed(codes)
    return kept, read.reshape(codes.shape)


def _top_plain(codes: np.ndarray) -> tuple[int, np.ndarray]:
    kept, read = _top(codes)
    return len(kept), read


def _top_zstd(codes: np.ndarray) -> tuple[int, np.ndarray]:
    kept, read = _top(codes)
    return _zstd_bytes(kept), read


STORES: dict[str, Store] = {
    "stream": _stream,
    "cache": _cache,
    "npz, as the authors'": _npz,
    "bits": _bits,
    "bits, zstd": _bits_zstd,
    "top-k": _top_plain,
    "top-k, zstd": _top_zstd,
}
