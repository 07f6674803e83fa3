"""Numbers that others have published, to be drawn beside a run's own and always labelled as such.

They are of EchoNet-Dynamic's test videos and human tracings. A run on other cases is not measured against them: only
the shape of the trade of score against cost can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """``weights`` parameters, ``macs`` multiply-accumulates per 112 x 112 frame (None: not known), ``dice`` 0..1."""

    name: str
    weights: float
    macs: float | None
    dice: float
    source: str


_FIGURE = "figure of the EchoDFKD repository (arXiv 2409.07566), read off to about 0.002"

METHODS = (
    Published("SimLVSeg", 18.9e6, None, 0.9332, "arXiv 2310.00454; weights: " + _FIGURE),
    Published("nnU-Net", 7.4e6, None, 0.928, _FIGURE),
    Published("DeepLabV3", 39.8e6, None, 0.9224, _FIGURE),
    Published("MU-UNet", 12.4e6, None, 0.905, _FIGURE),
)

_STUDENTS = (
    ("1,1", 5_701, 0.071, 0.784), ("1,2", 16_141, 0.201, 0.776), ("1,3", 26_581, 0.331, 0.833),
    ("1,4", 37_021, 0.461, 0.840), ("2,1", 39_577, 0.201, 0.858), ("2,2", 91_633, 0.461, 0.890),
    ("2,3", 143_689, 0.721, 0.890), ("2,4", 195_745, 0.981, 0.897), ("3,1", 174_721, 0.331, 0.900),
    ("3,2", 392_953, 0.721, 0.906), ("3,3", 611_185, 1.111, 0.908), ("3,4", 829_417, 1.501, 0.908),
    ("4,1", 714_577, 0.461, 0.909), ("4,2", 1_596_937, 0.981, 0.911), ("4,3", 2_479_297, 1.501, 0.910),
    ("4,4", 3_361_657, 2.021, 0.910),
)  # fmt: skip
"""Blocks and layers, weights and GMAC per frame (counted from the authors' code), Dice (from their figure)."""

STUDENTS = tuple(
    Published(name, weights, gmacs * 1e9, dice, f"weights and MACs from the authors' code; Dice: {_FIGURE}")
    for name, weights, gmacs, dice in _STUDENTS
)

ED_ES_NOTE = (
    "Published distances on EchoNet-Dynamic (UVT, arXiv 2107.00977: 3.36 frames at ES and 7.17 at ED) follow other"
    " protocols and state no weights or MACs here, so none is drawn. No judge score of other"
    " networks is published with its cost."
)
