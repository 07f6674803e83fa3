"""The authors' students, built from their description with torch's own layers, and files as Lightning saves them.

Slow on purpose: one frame after the other, input and hidden state concatenated, nothing shared with echodfkd.
"""

import copy
import io
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn


class Cell(nn.Module):
    """Gates in the order input, forget, output, candidate out of one convolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels + width, 4 * width, 3, padding=1)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        i, f, o, g = self.conv(torch.cat([x, h], dim=1)).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class Recurrent(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.cell = Cell(channels, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = torch.zeros(x.shape[0], self.width, *x.shape[3:])
        hidden = []
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], h, c)
            hidden.append(h)
        return torch.stack(hidden, dim=1)


class PerFrame(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.layer(x[:, t]) for t in range(x.shape[1])], dim=1)


class Level(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.conv_lstm_layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_lstm_layers(x)


class AuthorsNet(nn.Module):
    """k blocks of n layers; (B, T, 1, H, W) raw grey levels -> (B, T, 1, H, W) logits. Batch norm of eval mode only."""

    def __init__(self, k: int, n: int, filters: int) -> None:
        super().__init__()
        self.conv_lstm_blocks, self.conv_lstm_upsampling = nn.ModuleList(), nn.ModuleList()
        for b in range(k):
            width = filters << b
            layers: list[nn.Module] = []
            for j in range(n):
                before = width if j else (width // 2 if b else 1)
                layers += [Recurrent(before, width), PerFrame(nn.BatchNorm2d(width))]
            if b < k - 1:
                layers.append(PerFrame(nn.MaxPool2d(2)))
            self.conv_lstm_blocks.append(Level(layers))
        for b in reversed(range(k - 1)):
            width = filters << b
            up, conv = nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(2 * width, width, 3, padding=1)
            self.conv_lstm_upsampling.append(Level([PerFrame(up), PerFrame(conv), PerFrame(nn.BatchNorm2d(width))]))
        self.output_layer = PerFrame(nn.Conv2d(filters, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for level in (*self.conv_lstm_blocks, *self.conv_lstm_upsampling):
            x = level(x)
        return self.output_layer(x)


def trained_net(k: int, n: int, filters: int, seed: int = 0) -> AuthorsNet:
    """Weights drawn as torch draws them, batch statistics and affine terms as training would leave them."""
    torch.manual_seed(seed)
    net = AuthorsNet(k, n, filters).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.2, 1.5)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_(0, 0.3)
                module.num_batches_tracked.fill_(1234)
    return net


class EarlyStopping:
    """Older Lightning keys callbacks by their class; any other class of another package looks the same in a pickle."""


def lightning_file(net: nn.Module, **extra: object) -> bytes:
    """A checkpoint with everything that Lightning's trainer puts into one."""
    state = OrderedDict((f"model.{key}", value) for key, value in net.state_dict().items())
    state._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]
    trained = copy.deepcopy(net)
    optimizer = torch.optim.Adam(trained.parameters(), lr=1e-3)
    sum(parameter.sum() for parameter in trained.parameters()).backward()
    optimizer.step()
    saved = {
        "epoch": 41,
        "global_step": 9_827,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 42}}}, "test_loop": {}},
        "callbacks": {
            "ModelCheckpoint{'monitor': 'val_loss'}": {
                "best_model_score": torch.tensor(0.05),
                "dirpath": Path("models") / "multi",
            },
            EarlyStopping: {"wait_count": 3, "best_score": torch.tensor(0.05)},
        },
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        **extra,
    }
    sink = io.BytesIO()
    torch.save(saved, sink)
    return sink.getvalue()
