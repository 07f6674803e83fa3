"""Fréchet distance between two sets of feature vectors, each taken as a normal distribution.

d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau 1982; Heusel et al. 2017, FID, with Inception's
features). A distance of finite samples is too large, by more the fewer there are: compare distances of one size only.
"""

from __future__ import annotations

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The squared distance of two sets (n, features), float; at least two vectors each."""
    assert min(len(a), len(b)) >= 2, "a covariance needs two vectors"
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(0), np.atleast_2d(np.cov(x.astype(np.float64).T))) for x in (a, b))
    # tr (Ca Cb)^(1/2) is the sum of the roots of the eigenvalues of Ca^(1/2) Cb Ca^(1/2), which is symmetric
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)).sum()
    return float(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2.0 * cross)
