import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorjax.convolution import _convolve, convolve


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(3, 32, 40, 32), (2, 65, 64, 32), (4, 9, 7, 8)])
def test_gradients_are_xlas_own_up_to_rounding(shape, stride, size):
    """Large pictures that gain channels, an even and an odd size; and small ones."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.standard_normal(shape, np.float32))
    kernel = jnp.asarray(random.standard_normal((size, size, shape[3], 48), np.float32))
    wanted, pull = jax.vjp(lambda x, k: _convolve(x, k, stride), x, kernel)
    result, own_pull = jax.vjp(lambda x, k: convolve(x, k, stride), x, kernel)
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-4)
    gradient = jnp.asarray(random.standard_normal(wanted.shape, np.float32))
    for own, xlas in zip(own_pull(gradient), pull(gradient), strict=True):
        np.testing.assert_allclose(own, xlas, rtol=1e-4, atol=1e-5 * float(jnp.abs(xlas).max()))
