"""The networks: lightness in, colour out. Flax is imported here, in layers.py and in extra/gan.py.

The modules are Flax NNX, behind a functional boundary: `init` gives a plain nested dict of float32
parameters, `predict` is a pure function of that dict. Pictures are `B H W C`; lightness is L* in
0…100 and ab is CIE a*b*, both under D65. There is no state but the parameters, and each picture's
result depends on that picture alone.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colorjax import color
from colorjax.layers import (
    Conv,
    GlobalContext,
    GroupNorm,
    InvertedResidual,
    ResidualBlock,
    space_to_depth,
    upsample,
)

Params = dict[str, Any]

AB_SCALE = 128.0  # ab / 128 lies within -1…1
BINS = 261  # the in-gamut ab bins, as `palette.bins` lists them


@dataclass(frozen=True)
class NetworkConfig:
    """What decides a network's parameters and operations; it travels with the weights."""

    kind: str = "unet"  # "paper", "unet" or "lite"
    width: int = 64  # channels of the finest level; the paper's network has its own
    head: str = "ab"  # what it says of a place: its "ab", or how likely each of the "bins" is
    labels: tuple[str, ...] = ()  # what it can say a photograph shows; not the paper's

    def __post_init__(self) -> None:
        """Check the values: ValueError names the one that is wrong."""
        object.__setattr__(self, "labels", tuple(self.labels))  # JSON knows lists only
        if self.kind not in _STRIDES:
            raise ValueError(f"network is {self.kind!r}: it must be one of {', '.join(_STRIDES)}")
        whole = isinstance(self.width, int) and self.width % 16 == 0
        if self.kind != "paper" and not (whole and 16 <= self.width <= 512):
            raise ValueError(f"width is {self.width!r}: it must be a multiple of 16 from 16 to 512")
        heads = {"paper": ("ab",), "unet": ("ab", "bins"), "lite": ("bins",)}[self.kind]
        if self.head not in heads:
            choices = " or ".join(repr(head) for head in heads)
            raise ValueError(f"head is {self.head!r}: the {self.kind} network's must be {choices}")
        if self.labels and (self.kind == "paper" or len(set(self.labels)) < 2):
            raise ValueError(
                f"labels are {self.labels}: they must be two or more, of the unet or lite"
            )
        if not all(isinstance(label, str) for label in self.labels):
            raise ValueError(f"labels are {self.labels}: they must be names")

    @property
    def stride(self) -> int:
        """Pixels that a cell of the coarsest level spans."""
        return _STRIDES[self.kind]

    @property
    def reduction(self) -> int:
        """The factor by which the predicted ab is smaller than the lightness."""
        return 1 if self.kind == "paper" else 4


class PaperNetwork(nnx.Module):
    """The network of "Recolorisation of Images using Deep Neural Networks", 3,892,194 parameters.

    3×3 convolutions with ReLU, stride 2 in place of pooling, widened from 64 to 512 channels and
    narrowed to 2, nearest up-sampling back to full size, tanh. ab at the lightness's own size.
    """

    OUTER = ("head",)

    # (features, stride, up-sample after)
    _LAYERS = (
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

    def __init__(self, config, rng):
        channels, layers = 1, []
        for features, stride, _ in self._LAYERS:
            layers.append(Conv(channels, features, rng, stride=stride))
            channels = features
        self.layers = nnx.List(layers)
        self.head = Conv(channels, 2, rng, zero=True)

    def __call__(self, x):
        for layer, (_, _, up) in zip(self.layers, self._LAYERS, strict=True):
            x = jax.nn.relu(layer(x))
            x = upsample(x) if up else x
        return AB_SCALE * upsample(jnp.tanh(self.head(x).astype(jnp.float32))), None, upsample(x)


def _classifier(channels: int, labels: tuple[str, ...], rng) -> tuple[Any, Any]:
    """Make a norm and a layer that tell labels from the coarsest features; None without labels."""
    if not labels:
        return None, None
    return GroupNorm(channels), Conv(channels, len(labels), rng, size=1, zero=True)


def _classify(network, x: jax.Array) -> jax.Array | None:
    """Run a network's classifier on features `B h w C`: logits `B labels`, or None."""
    if network.classifier is None:
        return None
    pooled = jax.nn.relu(network.classifier_norm(x)).mean((1, 2))
    return network.classifier(pooled).astype(jnp.float32)


class UNet(nnx.Module):
    """The project's own: a residual U-Net whose wide layers start at a quarter of the size.

    A space-to-depth stem brings squares of 4×4 pixels into `width` channels; levels at 1/4, 1/8
    and 1/16 hold `width`, 2·`width` and 4·`width` channels, the coarsest with global context;
    skips add up on the way back. ab, or the logits of its bins, comes at a quarter of the
    lightness's size. Where there are labels, a classifier on the coarsest features learns what a
    photograph shows, beside how it is coloured (Iizuka, Simo-Serra and Ishikawa 2016).
    """

    OUTER = ("stem", "head", "classifier")

    _ENCODER, _DECODER = (2, 2, 4), (2, 2)  # residual blocks a level, finest first

    def __init__(self, config, rng):
        first, second, third = widths = [config.width << level for level in range(3)]
        self.stem = Conv(4, first // 2, rng)
        self.merge = Conv(2 * first, first, rng, size=1)
        self.encoder = nnx.List(
            nnx.List(ResidualBlock(channels, rng) for _ in range(blocks))
            for channels, blocks in zip(widths, self._ENCODER, strict=True)
        )
        self.down = nnx.List(
            [Conv(4 * first, second, rng, size=1), Conv(4 * second, third, rng, size=1)]
        )
        self.context = GlobalContext(third, rng)
        self.up = nnx.List([Conv(second, first, rng, size=1), Conv(third, second, rng, size=1)])
        self.decoder = nnx.List(
            nnx.List(ResidualBlock(channels, rng) for _ in range(blocks))
            for channels, blocks in zip(widths, self._DECODER, strict=False)
        )
        self.norm = GroupNorm(first)
        self.bins = config.head == "bins"
        size, outputs = (1, BINS) if self.bins else (3, 2)
        self.head = Conv(first, outputs, rng, size=size, zero=True)
        self.classifier_norm, self.classifier = _classifier(third, config.labels, rng)

    def __call__(self, x):
        x = jax.nn.relu(self.stem(space_to_depth(x, 2)))
        x = self.merge(space_to_depth(x, 2))
        skips = []
        for level, blocks in enumerate(self.encoder):
            if level:
                x = self.down[level - 1](space_to_depth(x, 2))
            for index, block in enumerate(blocks):
                if level == 2 and index == 2:  # halfway along the coarsest level
                    x = self.context(x)
                x = block(x)
            skips.append(x)
        labels = _classify(self, x)
        for level in (1, 0):
            x = upsample(self.up[level](x)) + skips[level]
            for block in self.decoder[level]:
                x = block(x)
        features = self.norm(x)
        x = self.head(jax.nn.relu(features)).astype(jnp.float32)
        return x if self.bins else AB_SCALE * jnp.tanh(x), labels, features


class Encoder(nnx.Module):
    """EfficientNet-Lite0 without its classifier (Tan and Le 2019), for one channel of input.

    Grey code values (g − 127) / 128, `B H W 1` → features at 1/8, 1/16 and 1/32 of the size, of
    40, 112 and 320 channels.
    """

    # (blocks, kernel's size, stride of the first, expansion, channels)
    _STAGES = (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )
    _FEATURES = (4, 10, 15)  # blocks whose results are features, at 1/8, 1/16 and 1/32

    def __init__(self, rng):
        self.stem = Conv(1, 32, rng, stride=2)
        channels, blocks = 32, []
        for count, size, stride, expansion, features in self._STAGES:
            for index in range(count):
                step = 1 if index else stride
                blocks.append(InvertedResidual(channels, features, rng, size, step, expansion))
                channels = features
        self.blocks = nnx.List(blocks)

    def __call__(self, x):
        x, found = jax.nn.relu6(self.stem(x)), []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self._FEATURES:
                found.append(x)
        return found


class LiteNetwork(nnx.Module):
    """A residual decoder on a pretrained encoder: it knows what it sees before colouring it.

    Levels at 1/4, 1/8, 1/16 and 1/32 hold `width`, 2·`width`, 4·`width` and 4·`width` channels,
    the coarsest with global context; the encoder's features add up on the way back, and beside
    them, at 1/4, squares of raw lightness.
    """

    OUTER = ("encoder", "stem", "head", "classifier")

    def __init__(self, config, rng):
        first, second, third = (config.width << level for level in range(3))
        self.encoder = Encoder(rng)
        self.lateral32 = Conv(320, third, rng, size=1)
        self.level32 = nnx.List([ResidualBlock(third, rng)])
        self.context = GlobalContext(third, rng)
        self.lateral16 = Conv(112, third, rng, size=1)
        self.level16 = nnx.List([ResidualBlock(third, rng) for _ in range(2)])
        self.up8 = Conv(third, second, rng, size=1)
        self.lateral8 = Conv(40, second, rng, size=1)
        self.level8 = nnx.List([ResidualBlock(second, rng) for _ in range(2)])
        self.up4 = Conv(second, first, rng, size=1)
        self.stem = Conv(4, first // 2, rng)
        self.merge = Conv(2 * first, first, rng, size=1)
        self.level4 = nnx.List([ResidualBlock(first, rng) for _ in range(2)])
        self.norm = GroupNorm(first)
        self.head = Conv(first, BINS, rng, size=1, zero=True)
        self.classifier_norm, self.classifier = _classifier(third, config.labels, rng)

    def __call__(self, x):
        grey = 255 * color.lightness_to_grey(50 * (x.astype(jnp.float32) + 1))
        features8, features16, features32 = self.encoder(((grey - 127) / 128).astype(x.dtype))
        y = self.lateral32(features32)
        for block in self.level32:
            y = block(y)
        y = self.context(y)
        labels = _classify(self, y)
        y = upsample(y) + self.lateral16(features16)
        for block in self.level16:
            y = block(y)
        y = upsample(self.up8(y)) + self.lateral8(features8)
        for block in self.level8:
            y = block(y)
        raw = jax.nn.relu(self.stem(space_to_depth(x, 2)))
        y = upsample(self.up4(y)) + self.merge(space_to_depth(raw, 2))
        for block in self.level4:
            y = block(y)
        features = self.norm(y)
        return self.head(jax.nn.relu(features)).astype(jnp.float32), labels, features


_NETWORKS = {"paper": PaperNetwork, "unet": UNet, "lite": LiteNetwork}
_STRIDES = {"paper": 8, "unet": 16, "lite": 32}


@lru_cache
def _abstract(config: NetworkConfig) -> tuple[nnx.GraphDef, Params]:
    network = nnx.eval_shape(lambda: _NETWORKS[config.kind](config, None))
    graph, state = nnx.split(network, nnx.Param)
    return graph, nnx.to_pure_dict(state)


def shapes(config: NetworkConfig) -> Params:
    """Give the shapes of `init`'s parameters: a nested dict of `jax.ShapeDtypeStruct`."""
    return _abstract(config)[1]


def outer_parts(config: NetworkConfig) -> tuple[str, ...]:
    """Name the first, last and pretrained parts of a network, which Muon leaves to Adam."""
    return _NETWORKS[config.kind].OUTER


def init(seed: int, config: NetworkConfig) -> Params:
    """Make parameters that predict no colour yet: a nested dict of float32.

    The numbers are numpy's: the same on every device, and nothing to compile.
    """
    network = _NETWORKS[config.kind](config, np.random.default_rng(seed))
    return nnx.to_pure_dict(nnx.split(network, nnx.Param)[1])


class Prediction(NamedTuple):
    """What a network says of `B` pictures. h and w are `NetworkConfig.reduction` times less."""

    output: jax.Array  # by its head: ab `B h w 2` in −128…128, or logits of the bins `B h w 261`
    labels: jax.Array | None  # logits `B labels`; None where the network has none
    features: jax.Array  # what the head sees, `B h w C`: places that look alike have alike ones


def predict(
    params: Params, config: NetworkConfig, lightness: jax.Array, dtype: Any = jnp.float32
) -> Prediction:
    """Predict colour from lightness; `palette.decode` makes ab of the output.

    Args:
        params: as `init` gives them.
        config: the network they belong to.
        lightness: `B H W`, L* in 0…100, any H and W from 1 up: padded to the network's stride by
            repeating the border, and cropped back. h and w are rounded up.
        dtype: of the computation; parameters, output and labels stay float32.
    """
    height, width = lightness.shape[1:]
    pad = [(0, 0), (0, -height % config.stride), (0, -width % config.stride)]
    x = jnp.pad(lightness / 50 - 1, pad, mode="edge")[..., None].astype(dtype)
    output, labels, features = nnx.merge(_abstract(config)[0], params)(x)
    rows, columns = -(-height // config.reduction), -(-width // config.reduction)
    return Prediction(output[:, :rows, :columns], labels, features[:, :rows, :columns])
