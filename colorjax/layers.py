"""What the networks are made of, as Flax NNX modules. Pictures are `B H W C`.

Parameters are float32 and computation is of the input's type; each picture's result depends on
that picture alone. New kernels are numpy's random numbers: the same on every device.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colorjax.depthwise import depthwise
from colorjax.extra import winograd  # of CPUs: without it XLA's convolution is used


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolve `B H W C` with `size size C F` → `B ⌈H/stride⌉ ⌈W/stride⌉ F`, padding SAME."""
    on_cpu = jax.default_backend() == "cpu" and x.dtype == jnp.float32
    if on_cpu and kernel.shape[:2] == (3, 3) and winograd.enabled.value:
        return winograd.convolve(x, kernel, stride)
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=numbers
    )


def _normal(rng: np.random.Generator | None, shape: tuple[int, ...], scale: float) -> jax.Array:
    """Draw float32 normal numbers; zeros without a generator."""
    return (
        jnp.zeros(shape)
        if rng is None
        else jnp.asarray(scale * rng.standard_normal(shape, np.float32))
    )


class Conv(nnx.Module):
    """A convolution `B H W channels` → `B H/stride W/stride features`, padding SAME."""

    def __init__(self, channels, features, rng, size=3, stride=1, zero=False):
        scale = (2 / (size * size * channels)) ** 0.5  # He et al. 2015
        shape = (size, size, channels, features)
        self.kernel = nnx.Param(_normal(None if zero else rng, shape, scale))
        self.bias = nnx.Param(jnp.zeros(features))
        self.size, self.stride = size, stride

    def __call__(self, x):
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        if self.size == 1:
            return x @ kernel[0, 0] + bias
        return convolve(x, kernel, self.stride) + bias


class Linear(nnx.Module):
    """A 1×1 convolution whose kernel is a matrix: `… channels` → `… features`."""

    def __init__(self, channels, features, rng):
        self.kernel = nnx.Param(_normal(rng, (channels, features), (2 / channels) ** 0.5))
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, x):
        return x @ self.kernel[...].astype(x.dtype) + self.bias[...].astype(x.dtype)


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
    """Adds to every place what two layers make of the pooled picture."""

    def __init__(self, channels, rng):
        self.norm = GroupNorm(channels)
        self.hidden = Conv(2 * channels, 2 * channels, rng, size=1)
        self.out = Conv(2 * channels, channels, rng, size=1, zero=True)

    def __call__(self, x):
        y = self.norm(x)
        pooled = jnp.concatenate([y.mean((1, 2)), y.max((1, 2))], axis=-1)
        return x + self.out(jax.nn.relu(self.hidden(pooled)))[:, None, None]


class Depthwise(nnx.Module):
    """A depthwise convolution `B H W C` → `B ⌈H/stride⌉ ⌈W/stride⌉ C`, padding SAME."""

    def __init__(self, channels, rng, size, stride=1):
        self.kernel = nnx.Param(_normal(rng, (size, size, channels), 1 / size))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.stride = stride

    def __call__(self, x):
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        return depthwise(x, kernel, self.stride) + bias


class InvertedResidual(nnx.Module):
    """EfficientNet-Lite's block: expand, depthwise, project (Sandler et al. 2018); ReLU6 between.

    Batch norms are folded into the convolutions; the identity is added where shapes allow.
    """

    def __init__(self, channels, features, rng, size, stride, expansion):
        inner = expansion * channels
        self.expand = Linear(channels, inner, rng) if expansion > 1 else None
        self.depthwise = Depthwise(inner, rng, size, stride)
        self.project = Linear(inner, features, rng)
        self.residual = stride == 1 and channels == features

    def __call__(self, x):
        y = x if self.expand is None else jax.nn.relu6(self.expand(x))
        y = self.project(jax.nn.relu6(self.depthwise(y)))
        return x + y if self.residual else y


def space_to_depth(x: jax.Array, block: int) -> jax.Array:
    """`B H W C` → `B H/block W/block block·block·C`: squares of pixels become channels."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // block, block, width // block, block, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // block, width // block, -1)


def upsample(x: jax.Array) -> jax.Array:
    """`B H W C` → `B 2H 2W C` by repeating; `jax.image.resize` has a five times slower gradient."""
    return x.repeat(2, axis=1).repeat(2, axis=2)
