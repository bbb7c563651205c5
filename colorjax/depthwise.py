"""Depthwise convolution, padding SAME: each channel by a kernel of its own.

Pictures are `B H W C`, kernels `size size C`, the result is `B ⌈H/stride⌉ ⌈W/stride⌉ C`. XLA's
grouped convolution serves GPUs. On a CPU it takes 20 times as long as the sum of shifted products
below, whose gradients are such sums, too.
"""

from functools import partial

import jax
import jax.numpy as jnp


def depthwise(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolve each channel with its own kernel of the same type."""
    if jax.default_backend() == "cpu":
        return shifted(x, kernel, stride)
    return grouped(x, kernel, stride)


def grouped(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """XLA's own grouped convolution."""
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _padding(length: int, size: int, stride: int) -> tuple[int, int]:
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2


def _taps(padded: jax.Array, shape: tuple[int, ...], size: int, stride: int) -> list[jax.Array]:
    """What each of the kernel's places sees: `size²` pictures `B h w C` of the result's shape."""
    height, width = (stride * (side - 1) + 1 for side in shape[1:3])
    return [
        padded[:, i : i + height : stride, j : j + width : stride]
        for i in range(size)
        for j in range(size)
    ]


def _pad(x: jax.Array, size: int, stride: int) -> jax.Array:
    rows, columns = (_padding(side, size, stride) for side in x.shape[1:3])
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)))


def _weighted(taps: list[jax.Array], kernel: jax.Array) -> jax.Array:
    weights = kernel.reshape(-1, kernel.shape[-1])
    return sum((tap * w for tap, w in zip(taps, weights, strict=True)), jnp.zeros((), kernel.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def shifted(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The sum of the picture's shifted copies, each times one place of the kernel."""
    size, (batch, height, width, channels) = len(kernel), x.shape
    shape = batch, -(-height // stride), -(-width // stride), channels
    padded = jax.lax.optimization_barrier(_pad(x, size, stride))
    return _weighted(_taps(padded, shape, size, stride), kernel)


def _forward(x, kernel, stride):
    return shifted(x, kernel, stride), (x, kernel)


def _backward(stride, residuals, gradient):
    # Kept apart from the network's other operations: XLA would redo them for each place.
    x, kernel, gradient = jax.lax.optimization_barrier((*residuals, gradient))
    size = len(kernel)
    padded = _pad(x, size, stride)
    products = [
        (tap * gradient).sum((0, 1, 2)) for tap in _taps(padded, gradient.shape, size, stride)
    ]
    kernel_gradient = jnp.stack(products).reshape(kernel.shape)
    if stride == 1:
        return shifted(gradient, kernel[::-1, ::-1], 1), kernel_gradient
    return _strided_gradient(x.shape, kernel, stride, gradient), kernel_gradient


def _strided_gradient(shape, kernel, stride, gradient):
    """By the picture: for each phase of its rows and columns, the places of the kernel it meets."""
    batch, height, width, channels = shape
    size = len(kernel)
    tops, lefts = _padding(height, size, stride)[0], _padding(width, size, stride)[0]
    edge = -(-size // stride)
    padded = jnp.pad(gradient, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    padded = jax.lax.optimization_barrier(padded)

    def along(phase: int, before: int) -> list[tuple[int, int]]:
        # Pixel p = stride·q + phase meets place i of result (p + before − i) / stride.
        starts = [
            (i, (phase + before - i) // stride)
            for i in range((phase + before) % stride, size, stride)
        ]
        return [(i, edge + start) for i, start in starts]

    rows, columns = -(-height // stride), -(-width // stride)
    phases = []
    for row in range(stride):
        for column in range(stride):
            total = jnp.zeros((batch, rows, columns, channels), gradient.dtype)
            for i, top in along(row, tops):
                for j, left in along(column, lefts):
                    part = padded[:, top : top + rows, left : left + columns]
                    total += part * kernel[i, j]
            phases.append(total)
    grid = jnp.stack(phases, axis=3).reshape(batch, rows, columns, stride, stride, channels)
    grid = grid.transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(batch, rows * stride, columns * stride, channels)[:, :height, :width]


shifted.defvjp(_forward, _backward)
