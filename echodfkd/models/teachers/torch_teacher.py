"""A teacher that is a network, with its own pixel statistics, input size, classes and bound on memory.

Legend: N clips, T frames, L frames that the network sees at once, C channels or classes, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.core.errors import RunError, one_line
from echodfkd.core.mask_codes import encode
from echodfkd.core.precision import TEACHER_PRECISIONS
from echodfkd.models.mask_tensors import encode_tensor
from echodfkd.models.teachers.network_spec import RANGE_SLACK, NetworkSpec, check_channels, own_statistics
from echodfkd.models.teachers.protocol import ClipKey, Teacher, TeacherOutput, check_levels


class TorchTeacher(Teacher):
    """A network with its own normalisation, input size and device.

    Args:
        network: (N, C, h, w) float -> logits (N, classes, h, w), or as ``spec.layout`` says.
        spec: how it is fed and its output read.
        device: torch device.
        batch_frames: frames in one forward pass.
        precision: fp32, or bf16 or fp16 (autocast: convolutions and products in it, weights as they are), which gives
            other masks and therefore another ``teacher_id``.
    """

    def __init__(
        self, network: nn.Module, spec: NetworkSpec, *, device: str, batch_frames: int, precision: str = "fp32"
    ) -> None:
        assert precision in TEACHER_PRECISIONS
        assert spec.layout.axes == "NCHW" or not spec.channels_last
        self._memory = torch.channels_last if spec.channels_last else torch.preserve_format
        network.to(device)
        if spec.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network.eval()
        weights_hash = spec.weights_hash or hash_weights(network)
        self._half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        self.teacher_id = (
            f"{spec.name}-{weights_hash}" if self._half is None else f"{spec.name}_{precision}-{weights_hash}"
        )
        self.class_names = spec.class_names
        self.device = torch.device(device)
        self.batch_frames = batch_frames
        self.input_size = spec.input_size
        self.layout = spec.layout
        self.normalise = spec.statistics.normalise
        self.sees_frames = spec.layout.axes == "NCHW" and self.normalise != "clip"
        self._compiled: Callable[[torch.Tensor], torch.Tensor] | None = None
        channels = len(spec.statistics.mean)
        self._mean = torch.tensor(spec.statistics.mean, device=self.device).view(1, channels, 1, 1)
        self._std = torch.tensor(spec.statistics.std, device=self.device).view(1, channels, 1, 1)

    def compile(self) -> None:
        """Let torch.compile make kernels of the network, of one shape: every pass has ``batch_frames`` frames then.

        A GPU replays them as CUDA graphs. The first pass of each size of clip takes a minute or so.
        """
        assert self.layout.axes == "NCHW"
        self.layout = replace(self.layout, fixed_batch=self.layout.fixed_batch or self.batch_frames)
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        self._compiled = torch.compile(self.network, dynamic=False, mode=mode)

    def teach(
        self,
        video_NTHW: np.ndarray,
        clips: Sequence[ClipKey] = (),
        *,
        classes: Sequence[str] | None = None,
        code: str | None = None,
    ) -> TeacherOutput:
        """See `Teacher.teach`. Masks are encoded on the device, so that a quarter of the bytes leaves it.

        A clip of `check_levels` is at fault.
        """
        faults = check_levels(video_NTHW)
        prob = self._prob(video_NTHW)
        finite = prob.sum((1, 2, 3, 4)).isfinite()  # of numbers up to 1, so that the sum of finite ones is finite
        places = self.places(classes)
        if places != list(range(prob.shape[2])):
            prob = torch.stack([prob[:, :, place] for place in places], dim=2)  # an index would cross to the device
        # all of the host's waiting is here: ``finite`` was queued before
        masks = _to_host(prob if code is None else encode_tensor(prob, code))
        faults = self.with_not_finite(faults, _to_host(finite))
        if faults:
            masks[list(faults)] = 0.0 if code is None else encode(np.zeros(()), code)
        return TeacherOutput(masks, faults)

    @torch.inference_mode()
    def _prob(self, video_NTHW: np.ndarray) -> torch.Tensor:
        """(N, T, C, H, W) on the device. Frames are grouped to ``batch_frames`` over clips.

        A network that sees L frames at once gets the windows 0 .. L, L .. 2L and so on; the last one ends with the
        clip, and its mask counts for the frames that no other window holds. Before a clip shorter than L ends, its
        last frame is repeated.
        """
        N, T, H, W = video_NTHW.shape
        length = 1 if self.layout.axes == "NCHW" else self.layout.window_frames or T
        starts = np.minimum(np.arange(0, T, length), max(0, T - length))
        frames_SL = np.minimum(starts[:, None] + np.arange(length), T - 1)
        windows = torch.from_numpy(np.ascontiguousarray(video_NTHW[:, frames_SL])).view(-1, length, H, W)
        own = torch.from_numpy(own_statistics(video_NTHW, self.normalise)[:, frames_SL]).reshape(-1, length, 2)
        per_pass = self._per_pass(length)
        chunks = zip(windows.split(per_pass), own.split(per_pass), strict=True)
        # one block for all chunks: autocast keeps the cast weights until it ends
        with self._autocast():
            prob = torch.cat([self._forward(chunk, of_chunk) for chunk, of_chunk in chunks])
        if self.layout.activation == "none":
            prob = self._within_range(prob)
        prob = prob.view(N, len(starts) * length, -1, H, W)
        before = length * (len(starts) - 1)  # frames of all windows but the last
        twice = before - int(starts[-1])
        if not twice:
            return prob[:, :T]
        # by slices: an index would cross to the device first, and the host wait there
        return torch.cat([prob[:, :before], prob[:, before + twice :]], dim=1)

    @torch.inference_mode()
    def own_output(self, video_NLHW: np.ndarray) -> torch.Tensor:
        """The network's output for windows, before an activation: (N * L, channels, h, w) at its own size.

        Raises:
            RunError: the network refuses them, or gives another shape than its `NetworkLayout` says.
        """
        windows = torch.from_numpy(np.ascontiguousarray(video_NLHW))
        own = torch.from_numpy(own_statistics(video_NLHW, self.normalise))
        per_pass = self._per_pass(windows.shape[1])
        with self._autocast():
            chunks = zip(windows.split(per_pass), own.split(per_pass), strict=True)
            return torch.cat([self._output(chunk, of_chunk) for chunk, of_chunk in chunks])

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self._half or torch.bfloat16, enabled=self._half is not None)

    def _per_pass(self, length: int) -> int:
        """Windows of so many frames in one pass."""
        return self.layout.fixed_batch or max(1, self.batch_frames // length)

    def _forward(self, windows_NLHW: torch.Tensor, own_NL2: torch.Tensor) -> torch.Tensor:
        """Probability (N, L, classes, H, W) of some windows, with the `own_statistics` of their frames."""
        N, L, H, W = windows_NLHW.shape
        output = self._output(windows_NLHW, own_NL2)
        if output.shape[-2:] != (H, W):
            output = F.interpolate(output, size=(H, W), mode="bilinear", align_corners=False)
        prob = self._activate(output.float())
        if self.layout.channels is not None:
            prob = torch.stack([prob[:, channel] for channel in self.layout.channels], dim=1)
        return prob.view(N, L, -1, H, W)

    def _output(self, windows_NLHW: torch.Tensor, own_NL2: torch.Tensor) -> torch.Tensor:
        """The network's own output (N * L, channels, h, w) for some windows."""
        N, L, H, W = windows_NLHW.shape
        if self.layout.fixed_batch is not None and self.layout.fixed_batch > N:
            places = torch.arange(self.layout.fixed_batch).clamp(max=N - 1)
            return self._output(windows_NLHW[places], own_NL2[places])[: N * L]
        frames = windows_NLHW.reshape(-1, 1, H, W)
        x = _to_device(frames, self.device).float()
        if self.normalise != "fixed":
            mean, std = _to_device(own_NL2, self.device).view(-1, 2, 1, 1, 1).unbind(1)
            x = (x - mean) / std
        x = (x - self._mean) / self._std  # grey repeats over the channels
        own = self.input_size
        if own is not None and x.shape[-2:] != (own, own):
            x = F.interpolate(x, size=(own, own), mode="bilinear", align_corners=False, antialias=True)
        x = self._as_input(x, L).contiguous(memory_format=self._memory)
        return self._as_frames(self._run(x), L, len(frames))

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        if self._compiled is None:
            return self.network(x)
        try:
            return self._compiled(x).clone()  # the next replay of a CUDA graph writes over what this one gave
        except torch._dynamo.exc.TorchDynamoException as error:
            raise RunError(
                f"teacher.compile: torch cannot compile the network of {self.teacher_id} here, it needs a C++ compiler"
                f" for a CPU and Triton for a GPU ({one_line(error)}); set teacher.compile=false"
            ) from error

    def _as_input(self, x: torch.Tensor, length: int) -> torch.Tensor:
        """Frames (N * L, C, h, w) with the network's axes."""
        if self.layout.axes == "NCHW":
            return x
        x = x.view(-1, length, *x.shape[1:])
        return x.transpose(1, 2) if self.layout.axes == "NCTHW" else x

    def _as_frames(self, output: torch.Tensor, length: int, count: int) -> torch.Tensor:
        """The network's output as frames (N * L, classes, h, w). Raises `RunError` if it has other axes."""
        wanted = "(N, classes, H, W)"
        if self.layout.axes != "NCHW":
            wanted = "(N, classes, T, H, W)" if self.layout.axes == "NCTHW" else "(N, T, classes, H, W)"
            if output.dim() == 5:
                output = (output.transpose(1, 2) if self.layout.axes == "NCTHW" else output).flatten(0, 1)
        if output.dim() != 4 or len(output) != count:
            raise RunError(
                f"the teacher {self.teacher_id} gave an output of shape {tuple(output.shape)} for {count} frames in"
                f" windows of {length}, expected {wanted} (teacher.layout)"
            )
        check_channels(output, self.layout.num_channels or len(self.class_names) - 1, self.teacher_id)
        return output

    def _activate(self, output: torch.Tensor) -> torch.Tensor:
        if self.layout.activation == "sigmoid":
            return output.sigmoid()
        return output.softmax(1) if self.layout.activation == "softmax" else output

    def _within_range(self, prob: torch.Tensor) -> torch.Tensor:
        """Check the output of a network without activation; the host waits for it. Raises `RunError`."""
        low, high = (float(edge) for edge in prob.aminmax())
        if low < -RANGE_SLACK or high > 1 + RANGE_SLACK:
            raise RunError(
                f"the teacher {self.teacher_id} gave values from {low:.3g} to {high:.3g} where teacher.activation is"
                " none, which takes probabilities of 0 .. 1; set it to sigmoid or softmax"
            )
        return prob.clamp(0, 1)


def _to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """To a GPU by way of memory that it reads by itself: the copy runs while the host prepares the next pass."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def _to_host(tensor: torch.Tensor) -> np.ndarray:
    """The values of a tensor, once its device has made them; from a GPU through pinned memory too."""
    if tensor.device.type != "cuda":
        return tensor.numpy()
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return host.numpy()


def hash_weights(network: nn.Module) -> str:
    """First 8 hex digits of a sha256 over names, shapes and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:8]
