"""2-D convolution, padding SAME; on CPUs by fewer multiplications than XLA's own takes.

Pictures are `B H W C`, kernels `size size C features`; the result is `B ⌈H/stride⌉ ⌈W/stride⌉
features`. On a CPU a 3×3 convolution of stride 1, where pictures are large and channels many
enough to pay for it, and its gradients are Winograd's F(4×4, 3×3): the 16 results of a tile for 36
multiplications in place of 144 (Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural
Networks"), equal up to rounding; or F(2×2, 3×3), 4 for 16 in place of 36, where places are few or
sides no multiples of 4. The kernel gradient is the same transposed. On a GPU, and for other types
than float32, XLA's stay.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_FEW = 8  # features at most, for copies of their gradient to be cheap


def _transforms(*points: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What brings a tile of a picture, a kernel, and the products of both to F(m, 3)'s results.

    Each is applied to rows and then to columns (Lavin and Gray's section 4.1). They are those by
    which Toom and Cook multiply polynomials, through their values at m + 1 points and at infinity,
    the first and last transposed, the kernel's with interpolation's divisors; which points decides
    how much rounding adds up. Rounded here, for zeros to be zeros and skipped.
    """
    results = len(points) - 1
    others = [[q for q in points if q != p] for p in points]
    picture = [[*np.poly(roots)[::-1], 0] for roots in others] + [np.poly(points)[::-1]]
    kernel = [
        [p**i / np.prod(np.subtract(p, roots)) for i in range(3)]
        for p, roots in zip(points, others, strict=True)
    ] + [[0, 0, 1]]
    result = [[p**i for p in points] + [i == results - 1] for i in range(results)]
    return np.round(picture, 12), np.round(kernel, 12), np.round(result, 12)


_WINOGRAD = {2: _transforms(0, 1, -1), 4: _transforms(0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))}


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolve pictures with a kernel of the same type."""
    if jax.default_backend() == "cpu" and x.dtype == jnp.float32:
        return _on_cpu(x, kernel, stride, False)
    return plain(x, kernel, stride)


def plain(x, kernel, stride, padding: str | list[tuple[int, int]] = "SAME"):
    """XLA's own convolution."""
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_LAYOUT)


def plain_kernel_gradient(x, gradient, shape, stride=1):
    """XLA's own gradient by a kernel of that shape, given the one by the result."""
    zeros = jnp.zeros(shape, x.dtype)
    return jax.linear_transpose(lambda kernel: plain(x, kernel, stride), zeros)(gradient)[0]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _on_cpu(x, kernel, stride, training):
    tile = _tile(x, kernel, stride, training)
    return winograd(x, kernel, tile) if tile else plain(x, kernel, stride)


def _forward(x, kernel, stride, training):
    return _on_cpu(x, kernel, stride, True), (x, kernel)


def _backward(stride, training, residuals, gradient):
    # The network's other operations stay outside: XLA would redo them for each use of a pixel.
    x, kernel, gradient = jax.lax.optimization_barrier((*residuals, gradient))
    if tile := _tile(x, kernel, stride, True):
        x_gradient = _on_cpu(gradient, kernel[::-1, ::-1].swapaxes(2, 3), 1, True)
        return x_gradient, winograd_kernel_gradient(x, gradient, tile)
    forward = partial(_by_phases if stride == 2 else plain, stride=stride)
    (x_gradient,) = jax.linear_transpose(lambda x: forward(x, kernel), x)(gradient)
    if stride == 1 and kernel.shape[0] == kernel.shape[1] == 3 and kernel.shape[3] <= _FEW:
        return x_gradient, kernel_gradient_of_few(x, gradient)
    return x_gradient, plain_kernel_gradient(x, gradient, kernel.shape, stride)


_on_cpu.defvjp(_forward, _backward)


@jax.jit
def kernel_gradient_of_few(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """By a 3×3 kernel of few features: one product with nine copies of the result's gradient.

    XLA's own goes over the picture, of many channels, as often.
    """
    height, width = x.shape[1:3]
    padded = jnp.pad(gradient, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [
        padded[:, 2 - i : 2 - i + height, 2 - j : 2 - j + width] for i in range(3) for j in range(3)
    ]
    products = jnp.einsum("bhwc,bhwsf->scf", x, jnp.stack(shifted, axis=3))
    return products.reshape(3, 3, *products.shape[1:])


def _by_phases(x, kernel, stride):
    """A convolution of stride 2 as four of stride 1, over every other row and column.

    XLA's input gradient of the strided one runs over a picture in which three of four are zeros.
    """
    size, (height, width) = kernel.shape[0], x.shape[1:3]
    if height % 2 or width % 2 or size != 3:
        return plain(x, kernel, stride)
    total = jnp.zeros((), x.dtype)
    for row in range(2):
        for column in range(2):
            part = kernel[row::2, column::2]
            padding = [(0, side - 1) for side in part.shape[:2]]
            total = total + plain(x[:, row::2, column::2], part, 1, padding)
    return total


def _tile(x: jax.Array, kernel: jax.Array, stride: int, training: bool) -> int:
    """Results along a side of Winograd's tiles, 4 or 2; 0 where XLA's own is faster.

    Without training the batch does not count: a picture alone and in one shall come out the same.
    """
    batch, height, width, _ = x.shape
    places = height * width * (batch if training else 1)
    fits = kernel.shape[:2] == (3, 3) and stride == 1 and height % 2 == width % 2 == 0
    pays = height * width >= 256 or (training and places >= 1024)
    if not (fits and pays and min(kernel.shape[2:]) >= 32):
        return 0
    # Tiles of 4 have larger kernels to transform, so they need more places to pay. In inference
    # 64 tiles at least: XLA's products of fewer may add up in another order than those of a batch.
    least = 8 * max(kernel.shape[2:]) if training else 1024
    return 4 if places >= least and height % 4 == width % 4 == 0 else 2


@partial(jax.jit, static_argnums=2)
def winograd(x: jax.Array, kernel: jax.Array, tile: int) -> jax.Array:
    """A 3×3 convolution of stride 1 of pictures whose sides are multiples of the tile's, 2 or 4."""
    (batch, height, width, channels), features = x.shape, kernel.shape[3]
    _, of_kernel, of_results = _WINOGRAD[tile]
    kernels = _transformed(of_kernel, kernel).reshape(-1, channels, features)
    products = jnp.matmul(_tiles(x, tile), kernels)
    side = tile + 2
    shape = side, side, batch, height // tile, width // tile, features
    # Rows of results, then columns, each put into its place.
    rows = jnp.stack(_combined(of_results, products.reshape(shape)), axis=3)
    columns = jnp.stack(_combined(of_results, jax.lax.optimization_barrier(rows)), axis=4)
    return columns.reshape(batch, height, width, features)


@partial(jax.jit, static_argnums=2)
def winograd_kernel_gradient(x: jax.Array, gradient: jax.Array, tile: int) -> jax.Array:
    """The gradient by the kernel, given the one by the result."""
    _, of_kernel, of_results = _WINOGRAD[tile]
    places = jnp.stack([gradient[:, row::tile] for row in range(tile)])
    places = jnp.stack([places[:, :, :, column::tile] for column in range(tile)], axis=1)
    of_products = _transformed(of_results.T, places).reshape((tile + 2) ** 2, -1, gradient.shape[3])
    products = jnp.einsum("tpc,tpf->tcf", _tiles(x, tile), of_products)
    return _transformed(of_kernel.T, products.reshape(tile + 2, tile + 2, *products.shape[1:]))


def _tiles(x: jax.Array, tile: int) -> jax.Array:
    """Pictures → their overlapping tiles, transformed: `(tile + 2)² B·H/tile·W/tile C`."""
    _, height, width, channels = x.shape
    side, of_pictures = tile + 2, _WINOGRAD[tile][0]
    padded = jnp.pad(jax.lax.optimization_barrier(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = [padded[:, i : i + height - tile + 1 : tile] for i in range(side)]
    rows = jnp.stack(_combined(of_pictures, rows))
    rows = jax.lax.optimization_barrier(rows)  # else it is computed again for each column
    columns = [rows[:, :, :, j : j + width - tile + 1 : tile] for j in range(side)]
    return jnp.stack(_combined(of_pictures, columns), axis=1).reshape(side**2, -1, channels)


def _transformed(matrix: np.ndarray, grid: jax.Array) -> jax.Array:
    """A grid `n n …` → matrix · grid · matrixᵀ, `m m …`."""
    rows = jax.lax.optimization_barrier(jnp.stack(_combined(matrix, grid)))
    return jnp.stack(_combined(matrix, [rows[:, j] for j in range(rows.shape[1])]), axis=1)


def _combined(matrix: np.ndarray, parts: Sequence[jax.Array] | jax.Array):
    """Sums of the parts, one for each row of the matrix: its numbers are their factors."""
    return [
        sum(c * part if c != 1 else part for c, part in zip(row, parts, strict=True) if c)
        for row in matrix.tolist()
    ]
