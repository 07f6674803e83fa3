"""The recurrent cell of the students, run over whole sequences, with a backward pass of its own.

Legend: B clips, b clips of one chunk, T frames, C input channels, Z hidden channels, H rows, W columns; 4Z are the
channels of the four gates. The conv dtype is that of the weight, or autocast's. The cell dtype is the same, but float32
for a half precision: the cell state sums over frames and must not be rounded at each of them.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.grad import conv2d_input

KERNEL_SIZE = 3
PADDING = KERNEL_SIZE // 2

CHUNK_BYTES = 5 << 19
"""Most bytes of gates of one frame, in the cell dtype, per chunk on a CPU: about a core's level 2 cache.
Clips are independent, so that the clips of one chunk run through all frames before the next chunk starts."""


class RecurrentConv2d(nn.Conv2d):
    """The one convolution of a ConvLSTM cell, run over a whole sequence.

    Its weight maps input and hidden channels to the four gates in the order input, forget, output,
    candidate (sigmoid, sigmoid, sigmoid, tanh); then c = f * c + i * g and h = o * tanh(c), from zero
    states and without peepholes (Shi et al. 2015, as the authors simplified it).

    Weight and bias are used only in this module's own forward, as parameter sharding (ZeRO stage 3) requires:
    autograd keeps the weight for the backward pass. Second derivatives raise a RuntimeError.
    """

    def __init__(self, in_channels: int, hidden_channels: int) -> None:
        super().__init__(in_channels + hidden_channels, 4 * hidden_channels, KERNEL_SIZE, padding=PADDING)
        self.hidden_channels = hidden_channels

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, T, Z, H, W), in the conv dtype, of an input (B, T, C, H, W)."""
        assert self.bias is not None
        dtype, device_type = self.weight.dtype, input.device.type
        has_autocast = torch.amp.is_autocast_available(device_type)  # the meta device has none
        if dtype == torch.float32 and has_autocast and torch.is_autocast_enabled(device_type):
            dtype = torch.get_autocast_dtype(device_type)
        with torch.autocast(device_type, enabled=False) if has_autocast else contextlib.nullcontext():
            if torch.is_grad_enabled() and any(t.requires_grad for t in (input, self.weight, self.bias)):
                return _Recurrence.apply(input, self.weight, self.bias, dtype)
            return _run(input, self.weight.to(dtype), self.bias.to(dtype), saved=None)


class _Recurrence(torch.autograd.Function):
    """`_run` with gradients.

    Beside the layer's input and output it saves the gates (4Z channels) and the cell state (Z) of each frame;
    autograd's graph of the frame-by-frame loop would save C + 7Z beside its output. It works in place.
    """

    @staticmethod
    def forward(
        ctx: Any, x_BTCHW: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        saved: list[torch.Tensor] = []
        h_BTZHW = _run(x_BTCHW, weight.to(dtype), bias.to(dtype), saved)
        ctx.save_for_backward(x_BTCHW, weight, h_BTZHW, *saved)
        return h_BTZHW

    @staticmethod
    def backward(ctx: Any, grad_BTZHW: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():  # the code below works in place: a graph of it would be wrong
            raise RuntimeError("RecurrentConv2d has no second derivatives: call backward without create_graph")
        x_BTCHW, weight, h_BTZHW, *saved = ctx.saved_tensors
        grad_x = torch.empty_like(x_BTCHW) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=saved[1].dtype)
        grad_bias = grad_weight.new_zeros(len(weight))
        conv_weight = weight.to(h_BTZHW.dtype)
        per_chunk = 2 * x_BTCHW.shape[1]
        for number, clips in enumerate(_chunks(h_BTZHW)):
            chunk = _Chunk(x_BTCHW[clips], h_BTZHW[clips], conv_weight, None if grad_x is None else grad_x[clips])
            chunk.go_back(grad_BTZHW[clips], saved[number * per_chunk : (number + 1) * per_chunk])
            grad_weight += chunk.grad_weight
            grad_bias += chunk.grad_bias
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None


def _chunks(h_BTZHW: torch.Tensor) -> list[slice]:
    """Chunks of clips: all clips at once, but on a CPU only as many as fit its cache."""
    B, _, Z, H, W = h_BTZHW.shape
    if not _is_cpu(h_BTZHW.device):
        return [slice(0, B)]
    bytes_per_clip = 4 * Z * H * W * _cell_dtype(h_BTZHW.dtype).itemsize
    step = max(1, CHUNK_BYTES // bytes_per_clip)
    return [slice(start, min(start + step, B)) for start in range(0, B, step)]


def _is_cpu(device: torch.device) -> bool:
    """Whether to work in pieces that fit a cache; meta tensors stand for a GPU."""
    return device.type == "cpu"


def _conv_layout(device: torch.device) -> torch.memory_format:
    """Memory format of the convolutions' inputs and outputs."""
    return torch.channels_last if _is_cpu(device) else torch.contiguous_format


def _cell_dtype(conv_dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if conv_dtype in (torch.bfloat16, torch.float16) else conv_dtype


def _run(
    x_BTCHW: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, saved: list[torch.Tensor] | None
) -> torch.Tensor:
    """Hidden states (B, T, Z, H, W).

    Appends to ``saved``, chunk by chunk and frame by frame, the gates and the cell state. If the conv dtype is the cell
    dtype, the gates are saved after their activations; if it is a half precision, before them and in half the bytes.
    """
    B, T, C, H, W = x_BTCHW.shape
    Z = weight.shape[0] // 4
    layout = _conv_layout(x_BTCHW.device)
    weight = weight.contiguous(memory_format=layout)
    h_BTZHW = x_BTCHW.new_empty(B, T, Z, H, W, dtype=weight.dtype)
    for clips in _chunks(h_BTZHW):
        both_bCHW = x_BTCHW.new_zeros(clips.stop - clips.start, C + Z, H, W, dtype=weight.dtype)
        both_bCHW = both_bCHW.contiguous(memory_format=layout)
        work = _work_space(both_bCHW, 4 * Z)
        c_bZHW: torch.Tensor | None = None
        for t in range(T):
            # Convolving x of all frames ahead of the loop was tried: slower on a CPU.
            both_bCHW[:, :C] = x_BTCHW[clips, t]
            gates = F.conv2d(both_bCHW, weight, bias, padding=PADDING)
            if work is None:
                gates = gates.contiguous()  # gate by gate, so that the elementwise lines below read whole planes
            i, f, o, g = _activate_(gates if work is None else work.copy_(gates)).split(Z, dim=1)
            c_bZHW = i * g if c_bZHW is None else (f * c_bZHW).addcmul_(i, g)
            h_BTZHW[clips, t] = c_bZHW.tanh().mul_(o)
            both_bCHW[:, C:] = h_BTZHW[clips, t]
            if saved is not None:
                saved += (gates, c_bZHW)
    return h_BTZHW


def _work_space(like_bCHW: torch.Tensor, channels: int) -> torch.Tensor | None:
    """A buffer (b, channels, H, W) in the cell dtype, for all frames; None if that is the conv dtype."""
    # One buffer for all frames, because allocating fresh memory costs a CPU more than filling it.
    dtype = _cell_dtype(like_bCHW.dtype)
    if dtype == like_bCHW.dtype:
        return None
    b, _, H, W = like_bCHW.shape
    return like_bCHW.new_empty(b, channels, H, W, dtype=dtype)


def _activate_(gates_bGHW: torch.Tensor) -> torch.Tensor:
    """Apply sigmoids and tanh to gates (b, 4Z, H, W), in place."""
    Z = gates_bGHW.shape[1] // 4
    gates_bGHW[:, : 3 * Z].sigmoid_()
    gates_bGHW[:, 3 * Z :].tanh_()
    return gates_bGHW


class _Chunk:
    """The backward pass of a few clips.

    A GPU runs ONE weight-gradient convolution over all frames in place of T small ones. A CPU runs one per frame, while
    the gradient of the gates is still in its cache: one over all frames takes a tenth longer there.

    Args:
        x_bTCHW: the input.
        h_bTZHW: the output, in the conv dtype.
        weight: (4Z, C + Z, 3, 3), in the conv dtype.
        grad_x: receives the input's gradient; None if it is not needed.
    """

    def __init__(
        self, x_bTCHW: torch.Tensor, h_bTZHW: torch.Tensor, weight: torch.Tensor, grad_x: torch.Tensor | None
    ) -> None:
        self.x_TbCHW, self.h_TbZHW = x_bTCHW.transpose(0, 1), h_bTZHW.transpose(0, 1)
        self.layout = _conv_layout(weight.device)
        self.weight, self.grad_x = weight.contiguous(memory_format=self.layout), grad_x
        self.at_once = not _is_cpu(x_bTCHW.device)
        self.both = self._buffer(weight.shape[1])  # inputs of the convolutions: x and h
        self.d_gates = self._buffer(len(weight))
        self.grad_weight = torch.zeros_like(weight, dtype=_cell_dtype(weight.dtype))
        self.grad_bias = self.grad_weight.new_zeros(len(weight))

    def _buffer(self, channels: int) -> torch.Tensor:
        """(L, b, channels, H, W) for all frames or for one, in the conv dtype and layout."""
        T, b, _, H, W = self.x_TbCHW.shape
        L = T if self.at_once else 1
        flat = torch.empty(
            L * b, channels, H, W, dtype=self.weight.dtype, device=self.weight.device, memory_format=self.layout
        )
        return flat.unflatten(0, (L, b))

    def go_back(self, grad_bTZHW: torch.Tensor, saved: list[torch.Tensor]) -> None:
        """Run from the last frame to the first; ``saved`` is this chunk's part of the list of `_run`."""
        T, b, C, H, W = self.x_TbCHW.shape
        work = _work_space(saved[0], len(self.weight))
        in_place = self.weight.dtype == saved[1].dtype and self.layout == torch.contiguous_format
        d_work = None if in_place else saved[1].new_empty(b, len(self.weight), H, W)
        dh: torch.Tensor | None = None
        dc = torch.zeros_like(saved[1])
        for t in reversed(range(T)):
            gates, c = saved[2 * t : 2 * t + 2]
            if work is not None:
                gates = _activate_(work.copy_(gates))
            # The hidden state of frame t feeds the output, and the convolution of frame t + 1.
            own = grad_bTZHW[:, t].to(c.dtype)
            dh = own if dh is None else own + dh
            now = self.d_gates[t : t + 1] if self.at_once else self.d_gates
            d = now[0] if d_work is None else d_work
            dc = _cell_backward(gates, c, saved[2 * t - 1] if t else None, dh, dc, out=d)
            if d_work is not None:
                now[0] = d_work
            d_both = self._convolve_back(now, t, wants_input=t > 0 or self.grad_x is not None)
            if d_both is not None:
                dh = d_both[:, C:].to(dc.dtype, memory_format=torch.contiguous_format)
                if self.grad_x is not None:
                    self.grad_x[:, t] = d_both[:, :C]
        if self.at_once:
            self._add(self.d_gates, 0, wants_input=False)

    def _convolve_back(self, d_gates_1bGHW: torch.Tensor, t: int, *, wants_input: bool) -> torch.Tensor | None:
        """Gradient (b, C + Z, H, W) of frame t's convolution input; on a CPU also adds those of weight and bias."""
        if not self.at_once:
            return self._add(d_gates_1bGHW, t, wants_input=wants_input)
        if not wants_input:
            return None
        _, b, _, H, W = d_gates_1bGHW.shape
        return conv2d_input((b, self.weight.shape[1], H, W), self.weight, d_gates_1bGHW[0], padding=PADDING)

    def _add(self, d_gates_LbGHW: torch.Tensor, start: int, *, wants_input: bool) -> torch.Tensor | None:
        """Add the gradients of weight and bias from the frames that begin at ``start``."""
        stop = start + len(d_gates_LbGHW)
        C = self.x_TbCHW.shape[2]
        self.both[:, :, :C] = self.x_TbCHW[start:stop]
        if start == 0:  # the first frame's convolution read a hidden state of zeros
            self.both[0, :, C:] = 0
        self.both[int(start == 0) :, :, C:] = self.h_TbZHW[max(start - 1, 0) : stop - 1]
        d_both, d_weight, d_bias = torch.ops.aten.convolution_backward(
            d_gates_LbGHW.flatten(0, 1), self.both.flatten(0, 1), self.weight, [len(self.weight)],
            [1, 1], [PADDING, PADDING], [1, 1], False, [0, 0], 1, [wants_input, True, True],
        )  # fmt: skip
        self.grad_weight += d_weight
        self.grad_bias += d_bias
        return d_both


def _cell_backward(
    gates_bGHW: torch.Tensor,
    c_bZHW: torch.Tensor,
    before_bZHW: torch.Tensor | None,
    dh: torch.Tensor,
    dc: torch.Tensor,
    *,
    out: torch.Tensor,
) -> torch.Tensor:
    """Gradient of the cell state before, and of the gates before their activations, which goes to ``out``.

    Args:
        gates_bGHW: activated gates.
        c_bZHW: cell state of the frame.
        before_bZHW: cell state of the frame before; None at the first.
        dh: gradient of the hidden state.
        dc: gradient of the cell state through the later frames; changed in place.
        out: (b, 4Z, H, W), in the cell dtype.
    """
    aten = torch.ops.aten
    Z = c_bZHW.shape[1]
    i, f, o, g = gates_bGHW.split(Z, dim=1)
    di, df, do, dg = out.split(Z, dim=1)
    tanh_c = c_bZHW.tanh()
    dc += aten.tanh_backward(dh * o, tanh_c)
    torch.mul(dh, tanh_c, out=do)
    torch.mul(dc, g, out=di)
    if before_bZHW is None:
        df.zero_()
    else:
        torch.mul(dc, before_bZHW, out=df)
    # From gradients of the activated gates to those before the activations, in place.
    d_ifo = out[:, : 3 * Z]
    aten.sigmoid_backward.grad_input(d_ifo, gates_bGHW[:, : 3 * Z], grad_input=d_ifo)
    aten.tanh_backward.grad_input(dc * i, g, grad_input=dg)
    return dc.mul_(f)
