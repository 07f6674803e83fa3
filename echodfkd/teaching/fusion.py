"""Fusion of the masks of several teachers into one, and how far they agree. Pure numpy.

Legend: M teachers, F frames, P pixels of a frame; "..." any axes. All probabilities are float, 0..1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

EPS = 1e-6
"""Probabilities are clipped to [EPS, 1 - EPS] before a logarithm, which bounds logits to 13.8 nats."""

STAPLE_START = 0.99
"""First sensitivity and specificity of each teacher. (Warfield et al. start at 0.99999.)"""
STAPLE_TOLERANCE = 1e-6
"""Expectation-maximisation of a frame ends once no pixel changes by more."""
STAPLE_MAX_ITERATIONS = 100


def mean_prob(prob_M: np.ndarray, weights_M: np.ndarray) -> np.ndarray:
    """Weighted arithmetic mean of probabilities, (M, ...) -> (...)."""
    return np.tensordot(weights_M / weights_M.sum(), prob_M, axes=1)


def mean_logit(prob_M: np.ndarray, weights_M: np.ndarray) -> np.ndarray:
    """Weighted mean of logits, back as a probability: the normalised geometric mean, (M, ...) -> (...)."""
    p = np.clip(prob_M, EPS, 1 - EPS)
    return _sigmoid(np.tensordot(weights_M / weights_M.sum(), np.log(p) - np.log1p(-p), axes=1))


def entropy(prob_M: np.ndarray, weights_M: np.ndarray) -> np.ndarray:
    """Mean of probabilities in which, at each pixel, a teacher counts by how certain it is there.

    Its weight is multiplied by 1 - H(p) / log 2 (1: certain, 0: p = 1/2) with H the binary entropy, plus `EPS` so that
    a pixel at which none is certain has their mean.
    """
    return _pixel_mean(prob_M, _certainty(prob_M), weights_M)


def agreement(prob_M: np.ndarray, weights_M: np.ndarray) -> np.ndarray:
    """Mean of probabilities in which, at each pixel, a teacher counts by how near it is to the others there.

    Its weight is multiplied by 1 - |p - mean of the others' p| (plus `EPS`): one teacher against several that agree
    loses its vote; of two, none does.
    """
    if len(prob_M) == 1:
        return prob_M[0].astype(np.float64)
    share = weights_M.reshape(-1, *[1] * (prob_M.ndim - 1)).astype(np.float64)
    others = ((share * prob_M).sum(0) - share * prob_M) / (share.sum() - share)
    return _pixel_mean(prob_M, 1 - np.abs(prob_M - others), weights_M)


def staple(prob_M: np.ndarray, weights_M: np.ndarray) -> np.ndarray:
    """STAPLE: the probability that a pixel is in the hidden true mask, (M, ..., H, W) -> (..., H, W).

    Every frame is estimated by itself (see `staple_frames`), with each teacher's decisions as soft as they are.
    """
    M, *rest = prob_M.shape
    flat = prob_M.reshape(M, -1, rest[-2] * rest[-1])
    return staple_frames(flat, weights_M)[0].reshape(rest)


def staple_frames(decisions_MFP: np.ndarray, weights_M: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Simultaneous truth and performance level estimation, each frame by itself.

    Warfield, Zou and Wells, "Simultaneous truth and performance level estimation (STAPLE)", IEEE TMI 23 (2004),
    equations 14 to 19, without a spatial prior; the prior of a pixel is the mean of all decisions of its frame. A
    decision between 0 and 1 counts as that share of a yes and the rest of a no, which with binary decisions is the
    paper's algorithm; a teacher's weight is how many times its decision counts in the posterior.

    Args:
        decisions_MFP: 0..1, binary or soft.
        weights_M: relative weights; scaled so that their mean is 1.

    Returns:
        The posterior (F, P), sensitivity (M, F) and specificity (M, F) of the teachers, float64. A frame in which all
        decisions are 0 (or all are 1) is that everywhere, and its performance levels are the starting ones.
    """
    D = np.asarray(decisions_MFP, np.float64)
    scale_M11 = (weights_M / weights_M.mean()).reshape(-1, 1, 1)
    prior_F1 = mean_prob(D, weights_M).mean(-1, keepdims=True)
    truth = np.repeat(prior_F1, D.shape[2], axis=1)
    sensitivity = np.full(D.shape[:2], STAPLE_START)
    specificity = np.full(D.shape[:2], STAPLE_START)
    running = np.flatnonzero((prior_F1[:, 0] > EPS) & (prior_F1[:, 0] < 1 - EPS))
    truth[prior_F1[:, 0] <= EPS], truth[prior_F1[:, 0] >= 1 - EPS] = 0.0, 1.0
    for _ in range(STAPLE_MAX_ITERATIONS):
        if not len(running):
            break
        d, f = D[:, running], prior_F1[running]
        p, q = sensitivity[:, running, None], specificity[:, running, None]
        log_yes = np.log(f) + (scale_M11 * (d * np.log(p) + (1 - d) * np.log1p(-p))).sum(0)
        log_no = np.log1p(-f) + (scale_M11 * ((1 - d) * np.log(q) + d * np.log1p(-q))).sum(0)
        posterior = _sigmoid(log_yes - log_no)
        yes, no = posterior.sum(-1), (1 - posterior).sum(-1)
        sensitivity[:, running] = np.clip((d * posterior).sum(-1) / np.maximum(yes, EPS), EPS, 1 - EPS)
        specificity[:, running] = np.clip(((1 - d) * (1 - posterior)).sum(-1) / np.maximum(no, EPS), EPS, 1 - EPS)
        change = np.abs(posterior - truth[running]).max(-1)
        truth[running] = posterior
        running = running[change > STAPLE_TOLERANCE]
    return truth, sensitivity, specificity


def gate(prob_MN: np.ndarray, weights_M: np.ndarray) -> np.ndarray:
    """Each clip takes the mask of one teacher, the one that is most certain of it: (M, N, ...) -> (N, ...).

    That is the largest w_m (1 - mean H(p_m) / log 2), with H the binary entropy and the mean over those pixels of the
    clip at which any teacher has p >= 1/2 (over all of them, if there is none): background, of which all are certain,
    would hide their differences. Of equals, the first is taken. The rule is ours, in the spirit of Woods, Kegelmeyer
    and Bowyer, "Combination of multiple classifiers using local accuracy estimates", IEEE TPAMI 19 (1997): a classifier
    is chosen per sample; without labels, by its certainty in place of its accuracy. A teacher that is sure and wrong
    wins.
    """
    M, N = prob_MN.shape[:2]
    certain_MNP = _certainty(prob_MN).reshape(M, N, -1)
    seen_NP = (prob_MN >= 0.5).any(axis=0).reshape(N, -1)
    seen_NP |= ~seen_NP.any(axis=1, keepdims=True)
    scores_MN = weights_M[:, None] * (certain_MNP * seen_NP).sum(-1) / seen_NP.sum(-1)
    return prob_MN[scores_MN.argmax(axis=0), np.arange(N)].astype(np.float64)


def certainty(prob: np.ndarray) -> float:
    """Mean of 1 - H(p) / log 2 over the pixels of a clip with p >= 1/2; 0 if there is none, as nothing was found."""
    seen = prob >= 0.5
    return float(_certainty(prob[seen]).mean()) if seen.any() else 0.0


FUSIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "mean_prob": mean_prob,
    "mean_logit": mean_logit,
    "staple": staple,
    "entropy": entropy,
    "agreement": agreement,
    "gate": gate,
}
"""Ways to fuse, by name: (M, N, ..., H, W) of N clips and weights (M,) -> (N, ..., H, W)."""


def confidence(prob_M: np.ndarray, weights_M: np.ndarray) -> np.ndarray:
    """1 less twice the weighted standard deviation over teachers: 1 if all agree, 0 if half of them say 0 and half 1.

    A variable in 0..1 has a standard deviation of at most 1/2 (Popoviciu's inequality), so that this lies in 0..1.
    """
    mean = mean_prob(prob_M, weights_M)
    variance = mean_prob((prob_M - mean) ** 2, weights_M)
    return np.clip(1 - 2 * np.sqrt(np.maximum(variance, 0)), 0, 1)


def fuse_by_name(
    probs: Sequence[np.ndarray],
    names: Sequence[tuple[str, ...]],
    weights: Sequence[float],
    *,
    method: str,
    class_names: tuple[str, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Fuse teachers that segment different classes: each class is fused over those teachers that give it.

    Args:
        probs: per teacher (N, T, C, H, W), C classes of its own.
        names: per teacher its C class names, without the background.
        weights: per teacher, above 0.
        method: one of `FUSIONS`.
        class_names: the classes wanted, each given by at least one teacher.

    Returns:
        Fused probability and `confidence` (1 for a class of one teacher), float32 (N, T, len(class_names), H, W).
    """
    fused, sure = [], []
    for name in class_names:
        given = [place for place, known in enumerate(names) if name in known]
        prob_M = np.stack([probs[place][:, :, names[place].index(name)] for place in given]).astype(np.float64)
        weights_M = np.array([weights[place] for place in given], np.float64)
        fused.append(FUSIONS[method](prob_M, weights_M))
        sure.append(confidence(prob_M, weights_M))
    return np.stack(fused, axis=2).astype(np.float32), np.stack(sure, axis=2).astype(np.float32)


def _certainty(prob: np.ndarray) -> np.ndarray:
    """1 - H(p) / log 2, with the binary entropy H."""
    p = np.clip(prob, EPS, 1 - EPS)
    return 1 + (p * np.log2(p) + (1 - p) * np.log2(1 - p))


def _pixel_mean(prob_M: np.ndarray, trust_M: np.ndarray, weights_M: np.ndarray) -> np.ndarray:
    share = weights_M.reshape(-1, *[1] * (prob_M.ndim - 1)) * (trust_M + EPS)
    return (share * prob_M).sum(0) / share.sum(0)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))  # no overflow at either end
