"""Every variant of the students against loops over frames written from its equations, and against its closed forms.

Legend: B clips, T frames, C channels, H rows, W columns.
"""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from echodfkd.config.file import load_config
from echodfkd.core.errors import ConfigError
from echodfkd.models.students.build import STUDENT_INPUT_MEAN, STUDENT_INPUT_STD, build_student
from echodfkd.models.students.convlstm import ACTIVATIONS, count_parameters
from echodfkd.models.students.cost import macs_per_frame
from echodfkd.models.students.recurrences import PAST_FRAMES, RECURRENCES, build_recurrence, linear_scan
from echodfkd.models.students.widths import matched_widths
from tests.helpers.costs import authors_macs_per_frame

PAPER = {"blocks": 2, "layers": 1, "filters": 8, "norm": "batch"}
TWO_WAY = [kind for kind in RECURRENCES if kind not in PAST_FRAMES]
LAYERS = [(kind, both) for kind in RECURRENCES for both in ((False, True) if kind in TWO_WAY else (False,))]
CAUSAL = [{"recurrence": kind} for kind in RECURRENCES] + [{"skips": True, "activation": "relu", "norm": "group"}]
VARIANTS = [*CAUSAL, *({"recurrence": kind, "bidirectional": True, "skips": True} for kind in TWO_WAY)]


def _name(options: dict[str, object]) -> str:
    return "-".join(key if value is True else str(value) for key, value in options.items())


def _conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


def _lstm_loop(x: torch.Tensor, w: dict[str, torch.Tensor], *, separable: bool) -> torch.Tensor:
    width = w["bias"].shape[0] // 4
    h = c = torch.zeros(x.shape[0], width, *x.shape[-2:], dtype=x.dtype)
    out = []
    for t in range(x.shape[1]):
        seen = torch.cat([x[:, t], h], dim=1)
        if separable:  # each channel by itself, one at a time
            seen = torch.cat([_conv(seen[:, [k]], w["depthwise"][[k]]) for k in range(seen.shape[1])], dim=1)
            gates = torch.einsum("bkhw,gk->bghw", seen, w["pointwise"][:, :, 0, 0]) + w["bias"].view(1, -1, 1, 1)
        else:
            gates = _conv(seen, w["weight"], w["bias"])
        i, f, o = (torch.sigmoid(gates[:, k * width : (k + 1) * width]) for k in range(3))
        c = f * c + i * torch.tanh(gates[:, 3 * width :])
        h = o * torch.tanh(c)
        out.append(h)
    return torch.stack(out, dim=1)


def _gru_loop(x: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    width = w["bias"].shape[0] // 3
    (wz, wr, wc), (bz, br, bc) = w["weight"].split(width), w["bias"].split(width)
    h = torch.zeros(x.shape[0], width, *x.shape[-2:], dtype=x.dtype)
    out = []
    for t in range(x.shape[1]):
        seen = torch.cat([x[:, t], h], dim=1)
        z, r = torch.sigmoid(_conv(seen, wz, bz)), torch.sigmoid(_conv(seen, wr, br))
        c = torch.tanh(_conv(torch.cat([x[:, t], r * h], dim=1), wc, bc))
        h = (1 - z) * h + z * c
        out.append(h)
    return torch.stack(out, dim=1)


def _mingru_loop(x: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    width = w["bias"].shape[0] // 2
    h = torch.zeros(x.shape[0], width, *x.shape[-2:], dtype=x.dtype)
    out = []
    for t in range(x.shape[1]):
        z = torch.sigmoid(_conv(x[:, t], w["weight"][:width], w["bias"][:width]))
        h = (1 - z) * h + z * _conv(x[:, t], w["weight"][width:], w["bias"][width:])
        out.append(h)
    return torch.stack(out, dim=1)


def _shift_loop(x: torch.Tensor, w: dict[str, torch.Tensor], *, bidirectional: bool) -> torch.Tensor:
    T, fold = x.shape[1], x.shape[2] // 8
    out = []
    for t in range(T):
        channels = []
        for k in range(x.shape[2]):
            from_t = t - 1 if k < fold else t + 1 if bidirectional and k < 2 * fold else t
            inside = 0 <= from_t < T
            channels.append(x[:, from_t, k] if inside else torch.zeros_like(x[:, t, k]))
        out.append(_conv(torch.stack(channels, dim=1), w["weight"], w["bias"]).clamp(min=0))
    return torch.stack(out, dim=1)


def _frames_loop(x: torch.Tensor, w: dict[str, torch.Tensor], past: int) -> torch.Tensor:
    """As a convolution in three dimensions, over a clip that begins with ``past`` frames of zero."""
    weight = torch.stack(w["weight"].chunk(1 + past, dim=1)[::-1], dim=2)  # the last tap is this frame
    x = torch.nn.functional.pad(x.transpose(1, 2), (1, 1, 1, 1, past, 0))
    return torch.nn.functional.conv3d(x, weight, w["bias"]).relu().transpose(1, 2)


def _layer_loop(x: torch.Tensor, w: dict[str, torch.Tensor], kind: str, bidirectional: bool) -> torch.Tensor:
    if kind in PAST_FRAMES:
        return _frames_loop(x, w, PAST_FRAMES[kind])
    if kind == "shift":
        return _shift_loop(x, w, bidirectional=bidirectional)
    if bidirectional:
        along = _layer_loop(x, _under(w, "along."), kind, False)
        reverse = list(range(x.shape[1]))[::-1]
        against = _layer_loop(x[:, reverse], _under(w, "against."), kind, False)[:, reverse]
        return torch.cat([along, against], dim=2)
    if kind == "convgru":
        return _gru_loop(x, w)
    if kind == "mingru":
        return _mingru_loop(x, w)
    return _lstm_loop(x, w, separable=kind == "convlstm_separable")


def _under(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def _batch_norm(x: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    mean = x.mean(dim=(0, 1, 3, 4), keepdim=True)
    var = ((x - mean) ** 2).mean(dim=(0, 1, 3, 4), keepdim=True)
    scale, shift = weights["weight"].view(1, 1, -1, 1, 1), weights["bias"].view(1, 1, -1, 1, 1)
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def _student_loop(video: torch.Tensor, weights: dict[str, torch.Tensor], options: dict[str, object]) -> torch.Tensor:
    """The whole network from its parameters alone, frame by frame."""
    bend = {"none": lambda x: x, "relu": lambda x: x.clamp(min=0), "silu": lambda x: x * torch.sigmoid(x)}
    bend["gelu"] = lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))
    kind, both = str(options.get("recurrence", "convlstm")), bool(options.get("bidirectional"))
    x = ((video - STUDENT_INPUT_MEAN) / STUDENT_INPUT_STD)[:, :, None]
    seen = []
    for b in itertools.count():
        block = _under(weights, f"conv_lstm_blocks.{b}.conv_lstm_layers.")
        if not block:
            break
        if b:
            x = torch.stack([F.max_pool2d(frame, 2) for frame in x.unbind(1)], dim=1)
        for j in range(1 + max(int(key.split(".")[0]) for key in block)):
            if j % 2 == 0:
                x = _layer_loop(x, _under(block, f"{j}.cell.conv."), kind, both)
            else:
                x = _batch_norm(x, _under(block, f"{j}.layer."))
        seen.append(x)
    for u, skip in enumerate(reversed(seen[:-1])):
        level = _under(weights, f"conv_lstm_upsampling.{u}.conv_lstm_layers.")
        x = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
        if options.get("skips"):
            x = torch.cat([x, skip], dim=2)
        x = torch.stack([_conv(frame, level["1.layer.weight"], level["1.layer.bias"]) for frame in x.unbind(1)], dim=1)
        x = bend[str(options.get("activation", "none"))](_batch_norm(x, _under(level, "2.layer.")))
    head = _under(weights, "output_layer.layer.")
    return torch.stack([_conv(frame, head["weight"], head["bias"])[:, 0] for frame in x.unbind(1)], dim=1)


def _video(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64).mul(255)


@pytest.mark.parametrize(("kind", "bidirectional"), LAYERS)
@pytest.mark.parametrize("num_frames", [1, 5])
def test_a_recurrence_equals_its_loop_with_gradients(kind: str, bidirectional: bool, num_frames: int) -> None:
    """float64, 1e-10: only the order of sums differs."""
    torch.manual_seed(0)
    layer = build_recurrence(kind, 9, 4, bidirectional=bidirectional).double()
    x = torch.randn(2, num_frames, 9, 5, 6, dtype=torch.float64, requires_grad=True)
    names, leaves = zip(*layer.named_parameters(), strict=True)
    got, want = layer(x), _layer_loop(x, dict(zip(names, leaves, strict=True)), kind, bidirectional)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    probe = torch.randn_like(got)
    grads, expected = (
        torch.autograd.grad((out * probe).sum(), [x, *leaves], allow_unused=True, materialize_grads=True)
        for out in (got, want)
    )
    for one, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {"recurrence": "convlstm", "skips": True, "activation": "gelu"},
        {"recurrence": "convlstm_separable", "activation": "relu"},
        {"recurrence": "convgru", "layers": 2},
        {"recurrence": "mingru", "skips": True, "blocks": 3},
        {"recurrence": "shift", "skips": True, "bidirectional": True},
        {"recurrence": "none", "skips": True, "activation": "relu", "layers": 2},
        {"recurrence": "conv3d", "skips": True, "activation": "relu"},
        {"skips": True, "activation": "silu", "bidirectional": True, "blocks": 3},
    ],
    ids=_name,
)
def test_a_student_equals_its_loop_with_gradients(options: dict[str, object]) -> None:
    """float64, 1e-9: the norms divide by deviations, which magnifies the rounding of 1e-16 a little."""
    torch.manual_seed(1)
    student = build_student(**{**PAPER, **options}).double().train()  # type: ignore[arg-type]
    video = _video(2, 3, 8, 12).requires_grad_(True)
    names, leaves = zip(*student.named_parameters(), strict=True)
    got, want = (
        student(video).mask_logits[:, :, 0],
        _student_loop(video, dict(zip(names, leaves, strict=True)), options),
    )
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    probe = torch.randn_like(got)
    grads, expected = (torch.autograd.grad((out * probe).sum(), [video, *leaves]) for out in (got, want))
    for one, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("T", [1, 2, 3, 4, 5, 7, 8, 16, 33])
def test_the_scan_equals_the_sequential_loop(T: int) -> None:
    """float64, 1e-12, decays of exactly 0 and 1 included; the gradients agree as well."""
    torch.manual_seed(T)
    decay = torch.rand(2, T, 3, dtype=torch.float64)
    decay[0, T // 2], decay[1, T // 3] = 0.0, 1.0
    decay.requires_grad_(True)
    drive = torch.randn(2, T, 3, dtype=torch.float64, requires_grad=True)
    h = torch.zeros(2, 3, dtype=torch.float64)
    states = []
    for t in range(T):
        h = decay[:, t] * h + drive[:, t]
        states.append(h)
    want, got = torch.stack(states, dim=1), linear_scan(decay, drive)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
    probe = torch.randn_like(want)
    gradients = (torch.autograd.grad((out * probe).sum(), [decay, drive], allow_unused=True) for out in (got, want))
    for one, other in zip(*gradients, strict=True):
        if T > 1:
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_defaults_are_the_papers_network() -> None:
    explicit = {"recurrence": "convlstm", "skips": False, "activation": "none", "bidirectional": False}
    paper = build_student(**PAPER)  # type: ignore[arg-type]
    assert list(paper.state_dict()) == list(build_student(**PAPER, **explicit).state_dict())  # type: ignore[arg-type]
    bent = build_student(**PAPER, activation="relu")  # type: ignore[arg-type]
    assert list(bent.state_dict()) == list(paper.state_dict())  # an activation has no weights


@pytest.mark.parametrize("kind", RECURRENCES)
@pytest.mark.parametrize(("C", "h"), [(1, 12), (24, 16)])
def test_parameters_of_a_recurrence(kind: str, C: int, h: int) -> None:
    closed = {
        "convlstm": 4 * h * (9 * (C + h) + 1),
        "convlstm_separable": 9 * (C + h) + 4 * h * (C + h + 1),
        "convgru": 3 * h * (9 * (C + h) + 1),
        "mingru": 2 * h * (9 * C + 1),
        "shift": h * (9 * C + 1),
        "none": h * (9 * C + 1),
        "conv3d": h * (27 * C + 1),
    }
    assert count_parameters(build_recurrence(kind, C, h, bidirectional=False)) == closed[kind]


@pytest.mark.parametrize(("kind", "bidirectional"), LAYERS)
def test_macs_of_every_recurrence(kind: str, bidirectional: bool) -> None:
    """Closed forms of a student of two blocks, one layer, with skips: encoder, decoder, head."""
    f, size = 8, 16
    student = build_student(**PAPER, recurrence=kind, skips=True, bidirectional=bidirectional)  # type: ignore[arg-type]

    def layer(C: int, width: int) -> int:
        h = width // 2 if bidirectional and kind != "shift" else width
        each = {
            "convlstm": 36 * h * (C + h),
            "convlstm_separable": 9 * (C + h) + 4 * h * (C + h),
            "convgru": 27 * h * (C + h),
            "mingru": 18 * h * C,
            "shift": 9 * h * C,
            "none": 9 * h * C,
            "conv3d": 27 * h * C,
        }
        return each[kind] * (width // h)

    inner = layer(f, 2 * f) * (size // 2) ** 2
    assert macs_per_frame(student, size) == (layer(1, f) + 9 * 3 * f * f + f) * size**2 + inner


@pytest.mark.parametrize(("blocks", "layers", "filters"), [(1, 1, 12), (3, 2, 4), (4, 1, 12)])
def test_counted_macs_of_the_papers_network_equal_the_closed_form(blocks: int, layers: int, filters: int) -> None:
    student = build_student(blocks=blocks, layers=layers, filters=filters, norm="batch").train()
    assert macs_per_frame(student, 16) == authors_macs_per_frame(blocks, layers, filters, 16)
    assert student.training
    assert {parameter.device.type for parameter in student.parameters()} == {"cpu"}


@pytest.mark.parametrize("options", CAUSAL, ids=_name)
def test_causal_students_never_look_ahead_and_remember(options: dict[str, object]) -> None:
    torch.manual_seed(2)
    student = build_student(**{**PAPER, **options}).double().eval()  # type: ignore[arg-type]
    video = _video(1, 6, 8, 8)
    with torch.no_grad():
        logits = student(video).mask_logits
        for frames in (1, 4):
            torch.testing.assert_close(
                student(video[:, :frames]).mask_logits, logits[:, :frames], rtol=1e-12, atol=1e-12
            )
        changed = video.clone()
        changed[:, 2] = 255 - changed[:, 2]
        later = (student(changed).mask_logits[:, 3] - logits[:, 3]).abs().max()
        assert later == 0 if options.get("recurrence") == "none" else later > 1e-6


@pytest.mark.parametrize("kind", TWO_WAY)
def test_bidirectional_students_see_both_ways(kind: str) -> None:
    torch.manual_seed(3)
    student = build_student(**PAPER, recurrence=kind, bidirectional=True).double().eval()  # type: ignore[arg-type]
    video = _video(1, 5, 8, 8)
    changed = video.clone()
    changed[:, 2] = 255 - changed[:, 2]
    with torch.no_grad():
        moved = (student(changed).mask_logits - student(video).mask_logits).abs().amax(dim=(0, 2, 3, 4))
    assert moved[1] > 1e-6
    assert moved[3] > 1e-6


@pytest.mark.parametrize("options", VARIANTS, ids=_name)
def test_no_state_stays_between_clips_or_calls(options: dict[str, object]) -> None:
    torch.manual_seed(4)
    student = build_student(**{**PAPER, **options}).double().eval()  # type: ignore[arg-type]
    video = _video(3, 4, 8, 8)
    with torch.no_grad():
        together, alone = student(video).mask_logits, student(video[1:2]).mask_logits
        torch.testing.assert_close(alone, together[1:2], rtol=1e-12, atol=1e-12)
        assert torch.equal(student(video).mask_logits, together)


@pytest.mark.parametrize("options", VARIANTS, ids=_name)
@pytest.mark.parametrize("num_frames", [1, 4])
def test_every_parameter_learns_in_bf16(options: dict[str, object], num_frames: int) -> None:
    torch.manual_seed(5)
    student = build_student(**{**PAPER, **options})  # type: ignore[arg-type]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = student(torch.randint(0, 256, (2, num_frames, 8, 8), dtype=torch.uint8)).mask_logits
    assert logits.shape == (2, num_frames, 1, 8, 8)
    (logits.float() - 0.3).square().mean().backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if num_frames > 1 and name != "conv_lstm_upsampling.0.conv_lstm_layers.1.layer.bias":  # a norm takes it away
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("options", VARIANTS, ids=_name)
def test_a_state_dict_makes_the_same_student_again(options: dict[str, object]) -> None:
    student = build_student(**{**PAPER, **options}).eval()  # type: ignore[arg-type]
    again = build_student(**{**PAPER, **options}).eval()  # type: ignore[arg-type]
    again.load_state_dict(student.state_dict())
    video = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(again(video).mask_logits, student(video).mask_logits)
        encoded = student.encode(video)  # type: ignore[operator]
        logits = student.output_layer(student.decode(encoded)).view(1, 3, 1, 8, 8)  # type: ignore[operator]
        assert torch.equal(logits, student(video).mask_logits)
    assert isinstance(encoded, tuple) == bool(options.get("skips"))
    deepest = encoded[-1] if isinstance(encoded, tuple) else encoded
    assert deepest.shape == (1, 3, 16, 4, 4)


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("options", VARIANTS, ids=_name)
def test_matched_students_are_at_most_9_percent_lighter(blocks: int, options: dict[str, object]) -> None:
    """One block: single steps of its width are the only ones, up to 17 % where widths must be even."""
    build = {"blocks": blocks, "layers": 1, "filters": 0, "norm": "batch", **options}
    before = torch.get_rng_state()
    with torch.device("meta"):
        matched = count_parameters(build_student(**build))  # type: ignore[arg-type]
        paper = count_parameters(build_student(blocks=blocks, layers=1, filters=12, norm="batch"))
    assert torch.equal(torch.get_rng_state(), before)  # the weights of a run do not depend on the search
    assert paper * (0.83 if blocks == 1 else 0.91) <= matched <= paper
    if options in ({"recurrence": "convlstm"}, {"skips": True, "activation": "relu", "norm": "group"}) and blocks == 1:
        assert matched == paper


@pytest.mark.parametrize("even", [False, True])
def test_matched_widths_are_the_largest_that_fit(even: bool) -> None:
    """Against a search through every width of the deepest block, for a made-up count."""
    step = 2 if even else 1
    for most in range(14 if even else 3, 200, 7):
        widths = matched_widths(lambda w: w[0] * w[1] + w[1], blocks=2, most=most, even=even)
        assert widths[0] * widths[1] + widths[1] <= most
        assert not any(width % step for width in widths)
        deeper = widths[1] + step
        first = step * int(deeper / (2 * step) + 0.5)
        assert first * deeper + deeper > most


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="recurrence: got 'lstm', allowed are convlstm, convlstm_separable"):
        build_recurrence("lstm", 1, 2, bidirectional=False)
    with pytest.raises(ValueError, match="filters: got 3, a bidirectional student needs an even number"):
        build_recurrence("mingru", 1, 3, bidirectional=True)
    assert set(ACTIVATIONS) == {"none", "relu", "gelu", "silu"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "{recurrence: gru}",
            "a.recurrence: got 'gru', allowed are convlstm, convlstm_separable, convgru, mingru, shift",
        ),
        ("{activation: tanh}", "students.a.activation: got 'tanh', allowed are none, relu, gelu, silu"),
        ("{filters: -1}", "students.a.filters: got -1, must lie in 0 .. 1024"),
        (
            "{bidirectional: true, recurrence: conv3d}",
            "students.a.recurrence is conv3d, which has no state to run against",
        ),
        ("{filters: 5, bidirectional: true}", "got 5, must be even because students.a.bidirectional gives each"),
        ("{recurrence: shift, blocks: 1}", "students.a.recurrence: got shift with one layer in all"),
        ("{recurrence: shift, filters: 7}", "students.a.filters: got 7, must be 0 or at least 8 because students.a."),
    ],
)
def test_a_student_that_cannot_be_is_refused_in_one_sentence(options: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"students.a={options}"])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options", ["{filters: 0, bidirectional: true}", "{filters: 9, recurrence: shift, norm: group}"]
)
def test_what_the_checks_let_through_can_be_built(options: str) -> None:
    config = load_config(None, [f"students.a={options}", "students.b={blocks: 1, skips: true, activation: relu}"])
    for student in config.students.values():
        logits = build_student(**student.network)(torch.zeros(1, 2, 8, 8)).mask_logits
        assert logits.shape == (1, 2, 1, 8, 8)
