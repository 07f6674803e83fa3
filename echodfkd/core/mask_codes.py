"""Soft masks in 8 bits per pixel, between teacher and students and in the cache.

==============  ======  ==================================  ==================================================
code            dtype   value of a pixel                    precision
==============  ======  ==================================  ==================================================
`PROBABILITY`   uint8   round(255 p)                        1/510 of a probability; logits above 6.2 are equal
`LOGIT`         int8    round(16 logit p), -127 .. 127      1/32 of a logit up to 7.9; 1/128 of a probability
==============  ======  ==================================  ==================================================

An array's dtype tells its code. Cross-entropy and overlaps read probabilities; a divergence with a temperature above 1
reads logits (`echodfkd.losses.pixels.soft_mask_kl`), and its gradient comes from the many pixels that the teacher is
sure of, for which steps of a probability are coarse: round(255 p) = 1 stands for logits from -5.8 to -5.1, and 0
for all below -6.2.
"""

from __future__ import annotations

import math

import numpy as np

PROBABILITY, LOGIT = "probability", "logit"
MASK_CODES = {PROBABILITY: np.dtype(np.uint8), LOGIT: np.dtype(np.int8)}
"""Codes by name, and the dtype that tells them apart."""

LOGIT_STEPS = 16
"""Steps of a logit in `LOGIT`: a power of 2, so that decoding rounds nothing. At 127 / 16 = 7.9 a probability is
within 0.0004 of 0 or 1."""
_LARGEST = 127

LEAST_PROB = {np.dtype(np.uint8): 1 / 510, np.dtype(np.int8): 1 / (1 + math.exp(_LARGEST / LOGIT_STEPS))}
"""Smallest distance of a probability from 0 and 1, by dtype: half a step of `PROBABILITY`, the end of `LOGIT`."""


def quantise(prob: np.ndarray) -> np.ndarray:
    """round(255 * p) as uint8: the code `PROBABILITY` (largest error 1/510).

    The authors' code floors instead, which biases every mask by half a level.
    """
    return np.rint(prob * 255.0).astype(np.uint8)


def encode(prob: np.ndarray, code: str) -> np.ndarray:
    """Probabilities 0..1 of any shape in a code of `MASK_CODES`. The output of `decode` gives the same codes again."""
    if code == PROBABILITY:
        return quantise(prob)
    least = LEAST_PROB[MASK_CODES[LOGIT]]
    held = np.clip(prob.astype(np.float64), least, 1 - least)  # float64: 1 - p of float32 is coarse near 1
    return np.rint(LOGIT_STEPS * np.log(held / (1 - held))).astype(np.int8)


def decode(codes: np.ndarray) -> np.ndarray:
    """The probabilities, float32, of an array that `encode` gave."""
    if codes.dtype == np.uint8:
        return codes.astype(np.float32) / np.float32(255)
    assert codes.dtype == np.int8, f"masks are uint8 or int8, got {codes.dtype}"
    return 1 / (1 + np.exp(codes.astype(np.float32) / np.float32(-LOGIT_STEPS)))
