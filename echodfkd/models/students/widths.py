"""Widths of a student's blocks: doubled from block to block, or matched to the weights of the authors' network."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence

AUTHORS_FILTERS = 12
"""Channels of the first block of every published student."""


def doubled_widths(blocks: int, filters: int) -> tuple[int, ...]:
    """The authors' widths: filters * 2^i channels in block i."""
    return tuple(filters * 2**level for level in range(blocks))


def matched_widths(
    count: Callable[[Sequence[int]], int], *, blocks: int, most: int, even: bool = False
) -> tuple[int, ...]:
    """The largest widths at which a network has no more than ``most`` parameters.

    The deepest block's width d is the largest that fits; block i of k has d / 2^(k-1-i), rounded to a whole (or
    even) number, so that the widths still double but for the rounding. One more filter in the first block would
    be a step of about 17 % of the parameters; one more in the deepest is 17 % / 2^(k-1).

    Args:
        count: parameters of the network of given widths; never fewer for wider ones.
        blocks: k.
        most: the bound; the narrowest network must meet it.
        even: all widths are even.
    """
    step = 2 if even else 1

    def widths_of(deepest: int) -> tuple[int, ...]:
        """Widths for a deepest block of ``step * deepest`` channels."""
        return tuple(step * max(1, int(deepest / 2 ** (blocks - 1 - level) + 0.5)) for level in range(blocks))

    def parameters(deepest: int) -> int:
        return count(widths_of(deepest))

    too_wide = 1
    while parameters(too_wide) <= most:
        too_wide *= 2
    deepest = bisect.bisect_right(range(too_wide), most, lo=1, key=parameters) - 1
    assert deepest >= 1, f"even a network of one filter has more than {most} parameters"
    return widths_of(deepest)
