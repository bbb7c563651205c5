"""The networks: lightness in, colour out. The only file that imports flax.

The modules are Flax NNX, behind a functional boundary: `init` gives a plain nested dict of float32
parameters, `apply` is a pure function of that dict. Pictures are `B H W C`; lightness is L* in
0…100 and ab is CIE a*b*, both under D65. There is no state but the parameters, and each picture's
result depends on that picture alone.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colorjax.convolution import convolve

Params = dict[str, Any]

AB_SCALE = 128.0  # ab / 128 lies within -1…1
BINS = 261  # the in-gamut ab bins, as `palette.bins` lists them


@dataclass(frozen=True)
class NetworkConfig:
    """What decides a network's parameters and operations; it travels with the weights."""

    kind: str = "unet"  # "paper" or "unet"
    width: int = 64  # channels of the unet's first level; 32 suits a laptop
    head: str = "ab"  # what the unet says of a place: its "ab", or how likely each of the "bins" is

    def __post_init__(self) -> None:
        """Check the values: ValueError names the one that is wrong."""
        if self.kind not in ("paper", "unet"):
            raise ValueError(f"network is {self.kind!r}: it must be 'paper' or 'unet'")
        whole = isinstance(self.width, int) and self.width % 16 == 0
        if self.kind == "unet" and not (whole and 16 <= self.width <= 512):
            raise ValueError(f"width is {self.width!r}: it must be a multiple of 16 from 16 to 512")
        heads = ("ab",) if self.kind == "paper" else ("ab", "bins")
        if self.head not in heads:
            choices = " or ".join(repr(head) for head in heads)
            raise ValueError(f"head is {self.head!r}: the {self.kind} network's must be {choices}")

    @property
    def stride(self) -> int:
        """How many pixels the coarsest level's cells span."""
        return 8 if self.kind == "paper" else 16

    @property
    def reduction(self) -> int:
        """How many times smaller than the lightness the predicted ab is."""
        return 1 if self.kind == "paper" else 4


# ---------------------------------------------------------------------------- building blocks


class Conv(nnx.Module):
    """A convolution `B H W channels` → `B H/stride W/stride features`, padding SAME."""

    def __init__(self, channels, features, rng, size=3, stride=1, zero=False):
        shape = (size, size, channels, features)
        if zero or rng is None:
            kernel = jnp.zeros(shape)
        else:
            scale = (2 / (size * size * channels)) ** 0.5  # He et al. 2015
            kernel = jnp.asarray(scale * rng.standard_normal(shape, np.float32))
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(features))
        self.size, self.stride = size, stride

    def __call__(self, x):
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        if self.size == 1:
            return x @ kernel[0, 0] + bias
        return convolve(x, kernel, self.stride) + bias


class GroupNorm(nnx.Module):
    """Group normalisation (Wu and He 2018) over 16 channels a group, as one multiply and add."""

    def __init__(self, channels):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x):
        batch, height, width, channels = x.shape
        grouped = x.astype(jnp.float32).reshape(batch, height * width, channels // 16, 16)
        mean = grouped.mean((1, 3))
        variance = (grouped**2).mean((1, 3)) - mean**2
        inverse = jax.lax.rsqrt(jnp.maximum(variance, 0) + 1e-5)
        scale = jnp.repeat(inverse, 16, axis=1) * self.scale[...]
        offset = self.bias[...] - jnp.repeat(mean, 16, axis=1) * scale
        return x * scale[:, None, None].astype(x.dtype) + offset[:, None, None].astype(x.dtype)


class ResidualBlock(nnx.Module):
    """Norm, ReLU, convolution, twice, beside the identity (He et al. 2016, pre-activation)."""

    def __init__(self, channels, rng):
        self.norm1, self.norm2 = GroupNorm(channels), GroupNorm(channels)
        self.conv1 = Conv(channels, channels, rng)
        self.conv2 = Conv(channels, channels, rng, zero=True)

    def __call__(self, x):
        y = self.conv1(jax.nn.relu(self.norm1(x)))
        return x + self.conv2(jax.nn.relu(self.norm2(y)))


class GlobalContext(nnx.Module):
    """Tells every place what the whole picture holds: pooled, two layers, added everywhere."""

    def __init__(self, channels, rng):
        self.norm = GroupNorm(channels)
        self.hidden = Conv(2 * channels, 2 * channels, rng, size=1)
        self.out = Conv(2 * channels, channels, rng, size=1, zero=True)

    def __call__(self, x):
        y = self.norm(x)
        pooled = jnp.concatenate([y.mean((1, 2)), y.max((1, 2))], axis=-1)
        return x + self.out(jax.nn.relu(self.hidden(pooled)))[:, None, None]


def space_to_depth(x: jax.Array, block: int) -> jax.Array:
    """`B H W C` → `B H/block W/block block·block·C`: squares of pixels become channels."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // block, block, width // block, block, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // block, width // block, -1)


def upsample(x: jax.Array) -> jax.Array:
    """`B H W C` → `B 2H 2W C` by repeating; `jax.image.resize` has a five times slower gradient."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


# ---------------------------------------------------------------------------- the two networks


class PaperNetwork(nnx.Module):
    """The network of "Recolorisation of Images using Deep Neural Networks", 3,892,194 parameters.

    3×3 convolutions with ReLU, stride 2 in place of pooling, widened from 64 to 512 channels and
    narrowed to 2, nearest up-sampling back to full size, tanh. ab at the lightness's own size.
    """

    # (features, stride, up-sample after)
    _LAYERS = (
        (64, 1, False), (64, 2, False), (128, 1, False), (128, 2, False), (256, 1, False),
        (256, 2, False), (512, 1, False), (256, 1, False), (128, 1, True), (64, 1, True),
        (32, 1, False),
    )  # fmt: skip

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
        return AB_SCALE * upsample(jnp.tanh(self.head(x).astype(jnp.float32)))


class UNet(nnx.Module):
    """The project's own: a residual U-Net whose wide layers start at a quarter of the size.

    A space-to-depth stem brings squares of 4×4 pixels into `width` channels; levels at 1/4, 1/8
    and 1/16 hold `width`, 2·`width` and 4·`width` channels, the coarsest with global context;
    skips add up on the way back. ab, or the logits of its bins, comes at a quarter of the
    lightness's size.
    """

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
        for level in (1, 0):
            x = upsample(self.up[level](x)) + skips[level]
            for block in self.decoder[level]:
                x = block(x)
        x = self.head(jax.nn.relu(self.norm(x))).astype(jnp.float32)
        return x if self.bins else AB_SCALE * jnp.tanh(x)


# ---------------------------------------------------------------------------- the boundary


def _build(config: NetworkConfig, rng: np.random.Generator | None) -> nnx.Module:
    return {"paper": PaperNetwork, "unet": UNet}[config.kind](config, rng)


@lru_cache
def _abstract(config: NetworkConfig) -> tuple[nnx.GraphDef, Params]:
    graph, state = nnx.split(nnx.eval_shape(lambda: _build(config, None)), nnx.Param)
    return graph, nnx.to_pure_dict(state)


def shapes(config: NetworkConfig) -> Params:
    """What `init` gives, as a nested dict of `jax.ShapeDtypeStruct`."""
    return _abstract(config)[1]


def init(seed: int, config: NetworkConfig) -> Params:
    """A nested dict of float32 parameters that predict no colour yet.

    The numbers are numpy's: the same on every device, and nothing to compile.
    """
    network = _build(config, np.random.default_rng(seed))
    return nnx.to_pure_dict(nnx.split(network, nnx.Param)[1])


def apply(
    params: Params, config: NetworkConfig, lightness: jax.Array, dtype: Any = jnp.float32
) -> jax.Array:
    """Predict colour from lightness.

    Args:
        params: as `init` gives them.
        config: the network they belong to.
        lightness: `B H W`, L* in 0…100, any H and W from 1 up: padded to the network's stride by
            repeating the border, and cropped back.
        dtype: of the computation; parameters and results stay float32.

    Returns:
        By the network's head: ab, `B h w 2` in -128…128; or logits of the bins, `B h w 261`, for
        `palette.annealed_mean`. Height and width are `config.reduction` times less, rounded up.
    """
    height, width = lightness.shape[1:]
    pad = [(0, 0), (0, -height % config.stride), (0, -width % config.stride)]
    x = jnp.pad(lightness / 50 - 1, pad, mode="edge")[..., None].astype(dtype)
    output = nnx.merge(_abstract(config)[0], params)(x)
    return output[:, : -(-height // config.reduction), : -(-width // config.reduction)]
