"""A contact sheet of clips: one picture of many hearts at three times of the beat, with the truth drawn.

Legend: N clips, h rows and w columns of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from echodfkd.core.records import VideoClip
from echodfkd.metrics.surface import border
from echodfkd.sources.video.sheets import in_rows, png, titled

_CONTOUR = (255, 196, 0)


def contact_sheet(clips: Sequence[VideoClip], *, columns: int) -> bytes:
    """A PNG of all clips, row by row, each as three frames: end-diastole with the ventricle's contour, end-systole,
    and 0.15 s later, when the heart fills and the mitral valve is open.

    Args:
        clips: with at least one ED and one ES frame each; all of one size.
        columns: clips in a row.
    """
    return png(in_rows([_tile(clip) for clip in clips], columns), colours=128)


def _tile(clip: VideoClip) -> np.ndarray:
    """Three frames under a line of text, uint8 (h, w, 3)."""
    assert clip.ed_frames, "a clip of a contact sheet needs an ED frame"
    assert clip.es_frames, "a clip of a contact sheet needs an ES frame"
    times = (clip.ed_frames[0], clip.es_frames[0], min(clip.es_frames[0] + round(0.15 * clip.fps), len(clip.video) - 1))
    frames = [np.repeat(clip.video[time][..., None], 3, -1) for time in times]
    if clip.truth_labels is not None:
        frames[0][border(clip.truth_labels[clip.ed_frames[0]] == 1)] = _CONTOUR
    known = clip.conditions
    words = [known.view] if known.view else []
    words += [f"EF {known.ef_percent:.0f} %"] if known.ef_percent is not None else []
    words += [f"EDV {known.edv_ml:.0f} mL"] if known.edv_ml is not None else []
    words += [f"{known.heart_rate_bpm:.0f}/min"] if known.heart_rate_bpm is not None else []
    words += [f"quality {known.image_quality:.1f}"] if known.image_quality is not None else []
    tile = np.pad(np.concatenate(frames, axis=1), ((0, 3), (0, 4), (0, 0)))
    return titled(tile, "  ".join(words))
