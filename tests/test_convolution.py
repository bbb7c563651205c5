from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorjax import step
from colorjax.extra.winograd import convolve, plain


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(3, 32, 40, 32), (2, 65, 64, 32), (16, 8, 10, 48), (4, 9, 7, 8)])
def test_results_and_gradients_are_xlas_own_up_to_rounding(shape, stride, size):
    """Large pictures that gain channels, an even and an odd size; many small ones, and few."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.standard_normal(shape, np.float32))
    kernel = jnp.asarray(random.standard_normal((size, size, shape[3], 48), np.float32))
    wanted, pull = jax.vjp(lambda x, k: plain(x, k, stride), x, kernel)
    result, own_pull = jax.vjp(lambda x, k: convolve(x, k, stride), x, kernel)
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-4)
    gradient = jnp.asarray(random.standard_normal(wanted.shape, np.float32))
    for own, xlas in zip(own_pull(gradient), pull(gradient), strict=True):
        np.testing.assert_allclose(own, xlas, rtol=1e-4, atol=1e-5 * float(jnp.abs(xlas).max()))


def test_a_picture_alone_is_what_it_is_in_a_batch():
    """Where a batch would pay for Winograd's, and a picture alone would not."""
    random = np.random.default_rng(1)
    x = jnp.asarray(random.standard_normal((32, 8, 8, 32), np.float32))
    kernel = jnp.asarray(random.standard_normal((3, 3, 32, 48), np.float32))
    np.testing.assert_allclose(convolve(x, kernel)[:1], convolve(x[:1], kernel), atol=1e-5)
    assert "winograd" not in str(jax.make_jaxpr(convolve)(x, kernel))
    training = jax.make_jaxpr(jax.grad(lambda x: convolve(x, kernel).sum()))(x)
    assert "winograd" in str(training)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("side", [32, 30])
def test_second_derivatives_and_batches_on_two_devices(devices, side):
    """By tiles of 4 and of 2."""
    random = np.random.default_rng(2)
    x = jnp.asarray(random.standard_normal((2, side, side, 32), np.float32))
    kernel = jnp.asarray(random.standard_normal((3, 3, 32, 48), np.float32)) / 16
    x = jax.device_put(x, step.placement(devices)[1])

    def penalty(convolution, x, kernel):
        """As the critic's: how much the gradient by the picture changes with the kernel."""
        by_picture = jax.grad(lambda x: (convolution(x, kernel, 1) ** 2).sum())(x)
        return (by_picture**2).mean()

    own, xlas = (
        jax.jit(jax.grad(partial(penalty, c), argnums=1))(x, kernel) for c in (convolve, plain)
    )
    np.testing.assert_allclose(own, xlas, atol=1e-5 * float(jnp.abs(xlas).max()))


@pytest.mark.parametrize("features", [2, 8, 9])
def test_gradients_of_few_features_as_the_head_has_them(features):
    random = np.random.default_rng(3)
    x, kernel, gradient = (
        jnp.asarray(random.standard_normal(shape, np.float32))
        for shape in ((3, 14, 9, 32), (3, 3, 32, features), (3, 14, 9, features))
    )

    def gradients(convolution, x, kernel):
        return jax.vjp(lambda x, k: convolution(x, k, 1), x, kernel)[1](gradient)

    for a, b in zip(gradients(convolve, x, kernel), gradients(plain, x, kernel), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))
    taken = str(jax.make_jaxpr(partial(gradients, convolve))(x, kernel))
    assert ("kernel_gradient_of_few" in taken) == (features <= 8)


@pytest.mark.parametrize(
    "shape, features, tile",
    [
        ((4, 32, 32, 32), 32, 4),
        ((4, 18, 18, 32), 48, 2),  # sides that are no multiples of 4
        ((16, 8, 8, 256), 256, 2),  # large kernels, few places
        ((64, 8, 8, 256), 256, 4),
        ((4, 32, 32, 16), 32, 0),  # few channels
    ],
)
def test_tiles_are_as_large_as_pays(shape, features, tile):
    x, kernel = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (shape, (3, 3, shape[3], features))
    )
    gradients = jax.grad(lambda x, k: convolve(x, k).sum(), argnums=(0, 1))
    taken = str(jax.make_jaxpr(gradients)(x, kernel))
    assert ("winograd_kernel_gradient" in taken) == bool(tile)
    assert [side for side in (2, 4) if f"f32[{(side + 2) ** 2},{shape[3]}," in taken] == (
        [tile] if tile else []
    )


@pytest.mark.parametrize("shape, tile", [((24, 24), 2), ((32, 32), 4), ((32, 30), 2)])
@pytest.mark.parametrize("batch", [1, 8])
def test_in_inference_the_batch_does_not_choose_the_tiles(batch, shape, tile):
    x, kernel = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((batch, *shape, 32), (3, 3, 32, 48))
    )
    taken = str(jax.make_jaxpr(convolve)(x, kernel))
    assert [side for side in (2, 4) if f"f32[{(side + 2) ** 2},32," in taken] == [tile]


@pytest.mark.parametrize("side, bound", [(32, 1e-6), (30, 4e-7)])
def test_rounding_errors_are_about_a_millionth(side, bound):
    """By tiles of 4 and of 2; with the points 0, ±1, ±2 those of 4 have twice as much."""
    random = np.random.default_rng(4)
    x = np.maximum(random.standard_normal((1, side, side, 64)), 0).astype(np.float32)
    kernel = random.standard_normal((3, 3, 64, 64)).astype(np.float32)
    padded = np.pad(x[0].astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    exact = sum(
        padded[i : i + side, j : j + side] @ kernel[i, j].astype(np.float64)
        for i in range(3)
        for j in range(3)
    )
    error = np.linalg.norm(convolve(jnp.asarray(x), jnp.asarray(kernel))[0] - exact)
    assert error / np.linalg.norm(exact) < bound
