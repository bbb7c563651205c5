"""The project's networks once more, in PyTorch, and Zhang's of 2016: to time, not to train with.

Pictures are `B C H W` here, in memory channels last. `paper` and `unet` take the project's own
parameters, so that both frameworks are checked to compute the same before they are timed.
"""

from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]


class Conv(nn.Conv2d):
    """A convolution padded as SAME is for an even size: with stride 2 below and on the right."""

    def __init__(self, channels: int, features: int, size: int = 3, stride: int = 1):
        """Of so many channels and features."""
        super().__init__(channels, features, size, stride, padding=size // 2 if stride == 1 else 0)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`B channels H W` → `B features H/stride W/stride`."""
        return super().forward(F.pad(input, (0, 1, 0, 1)) if self.stride[0] == 2 else input)


class Paper(nn.Module):
    """`model.PaperNetwork`."""

    LAYERS = (
        (64, 1, False),
        (64, 2, False),
        (128, 1, False),
        (128, 2, False),
        (256, 1, False),
        (256, 2, False),
        (512, 1, False),
        (256, 1, False),
        (128, 1, True),
        (64, 1, True),
        (32, 1, False),
    )

    def __init__(self):
        """With random parameters."""
        super().__init__()
        widths = [1, *(features for features, _, _ in self.LAYERS)]
        self.layers = nn.ModuleList(
            Conv(channels, features, stride=stride)
            for channels, (features, stride, _) in zip(widths, self.LAYERS, strict=False)
        )
        self.head = Conv(32, 2)

    def forward(self, lightness: torch.Tensor) -> torch.Tensor:
        """L* `B H W` → ab `B 2 H W`."""
        x = (lightness / 50 - 1)[:, None]
        for layer, (_, _, up) in zip(self.layers, self.LAYERS, strict=True):
            x = F.relu(layer(x))
            x = F.interpolate(x, scale_factor=2) if up else x
        return F.interpolate(128 * torch.tanh(self.head(x).float()), scale_factor=2)


class Block(nn.Module):
    """`model.ResidualBlock`."""

    def __init__(self, channels: int):
        """Of so many channels."""
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(channels // 16, channels) for _ in range(2))
        self.conv1, self.conv2 = Conv(channels, channels), Conv(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        return x + self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))


class Context(nn.Module):
    """`model.GlobalContext`."""

    def __init__(self, channels: int):
        """Of so many channels."""
        super().__init__()
        self.norm = nn.GroupNorm(channels // 16, channels)
        self.hidden = Conv(2 * channels, 2 * channels, 1)
        self.out = Conv(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        y = self.norm(x)
        pooled = torch.cat([y.mean((2, 3), keepdim=True), y.amax((2, 3), keepdim=True)], 1)
        return x + self.out(F.relu(self.hidden(pooled)))


class UNet(nn.Module):
    """`model.UNet`."""

    def __init__(self, width: int):
        """`width` channels at the first level; of the networks with ab as their answer."""
        super().__init__()
        first, second, third = widths = [width << level for level in range(3)]
        self.stem, self.merge = Conv(4, first // 2), Conv(2 * first, first, 1)
        self.encoder = nn.ModuleList(
            nn.ModuleList(Block(channels) for _ in range(blocks))
            for channels, blocks in zip(widths, (2, 2, 4), strict=True)
        )
        self.down = nn.ModuleList([Conv(4 * first, second, 1), Conv(4 * second, third, 1)])
        self.context = Context(third)
        self.up = nn.ModuleList([Conv(second, first, 1), Conv(third, second, 1)])
        self.decoder = nn.ModuleList(
            nn.ModuleList(Block(channels) for _ in range(2)) for channels in (first, second)
        )
        self.norm = nn.GroupNorm(first // 16, first)
        self.head = Conv(first, 2)

    def forward(self, lightness: torch.Tensor) -> torch.Tensor:
        """L* `B H W` → ab `B 2 H/4 W/4`."""
        x = F.relu(self.stem(F.pixel_unshuffle((lightness / 50 - 1)[:, None], 2)))
        x = self.merge(F.pixel_unshuffle(x, 2))
        skips = []
        for level, blocks in enumerate(self.encoder):
            if level:
                x = self.down[level - 1](F.pixel_unshuffle(x, 2))
            for index, block in enumerate(blocks):  # type: ignore[arg-type] - a ModuleList has no element type
                if level == 2 and index == 2:
                    x = self.context(x)
                x = block(x)
            skips.append(x)
        for level in (1, 0):
            x = F.interpolate(self.up[level](x), scale_factor=2) + skips[level]
            for block in self.decoder[level]:  # type: ignore[union-attr] - likewise
                x = block(x)
        x = self.head(F.relu(self.norm(x))).float()
        return 128 * torch.tanh(x)


class Zhang2016(nn.Module):
    """The network of Zhang, Isola and Efros, "Colorful Image Colorization": 32.2 M parameters.

    With random parameters, which do not change its speed.
    """

    def __init__(self):
        """Eight blocks of convolutions, the fifth and sixth dilated."""
        super().__init__()

        def block(channels, features, count, stride=1, dilation=1):
            layers: list[nn.Module] = []
            for index in range(count):
                layers += [
                    nn.Conv2d(
                        channels,
                        features,
                        3,
                        stride if index == count - 1 else 1,
                        padding=dilation,
                        dilation=dilation,
                    ),
                    nn.ReLU(),
                ]
                channels = features
            return [*layers, nn.BatchNorm2d(features)]

        self.body = nn.Sequential(
            *block(1, 64, 2, 2),
            *block(64, 128, 2, 2),
            *block(128, 256, 3, 2),
            *block(256, 512, 3),
            *block(512, 512, 3, dilation=2),
            *block(512, 512, 3, dilation=2),
            *block(512, 512, 3),
            nn.ConvTranspose2d(512, 256, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 313, 1),
        )
        self.decode = nn.Conv2d(313, 2, 1, bias=False)

    def forward(self, lightness: torch.Tensor) -> torch.Tensor:
        """L* `B H W` → ab `B 2 H/4 W/4`."""
        logits = self.body((lightness / 100 - 0.5)[:, None])
        return self.decode(F.softmax(logits, dim=1)).float()


def _shuffled(name: str) -> bool:
    """Whether a convolution follows space-to-depth, where the frameworks order channels apart."""
    return name in ("stem", "merge") or name.startswith("down.")


def load(network: nn.Module, params: dict[str, Any]) -> None:
    """Give a network the project's parameters, by their names: `H W in out` → `out in H W`."""

    def walk(tree: dict[str, Any], prefix: str = "") -> None:
        for key, value in tree.items():
            name = f"{prefix}{key}"
            if isinstance(value, dict):
                walk(value, f"{name}.")
                continue
            array = np.asarray(value)
            if key == "kernel":
                array = array.transpose(3, 2, 0, 1)
                if _shuffled(prefix[:-1]):  # ours counts pixels first, PyTorch channels
                    out, channels, *size = array.shape
                    array = array.reshape(out, 4, channels // 4, *size).swapaxes(1, 2)
                    array = array.reshape(out, channels, *size)
            name = prefix + {"kernel": "weight", "scale": "weight"}.get(key, key)
            target = network.get_parameter(name)
            with torch.no_grad():
                target.copy_(torch.from_numpy(np.array(array)))

    walk(params)
