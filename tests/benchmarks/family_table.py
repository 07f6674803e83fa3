"""The family of students at a glance: size, cost and speed on one core."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from echodfkd.models.students.build import build_student
from echodfkd.models.students.convlstm import count_parameters
from tests.benchmarks.timing import Report, best_time

PUBLISHED = {  # (k, n): parameters, GMAC per 112 x 112 frame
    (1, 1): (5_701, 0.071), (1, 2): (16_141, 0.201), (1, 3): (26_581, 0.331), (1, 4): (37_021, 0.461),
    (2, 1): (39_577, 0.201), (2, 2): (91_633, 0.461), (2, 3): (143_689, 0.721), (2, 4): (195_745, 0.981),
    (3, 1): (174_721, 0.331), (3, 2): (392_953, 0.721), (3, 3): (611_185, 1.111), (3, 4): (829_417, 1.501),
    (4, 1): (714_577, 0.461), (4, 2): (1_596_937, 0.981), (4, 3): (2_479_297, 1.501), (4, 4): (3_361_657, 2.021),
}  # fmt: skip
"""The authors' family with 12 filters: parameters and cost of their published networks, rounded to 0.001 GMAC."""
SIZE = 112
FRAMES = 32


def family_table(report: Report, *, quick: bool) -> dict[str, Any]:
    """Parameters, GMAC per 112 x 112 frame and milliseconds per frame on one core of the 16 students."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    report("| blocks k | layers n | parameters | GMAC/frame | published | ms/frame, one core |")
    report("|---|---|---|---|---|---|")
    rows = []
    try:
        for (blocks, layers), (parameters, gmac) in PUBLISHED.items():
            row = _row(blocks, layers, num_frames=4 if quick else FRAMES)
            row["equal"] = row["parameters"] == parameters and abs(row["gmac"] - gmac) < 6e-4
            report(
                f"| {blocks} | {layers} | {row['parameters']:,} | {row['gmac']:.3f} | {gmac:.3f} |"
                f" {row['ms_per_frame']:.1f} |"
            )
            rows.append(row)
    finally:
        torch.set_num_threads(threads)
    return {
        "value": sum(row["equal"] for row in rows),
        "unit": "students with the published parameters and GMAC",
        "target": len(PUBLISHED),
        "holds": all(row["equal"] for row in rows),
        "clip": f"{4 if quick else FRAMES} frames of {SIZE} x {SIZE}, float32, one core, fastest of three",
        "students": rows,
    }


def _row(blocks: int, layers: int, *, num_frames: int) -> dict[str, Any]:
    student = build_student(blocks=blocks, layers=layers, filters=12, norm="batch").eval()
    video = torch.randint(0, 256, (1, num_frames, SIZE, SIZE), dtype=torch.uint8)
    with torch.inference_mode():
        seconds = best_time(lambda: student(video), "cpu")
    return {
        "blocks": blocks,
        "layers": layers,
        "parameters": count_parameters(student),
        "gmac": round(counted_macs(student) / 1e9, 6),
        "ms_per_frame": round(1000.0 * seconds / num_frames, 3),
    }


def counted_macs(student: nn.Module) -> int:
    """Multiply-accumulates of all convolutions for one frame of 112 x 112, counted by hooks on a run of one frame."""
    macs = 0

    def count(module: nn.Conv2d, inputs: object, output: torch.Tensor) -> None:
        nonlocal macs
        macs += module.weight.numel() * output.shape[-1] * output.shape[-2]

    handles = [m.register_forward_hook(count) for m in student.modules() if isinstance(m, nn.Conv2d)]
    with torch.inference_mode():
        student(torch.zeros(1, 1, SIZE, SIZE))
    for handle in handles:
        handle.remove()
    return macs
