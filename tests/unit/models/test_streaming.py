"""A student frame by frame against the same student on the whole clip, for every causal kind.

Legend: B clips, T frames, H rows, W columns.
"""

from __future__ import annotations

import psutil
import pytest
import torch

from echodfkd.core.errors import InputError
from echodfkd.models.students.build import build_student
from echodfkd.models.students.recurrences import PAST_FRAMES, RECURRENCES
from echodfkd.models.students.streaming import StreamingStudent

PLAIN = {"blocks": 3, "layers": 2, "filters": 8}
CAUSAL = [
    *({**PLAIN, "recurrence": kind} for kind in RECURRENCES),
    {**PLAIN, "skips": True, "activation": "silu", "norm": "group", "input": "raw"},
    {**PLAIN, "classes": ["LV", "LA"], "tasks": ["phase", "ef"]},
    {"blocks": 1, "layers": 1, "filters": 3},
    {"blocks": 3, "filters": 4, "side": 12, "classes": ["LV", "LA"]},
]


def _trained(options: dict[str, object]) -> torch.nn.Module:
    """A student whose norms have statistics other than 0 and 1, as after training."""
    torch.manual_seed(0)
    student = build_student(**options)  # type: ignore[arg-type]
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return student.eval()


def _run(student: torch.nn.Module, video: torch.Tensor) -> torch.Tensor:
    stream = StreamingStudent(student)
    state = stream.first_state(video.shape[0], *video.shape[-2:])
    found = []
    for frame in video.unbind(1):
        logits, *after = stream(frame, *state)
        assert [tensor.shape for tensor in after] == [tensor.shape for tensor in state], "the state never grows"
        state = tuple(after)
        found.append(logits)
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("options", CAUSAL, ids=lambda options: "-".join(map(str, options.values())))
@torch.inference_mode()
def test_the_stream_has_the_masks_of_the_whole_clip(options: dict[str, object]) -> None:
    """Tolerance: both add the same float32 products in another order; logits are of the order of 1."""
    student = _trained(options)
    video = torch.randint(0, 256, (2, 26, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(_run(student, video), student(video).mask_logits, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_the_state_is_a_tensor_of_its_own_in_each_place() -> None:
    """An exporter takes one object in two places for one input, and the graph is then wrong from frame 1 on."""
    state = StreamingStudent(_trained(PLAIN)).first_state(1, 16, 16)
    assert len({tensor.data_ptr() for tensor in state}) == len(state) == 12


def test_a_bidirectional_student_is_refused() -> None:
    for kind in set(RECURRENCES) - set(PAST_FRAMES):
        with pytest.raises(InputError, match="bidirectional, its first mask needs the last frame"):
            StreamingStudent(build_student(**{**PLAIN, "recurrence": kind, "bidirectional": True}))


@pytest.mark.slow
@pytest.mark.parametrize("kind", RECURRENCES)
@torch.inference_mode()
def test_ten_thousand_frames_bring_no_drift_and_take_no_memory(kind: str) -> None:
    """Frames that repeat have masks that repeat, however long the stream has run."""
    stream = StreamingStudent(_trained({"blocks": 1, "layers": 1, "filters": 4, "recurrence": kind}))
    state = stream.first_state(1, 8, 8)
    video = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    process, memory, early, late = psutil.Process(), 0, [], []
    for t in range(10_000):
        logits, *after = stream(video[t % 50], *state)
        state = tuple(after)
        memory = process.memory_info().rss if t == 1000 else memory
        early += [logits] if 950 <= t < 1000 else []
        late += [logits] if t >= 9950 else []
    assert torch.stack(early).std() > 1e-3
    assert torch.allclose(torch.stack(early), torch.stack(late), atol=1e-5, rtol=1e-5)
    assert process.memory_info().rss - memory < 8 << 20, "the allocator's own pages move by some MiB"
