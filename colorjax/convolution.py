"""2-D convolution, padding SAME; on CPUs with gradients that XLA's own are slow at.

Pictures are `B H W C`, kernels `size size C features`; the result is `B ⌈H/stride⌉ ⌈W/stride⌉
features`. On a GPU, and for other types than float32, XLA's gradients stay.
"""

from functools import partial

import jax
import jax.numpy as jnp

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_PIECE = 1 << 19  # bytes of pictures that a product takes at a time, to stay in a core's cache


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolve pictures with a kernel of the same type."""
    on_cpu = jax.default_backend() == "cpu" and x.dtype == jnp.float32
    return (_with_own_gradients if on_cpu else _convolve)(x, kernel, stride)


def _convolve(x, kernel, stride, padding: str | list[tuple[int, int]] = "SAME"):
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_LAYOUT)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_own_gradients(x, kernel, stride):
    return _convolve(x, kernel, stride)


def _forward(x, kernel, stride):
    return _convolve(x, kernel, stride), (x, kernel)


def _backward(stride, residuals, gradient):
    x, kernel = residuals
    forward = partial(_by_phases if stride == 2 else _convolve, stride=stride)
    (x_gradient,) = jax.linear_transpose(lambda x: forward(x, kernel), x)(gradient)
    # Chosen by measurement: XLA's own is slow on large pictures that gain channels.
    (rows, columns), (channels, features) = gradient.shape[1:3], kernel.shape[2:]
    if rows * columns >= 1024 and 32 <= channels < features:
        return x_gradient, _kernel_gradient(x, gradient, kernel.shape, stride)
    in_kernel = jax.linear_transpose(lambda kernel: _convolve(x, kernel, stride), kernel)
    return x_gradient, in_kernel(gradient)[0]


_with_own_gradients.defvjp(_forward, _backward)


def _by_phases(x, kernel, stride):
    """A convolution of stride 2 as four of stride 1, over every other row and column.

    XLA's input gradient of the strided one runs over a picture in which three of four are zeros.
    """
    size, (height, width) = kernel.shape[0], x.shape[1:3]
    if height % 2 or width % 2 or size != 3:
        return _convolve(x, kernel, stride)
    total = jnp.zeros((), x.dtype)
    for row in range(2):
        for column in range(2):
            part = kernel[row::2, column::2]
            padding = [(0, side - 1) for side in part.shape[:2]]
            total = total + _convolve(x[:, row::2, column::2], part, 1, padding)
    return total


def _kernel_gradient(x, gradient, shape, stride):
    """One matrix product for each place in the kernel, over pieces of the batch."""
    (size, _, channels, features), (batch, height, width, _) = shape, x.shape
    rows, columns = gradient.shape[1:3]
    # What SAME pads: the larger half goes after.
    down, across = ((n - 1) * stride + size - m for n, m in ((rows, height), (columns, width)))
    padding = [(0, 0), *((max(n, 0) // 2, max(n, 0) - max(n, 0) // 2) for n in (down, across)),
               (0, 0)]  # fmt: skip
    piece = max(1, _PIECE // (4 * height * width * channels))
    piece = max(n for n in range(1, min(piece, batch) + 1) if batch % n == 0)

    def add(total, pieces):
        x, gradient = jnp.pad(pieces[0], padding), pieces[1].reshape(-1, features)
        products = [
            x[:, i : i + rows * stride : stride, j : j + columns * stride : stride]
            .reshape(-1, channels).T @ gradient
            for i in range(size)
            for j in range(size)
        ]  # fmt: skip
        return total + jnp.stack(products), None

    split = [a.reshape(batch // piece, piece, *a.shape[1:]) for a in (x, gradient)]
    total, _ = jax.lax.scan(add, jnp.zeros((size * size, channels, features), x.dtype), split)
    return total.reshape(shape)
