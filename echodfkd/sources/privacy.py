"""The privacy filter: a clip whose first frame resembles a reference frame too much is not used.

Reynaud et al., "EchoNet-Synthetic", MICCAI 2024: features of a re-identification network; a clip is rejected if its
largest Pearson correlation with the features of the training set's frames is above the 95th percentile of that same
number over a test set, whose patients are others.

Legend: N and M frames, H rows, W columns, K features.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from echodfkd.config.sections.privacy import PrivacyConfig
from echodfkd.core.counter import Counter
from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.records import VideoClip
from echodfkd.sources.clip_source import ClipSource
from echodfkd.storage.files import read_bytes

Encode = Callable[[np.ndarray], np.ndarray]
"""Grey frames uint8 (N, H, W) -> features float32 (N, K)."""
SIDE = 16
"""Cells of a frame along each axis that `pixels` averages to; smaller frames keep their own."""


class PrivacyFilter:
    """Tells which clips resemble a reference too much.

    Args:
        encode: of the frames.
        reference_MK: features of the reference frames.
        threshold: largest correlation of a clip that may be used.
    """

    def __init__(self, encode: Encode, reference_MK: np.ndarray, threshold: float) -> None:
        self._encode, self._reference, self._threshold = encode, reference_MK, threshold

    @property
    def note(self) -> str:
        """The filter in a sentence."""
        return (
            f"privacy: clips are not used if their first frame correlates by more than {self._threshold:.4f} with one"
            f" of {len(self._reference)} reference frames"
        )

    def reason(self, video_THW: np.ndarray) -> str:
        """Why this clip is not used; "" if it is."""
        found = float(largest_correlations(self._encode(video_THW[:1]), self._reference)[0])
        if found <= self._threshold:
            return ""
        return f"its first frame correlates by {found:.4f} with a reference frame, at most {self._threshold:.4f} may"


class FilteredClips:
    """A source whose clips pass the filter, or are `ClipError`s. Cases are those of the source."""

    def __init__(self, source: ClipSource, reason: Callable[[np.ndarray], str]) -> None:
        self.name, self.notes, self.num_cases, self.case = source.name, source.notes, source.num_cases, source.case
        self._source, self._reason = source, reason

    def clip(self, index: int) -> VideoClip:
        """The source's clip. Raises `ClipError` for one that resembles a reference too much, too."""
        clip = self._source.clip(index)
        if reason := self._reason(clip.video):
            raise rejected(reason, clip.clip_id)
        return clip


def rejected(reason: str, clip_id: str) -> ClipError:
    """The error of a clip that the filter rejects, in the stage ``privacy``."""
    error = ClipError(reason)
    error.clip_id, error.stage = clip_id, "privacy"  # type: ignore[attr-defined]
    return error


def largest_correlations(features_NK: np.ndarray, reference_MK: np.ndarray) -> np.ndarray:
    """Of each frame, the largest correlation with a reference frame, (N,). A frame of one level has 0."""
    from echodfkd.models.generators.reidentification import correlations

    return correlations(features_NK, reference_MK).max(axis=1)


@functools.lru_cache(maxsize=2)
def privacy_filter(options: PrivacyConfig) -> PrivacyFilter:
    """The filter, loaded once per process. Raises `InputError` if its files cannot be used."""
    where = f"privacy.reference: {options.reference}"
    try:
        tensors = load(read_bytes(options.reference))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:  # a type that NumPy lacks, too
        raise InputError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    features, threshold = tensors.get("features"), tensors.get(f"threshold_{options.encoder}")
    if features is None or threshold is None or features.ndim != 2 or threshold.shape != (1,):
        raise InputError(
            f"{where} holds {', '.join(sorted(tensors))[:200]}; expected features (M, K) and"
            f" threshold_{options.encoder}, as `echodfkd privacy-reference` writes them with this encoder"
        )
    if not (len(features) and np.isfinite(features).all() and np.isfinite(threshold).all()):
        raise InputError(f"{where} holds no features, or numbers that are not finite")
    encode = encoder_of(options)
    width = encode(np.zeros((1, 64, 64), np.uint8)).shape[1]
    if width != features.shape[1]:
        raise InputError(f"{where} has {features.shape[1]} features a frame, the encoder gives {width}")
    return PrivacyFilter(encode, features, float(threshold[0]))


def encoder_of(options: PrivacyConfig) -> Encode:
    """The encoder that the options name. Raises `InputError`."""
    if options.encoder == "pixels":
        return _pixels
    from echodfkd.models.generators.reidentification import load_reidentification
    from echodfkd.models.teachers.build import pick_device

    device = pick_device("auto", "privacy.encoder")
    return load_reidentification(options.weights, device, option="privacy.weights").encode


def make_reference(
    options: PrivacyConfig,
    reference: ClipSource,
    held_out: ClipSource,
    *,
    most: int,
    percentile: float,
    say: Callable[[str], None],
) -> tuple[bytes, dict[str, float]]:
    """The file of ``privacy.reference``, and its facts: frames of both sets, and the threshold.

    Args:
        options: the encoder.
        reference: the clips that no clip may resemble: the first frame of each of its cases.
        held_out: the clips of other patients, likewise.
        most: cases of each.
        percentile: of the largest correlations of held-out frames.
        say: takes lines of progress.

    Raises:
        InputError: the encoder's files, or all cases of a source, cannot be used.
    """
    encode = encoder_of(options)
    features = _features(encode, reference, most, "source", say)
    others = _features(encode, held_out, most, "evaluation.source", say)
    threshold = float(np.percentile(largest_correlations(others, features), percentile))
    name = f"threshold_{options.encoder}"
    data = save({"features": features.astype(np.float32), name: np.array([threshold], np.float64)})
    return data, {"reference": len(features), "held_out": len(others), "threshold": threshold}


def _features(encode: Encode, source: ClipSource, most: int, option: str, say: Callable[[str], None]) -> np.ndarray:
    count, found = most if source.num_cases is None else min(most, source.num_cases), []
    with Counter(f"cases of {option}", count, say) as counter:
        for number in range(count):
            try:
                found.append(encode(source.case(number).video[:1]))
            except ClipError:  # told by the source's notes
                continue
            counter.show(number + 1)
    if not found:
        raise InputError(f"{option}: none of its {count} clips can be used")
    return np.concatenate(found)


def _pixels(frames_NHW: np.ndarray) -> np.ndarray:
    """Means of the cells of a grid over the frame, (N, SIDE * SIDE)."""
    grey = frames_NHW.astype(np.float32)
    for axis in (1, 2):
        edges = np.linspace(0, grey.shape[axis], min(SIDE, grey.shape[axis]) + 1).astype(int)
        grey = np.add.reduceat(grey, edges[:-1], axis=axis)
        widths = np.diff(edges).astype(np.float32)
        grey /= widths[:, None] if axis == 1 else widths
    return grey.reshape(len(grey), -1)
