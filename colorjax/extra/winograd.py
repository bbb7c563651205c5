"""3×3 convolutions for CPUs, by Winograd's F(4×4, 3×3): 36 multiplications a tile, not 144.

A tile is 4×4 results; it needs 6×6 pixels of the picture (Lavin and Gray 2016, "Fast Algorithms
for Convolutional Neural Networks", section 4). Results equal XLA's up to rounding, and both
gradients are computed the same way. XLA's own serves where tiles do not fit or pay. Pictures are
`B H W C`, kernels `3 3 C F`, padding is SAME and everything is float32.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

# Toom-Cook transforms for the points 0, ±p, ±q and infinity. Those of pictures and results are
# transposed; the kernel's carries the interpolation's divisors. With p = √½ and q = √2 rounding
# errors are half of those with 1 and 2.
_P, _Q = 0.5**0.5, 2**0.5
_PICTURE = [
    [1, 0, -2.5, 0, 1, 0],
    [0, -_Q, -2, _P, 1, 0],
    [0, _Q, -2, -_P, 1, 0],
    [0, -_P, -0.5, _Q, 1, 0],
    [0, _P, -0.5, -_Q, 1, 0],
    [0, 1, 0, -2.5, 0, 1],
]
_KERNEL = [
    [1, 0, 0],
    [-2 / 3, -2 / 3 * _P, -1 / 3],
    [-2 / 3, 2 / 3 * _P, -1 / 3],
    [1 / 6, _Q / 6, 1 / 3],
    [1 / 6, -_Q / 6, 1 / 3],
    [0, 0, 1],
]
_RESULT = [
    [1, 1, 1, 1, 1, 0],
    [0, _P, -_P, _Q, -_Q, 0],
    [0, 0.5, 0.5, 2, 2, 0],
    [0, _P / 2, -_P / 2, 2 * _Q, -2 * _Q, 1],
]


# Whether to use any of this; part of what jit remembers programs by.
enabled = jax.make_user_context(True)


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolve pictures with a 3×3 kernel: `B H W C` → `B ⌈H/stride⌉ ⌈W/stride⌉ F`.

    A picture alone comes out as it does in a batch.
    """
    return _convolve(x, kernel, stride, 1)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x, kernel, stride, batch):
    if stride == 1 and _pays(x, kernel, batch):
        return _winograd(x, kernel)
    return _plain(x, kernel, stride)


def _forward(x, kernel, stride, _):
    return _convolve(x, kernel, stride, len(x)), (x, kernel)


def _backward(stride, _, residuals, gradient):
    # The network's other operations stay outside: XLA would redo them for each use of a pixel.
    x, kernel, gradient = jax.lax.optimization_barrier((*residuals, gradient))
    if stride == 1:
        x_gradient = _convolve(gradient, kernel[::-1, ::-1].swapaxes(2, 3), 1, len(x))
    else:
        forward = _by_phases if x.shape[1] % 2 == x.shape[2] % 2 == 0 and stride == 2 else _plain
        (x_gradient,) = jax.linear_transpose(lambda x: forward(x, kernel, stride), x)(gradient)
    if stride == 1 and _pays(x, kernel, len(x)):
        return x_gradient, _kernel_gradient(x, gradient)
    return x_gradient, jax.linear_transpose(lambda k: _plain(x, k, stride), kernel)(gradient)[0]


_convolve.defvjp(_forward, _backward)


def _pays(x: jax.Array, kernel: jax.Array, batch: int) -> bool:
    """Whether tiles fit, and are enough for transforming the kernel to pay.

    In inference `batch` is 1, lest a picture alone be computed in another way than in a batch. And
    64 tiles at least: XLA adds up products of fewer in another order.
    """
    (_, height, width, channels), features = x.shape, kernel.shape[3]
    fits = height % 4 == width % 4 == 0 and min(channels, features) >= 32
    return fits and batch * height * width >= max(1024, 4 * max(channels, features))


def _plain(x, kernel, stride, padding: str | list[tuple[int, int]] = "SAME"):
    numbers = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)


def _by_phases(x, kernel, _):
    """Stride 2 as four convolutions of stride 1, over every other row and column.

    XLA's gradient by the picture runs over one in which three of four pixels are zeros.
    """
    parts = [
        (x[:, i::2, j::2], kernel[i::2, j::2], [(0, 1 - i), (0, 1 - j)])
        for i in range(2)
        for j in range(2)
    ]
    return sum(_plain(pixels, part, 1, padding) for pixels, part, padding in parts)


@jax.jit
def _winograd(x, kernel):
    batch, height, width, channels = x.shape
    kernels = _both(_KERNEL, kernel).reshape(36, channels, -1)
    products = jnp.matmul(_tiles(x), kernels)
    products = products.reshape(6, 6, batch, height // 4, width // 4, -1)
    rows = jax.lax.optimization_barrier(jnp.stack(_sums(_RESULT, products), axis=3))
    return jnp.stack(_sums(_RESULT, rows), axis=4).reshape(batch, height, width, -1)


@jax.jit
def _kernel_gradient(x, gradient):
    """The transpose of `_winograd` by the kernel."""
    places = jnp.stack([gradient[:, row::4] for row in range(4)])
    places = jnp.stack([places[:, :, :, column::4] for column in range(4)], axis=1)
    places = _both(np.transpose(_RESULT), places).reshape(36, -1, gradient.shape[3])
    products = jnp.einsum("tpc,tpf->tcf", _tiles(x), places)
    return _both(np.transpose(_KERNEL), products.reshape(6, 6, *products.shape[1:]))


def _tiles(x):
    """Pictures → their overlapping tiles of 6×6 pixels, transformed: `36 B·H/4·W/4 C`."""
    _, height, width, channels = x.shape
    padded = jnp.pad(jax.lax.optimization_barrier(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = jnp.stack(_sums(_PICTURE, [padded[:, i : i + height - 3 : 4] for i in range(6)]))
    rows = jax.lax.optimization_barrier(rows)  # else they are computed again for each column
    columns = [rows[:, :, :, j : j + width - 3 : 4] for j in range(6)]
    return jnp.stack(_sums(_PICTURE, columns), axis=1).reshape(36, -1, channels)


def _both(matrix, grid):
    """A grid `n n …` → matrix · grid · matrixᵀ, `m m …`."""
    rows = jax.lax.optimization_barrier(jnp.stack(_sums(matrix, grid)))
    return jnp.stack(_sums(matrix, rows.swapaxes(0, 1)), axis=1)


def _sums(matrix: Sequence[Sequence[float]] | np.ndarray, parts: Sequence[jax.Array] | jax.Array):
    """Sums of the parts, one for each row of the matrix: its numbers are their factors."""
    return [sum(float(c) * part for c, part in zip(row, parts, strict=True) if c) for row in matrix]
