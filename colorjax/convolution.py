"""2-D convolution, padding SAME, with gradients that are fast on CPUs too.

Pictures are `B H W C`, kernels `size size C features`; the result is `B ⌈H/stride⌉ ⌈W/stride⌉
features`.
"""

from functools import partial

import jax
import jax.numpy as jnp


def _xla_convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _cpu_convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return _xla_convolve(x, kernel, stride)


def _forward(x, kernel, stride):
    return _xla_convolve(x, kernel, stride), (x, kernel)


def _backward(stride, residuals, gradient):
    """XLA's own input gradient; the kernel's as one matrix product per kernel position.

    XLA's kernel gradient runs at a fifth of the CPU's speed on large pictures. The products go
    over pieces of the batch small enough (about 0.5 MB) to stay in cache.
    """
    x, kernel = residuals
    (x_gradient,) = jax.linear_transpose(lambda x: _xla_convolve(x, kernel, stride), x)(gradient)

    (size, _, channels, features), (batch, height, width, _) = kernel.shape, x.shape
    rows, columns = gradient.shape[1:3]
    # What "SAME" pads: the larger half goes after.
    down, across = ((n - 1) * stride + size - m for n, m in ((rows, height), (columns, width)))
    down, across = max(down, 0), max(across, 0)
    padding = ((0, 0), (down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0))
    piece = max(1, (1 << 19) // (4 * height * width * channels))
    piece = max(n for n in range(1, min(piece, batch) + 1) if batch % n == 0)

    def add(total, pieces):
        x, gradient = pieces
        x = jnp.pad(x, padding)
        flat = gradient.reshape(-1, features)
        products = [
            x[:, i : i + rows * stride : stride, j : j + columns * stride : stride]
            .reshape(-1, channels).T @ flat
            for i in range(size)
            for j in range(size)
        ]  # fmt: skip
        return total + jnp.stack(products), None

    start = jnp.zeros((size * size, channels, features), kernel.dtype)
    split = [a.reshape(batch // piece, piece, *a.shape[1:]) for a in (x, gradient)]
    total, _ = jax.lax.scan(add, start, split)
    return x_gradient, total.reshape(kernel.shape)


_cpu_convolve.defvjp(_forward, _backward)


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolve pictures with a kernel of the same type; XLA's gradients, except on a CPU."""
    function = _cpu_convolve if jax.default_backend() == "cpu" else _xla_convolve
    return function(x, kernel, stride)
