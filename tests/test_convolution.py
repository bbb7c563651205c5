import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorjax import convolution


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(4, 16, 16, 3), (6, 9, 13, 8), (1, 1, 1, 2), (2, 2, 5, 4)])
def test_cpu_kernel_gradient_is_that_of_the_convolution(shape, stride):
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, shape[-1], 5))

    def gradients(convolve):
        return jax.grad(lambda x, k: jnp.sin(convolve(x, k, stride)).sum(), (0, 1))(x, kernel)

    for ours, theirs in zip(
        gradients(convolution._cpu_convolve), gradients(convolution._xla_convolve), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)  # the order of sums differs
