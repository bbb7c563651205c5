from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorjax import layers, step
from colorjax.extra import winograd


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def xlas(x, kernel, stride=1):
    with winograd.enabled(False):
        return layers.convolve(x, kernel, stride)


def same(own, xlas):
    np.testing.assert_allclose(own, xlas, atol=1e-5 * float(jnp.abs(xlas).max()))


@pytest.mark.parametrize(
    "shape, size, stride, features",
    [
        ((2, 32, 40, 32), 3, 1, 48),  # tiles, and a network that gains channels
        ((16, 8, 12, 48), 3, 1, 64),  # tiles in training only
        ((2, 18, 32, 32), 3, 1, 48),  # rows that no tiles fit
        ((2, 32, 32, 32), 3, 1, 2),  # too few features, as of the head
        ((3, 32, 40, 32), 3, 2, 48),
        ((2, 65, 64, 16), 3, 2, 32),  # an odd side
        ((2, 16, 16, 4), 5, 1, 8),
        ((2, 9, 7, 8), 1, 2, 8),
    ],
)
def test_results_and_gradients_are_xlas_own_up_to_rounding(shape, size, stride, features):
    x, kernel = normal(0, *shape), normal(1, size, size, shape[3], features)
    gradient = normal(2, shape[0], -(-shape[1] // stride), -(-shape[2] // stride), features)

    def all_of(convolution):
        def function(x, kernel, gradient):
            result, pull = jax.vjp(partial(convolution, stride=stride), x, kernel)
            return result, *pull(gradient)

        return jax.jit(function)(x, kernel, gradient)

    for own, other in zip(all_of(layers.convolve), all_of(xlas), strict=True):
        same(own, other)


def test_tiles_save_multiplications_in_both_directions():
    x, kernel = normal(3, 4, 32, 32, 32), normal(4, 3, 3, 32, 48)

    def flops(convolution):
        gradients = jax.grad(lambda x, k: convolution(x, k).sum(), argnums=(0, 1))
        return jax.jit(gradients).lower(x, kernel).compile().cost_analysis()["flops"]

    assert flops(layers.convolve) < 0.5 * flops(xlas)


@pytest.mark.parametrize("side", [8, 32])
def test_a_picture_alone_is_what_it_is_in_a_batch(side):
    x, kernel = normal(5, 32, side, side, 32), normal(6, 3, 3, 32, 48)
    convolve = jax.jit(layers.convolve)
    same(convolve(x, kernel)[:1], convolve(x[:1], kernel))


def test_second_derivatives_and_batches_on_two_devices():
    x, kernel = normal(7, 2, 32, 32, 32), normal(8, 3, 3, 32, 48) / 16
    x = jax.device_put(x, step.placement(2)[1])

    def penalty(convolution, kernel):
        """How much the gradient by the picture changes with the kernel, as in adversarial steps."""
        by_picture = jax.grad(lambda x: (convolution(x, kernel) ** 2).sum())(x)
        return (by_picture**2).mean()

    own, wanted = (
        jax.jit(jax.grad(partial(penalty, each)))(kernel) for each in (layers.convolve, xlas)
    )
    same(own, wanted)


def test_rounding_errors_are_about_a_millionth():
    """With the points 0, ±1, ±2 they are twice as large."""
    x, kernel = jax.nn.relu(normal(9, 1, 32, 32, 64)), normal(10, 3, 3, 64, 64)
    padded = np.pad(np.asarray(x[0], np.float64), ((1, 1), (1, 1), (0, 0)))
    exact = sum(
        padded[i : i + 32, j : j + 32] @ np.asarray(kernel[i, j], np.float64)
        for i in range(3)
        for j in range(3)
    )
    error = np.linalg.norm(layers.convolve(x, kernel)[0] - exact)
    assert error / np.linalg.norm(exact) < 1e-6
