"""The share of a mask that is no part of the ventricle, by hand-made masks and a flood fill of plain Python."""

import math

import numpy as np

from echodfkd.metrics.plausibility import largest_part, stray_share


def flood(mask: np.ndarray) -> list[set[tuple[int, int, int]]]:
    """All parts, connected by faces of voxels."""
    left, parts = set(map(tuple, np.argwhere(mask))), []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            place = edge.pop()
            part.add(place)
            for axis in range(3):
                for step in (-1, 1):
                    other = tuple(value + step * (axis == i) for i, value in enumerate(place))
                    if other in left:
                        left.remove(other)
                        edge.append(other)
        parts.append(part)
    return parts


def test_one_moving_part_has_no_stray_pixels() -> None:
    mask = np.zeros((6, 12, 12), bool)
    for frame in range(6):
        mask[frame, 2 + frame // 2 : 7, 3:9] = True
    assert stray_share(mask) == 0.0
    assert np.array_equal(largest_part(mask), mask)


def test_a_patch_is_stray_however_large_it_is_in_one_frame() -> None:
    """The ventricle is the larger part of the clip, though the patch is the larger one of its frame."""
    mask = np.zeros((5, 12, 12), bool)
    mask[:, 1:4, 1:4] = True  # 45 pixels
    mask[2, 6:11, 6:11] = True  # 25 pixels
    kept = largest_part(mask)
    assert kept.sum() == 45
    assert not kept[:, 6:].any()
    assert math.isclose(stray_share(mask), 25 / 70)


def test_parts_are_those_of_a_flood_fill() -> None:
    for seed in range(5):
        mask = np.random.default_rng(seed).random((4, 9, 9)) < 0.35
        sizes = [len(part) for part in flood(mask)]
        assert largest_part(mask).sum() == max(sizes)
        assert math.isclose(stray_share(mask), 1 - max(sizes) / sum(sizes))


def test_an_empty_mask_has_no_share() -> None:
    assert math.isnan(stray_share(np.zeros((3, 4, 4), bool)))
    assert not largest_part(np.zeros((3, 4, 4), bool)).any()
