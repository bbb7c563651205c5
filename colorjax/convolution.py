"""2-D convolution, padding SAME; on CPUs by fewer multiplications than XLA's own takes.

Pictures are `B H W C`, kernels `size size C features`; the result is `B ⌈H/stride⌉ ⌈W/stride⌉
features`. On a CPU a 3×3 convolution of stride 1, where pictures and channels are many enough to
pay for it, and its input gradient are Winograd's F(2×2, 3×3): four results of a tile for 16
multiplications in place of 36 (Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural
Networks"), equal up to rounding; so are kernel gradients on small pictures and where channels are
gained. On a GPU, and for other types than float32, XLA's stay.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

_LAYOUT = ("NHWC", "HWIO", "NHWC")
# Of Lavin and Gray's section 4.1: what brings a tile of 4×4 pixels, a kernel of 3×3 and the 4×4
# products of both to the results, 2×2, each applied to rows and then to columns.
_PICTURE = np.array([(1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)])
_KERNEL = np.array([(1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)])
_RESULT = np.array([(1, 1, 1, 0), (0, 1, -1, -1)])
_FEW = 8  # features at most, for copies of their gradient to be cheap


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
    pays = _pays(x, kernel, stride, training)
    return winograd(x, kernel) if pays else plain(x, kernel, stride)


def _forward(x, kernel, stride, training):
    return _on_cpu(x, kernel, stride, True), (x, kernel)


def _backward(stride, training, residuals, gradient):
    # The network's other operations stay outside: XLA would redo them for each use of a pixel.
    x, kernel, gradient = jax.lax.optimization_barrier((*residuals, gradient))
    if _pays(x, kernel, stride, True):
        x_gradient = _on_cpu(gradient, kernel[::-1, ::-1].swapaxes(2, 3), 1, True)
        if _kernel_gradient_pays(x, kernel):
            return x_gradient, winograd_kernel_gradient(x, gradient)
    else:
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
    shifted = [padded[:, 2 - i : 2 - i + height, 2 - j : 2 - j + width]
               for i in range(3) for j in range(3)]  # fmt: skip
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


def _pays(x: jax.Array, kernel: jax.Array, stride: int, training: bool) -> bool:
    """Whether it is possible, and faster; without training, whatever the batch.

    A picture alone and in a batch shall come out the same.
    """
    batch, height, width, _ = x.shape
    pixels = height * width >= 256 or (training and batch * height * width >= 1024)
    fits = kernel.shape[:2] == (3, 3) and stride == 1 and height % 2 == width % 2 == 0
    return fits and pixels and min(kernel.shape[2:]) >= 32


def _kernel_gradient_pays(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether Winograd's kernel gradient is faster, too.

    On large pictures its transforms take longer than they save, unless channels are gained.
    """
    return x.shape[1] * x.shape[2] <= 256 or kernel.shape[2] < kernel.shape[3]


@jax.jit
def winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 3×3 convolution of pictures of even size, stride 1."""
    (batch, height, width, _), features = x.shape, kernel.shape[3]
    products = jnp.matmul(_tiles(x), _transformed(_KERNEL, kernel).reshape(16, -1, features))
    products = products.reshape(4, 4, batch, height // 2, width // 2, features)
    # Rows of results, then columns, each put into its place.
    rows = jnp.stack(_combined(_RESULT, products), axis=2)
    columns = jnp.stack(_combined(_RESULT, jax.lax.optimization_barrier(rows)), axis=4)
    return columns.swapaxes(1, 2).reshape(batch, height, width, features)


@jax.jit
def winograd_kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """The gradient by the kernel, given the one by the result."""
    quarters = jnp.stack([gradient[:, row::2] for row in range(2)])
    quarters = jnp.stack([quarters[:, :, :, column::2] for column in range(2)], axis=1)
    of_products = _transformed(_RESULT.T, quarters).reshape(16, -1, gradient.shape[3])
    products = jnp.einsum("tpc,tpf->tcf", _tiles(x), of_products)
    return _transformed(_KERNEL.T, products.reshape(4, 4, *products.shape[1:]))


def _tiles(x: jax.Array) -> jax.Array:
    """Pictures → their overlapping tiles, transformed: `16 B·H/2·W/2 C`."""
    _, height, width, channels = x.shape
    padded = jnp.pad(jax.lax.optimization_barrier(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = jnp.stack(_combined(_PICTURE, [padded[:, i : i + height - 1 : 2] for i in range(4)]))
    rows = jax.lax.optimization_barrier(rows)  # else it is computed again for each column
    columns = [rows[:, :, :, j : j + width - 1 : 2] for j in range(4)]
    return jnp.stack(_combined(_PICTURE, columns), axis=1).reshape(16, -1, channels)


def _transformed(matrix: np.ndarray, grid: jax.Array) -> jax.Array:
    """A grid `n n …` → matrix · grid · matrixᵀ, `m m …`."""
    rows = jax.lax.optimization_barrier(jnp.stack(_combined(matrix, grid)))
    return jnp.stack(_combined(matrix, [rows[:, j] for j in range(rows.shape[1])]), axis=1)


def _combined(matrix: np.ndarray, parts: Sequence[jax.Array] | jax.Array):
    """Sums of the parts, one for each row of the matrix: its numbers are their factors."""
    return [sum(c * part if c != 1 else part for c, part in zip(row, parts, strict=True) if c)
            for row in matrix.tolist()]  # fmt: skip
