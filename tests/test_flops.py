import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from colorjax import layers, model
from colorjax.extra import winograd
from colorjax.model import NetworkConfig

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import flops
from flops import Work


def spec(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def convolve(x, kernel, stride=1, padding="SAME", **more):
    numbers = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=numbers, **more
    )


def by_xla(function, *args):
    analysis = jax.jit(function).lower(*args).compile().cost_analysis()
    return (analysis[0] if isinstance(analysis, list) else analysis)["flops"]


def test_a_matrix_product_by_hand():
    work = flops.count(jnp.matmul, spec(3, 5, 7), spec(7, 11, dtype=jnp.float32))
    assert work == Work(2 * 3 * 5 * 7 * 11, 4 * (3 * 5 * 7 + 7 * 11 + 3 * 5 * 11))
    half = flops.count(jnp.matmul, spec(8, 8, dtype=jnp.bfloat16), spec(8, 8, dtype=jnp.bfloat16))
    assert half == Work(2 * 8**3, 2 * 3 * 8**2)


def test_a_convolution_by_hand_without_its_padding():
    x, kernel = spec(2, 4, 6, 3), spec(3, 3, 3, 5)
    valid = flops.count(lambda x, k: convolve(x, k, padding="VALID"), x, kernel)
    assert valid.flops == 2 * 2 * (2 * 4) * 9 * 3 * 5
    # Of 4 rows the outer two see 2 of the kernel's 3; of 6 columns likewise.
    same = flops.count(convolve, x, kernel)
    assert same.flops == 2 * 2 * (2 * 3 + 2 * 2) * (4 * 3 + 2 * 2) * 3 * 5


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_convolutions_and_their_gradients_count_as_xla_counts(stride):
    x, kernel = spec(2, 9, 12, 8), spec(3, 3, 8, 16)

    def forward(x, kernel):
        return convolve(x, kernel, stride)

    out = jax.eval_shape(forward, x, kernel)

    def both_gradients(x, kernel, out):
        return jax.vjp(forward, x, kernel)[1](out)

    ahead = flops.count(forward, x, kernel).flops
    assert ahead == by_xla(forward, x, kernel)
    # The forward pass is traced too; XLA drops it, since nothing uses it.
    assert flops.count(both_gradients, x, kernel, out).flops - ahead == by_xla(
        both_gradients, x, kernel, out
    )


def test_dilated_and_grouped_convolutions_count_as_xla_counts():
    x = spec(2, 12, 12, 8)

    def dilated(x, kernel):
        return convolve(x, kernel, rhs_dilation=(2, 2))

    def grouped(x, kernel):
        return convolve(x, kernel, feature_group_count=4)

    for function, kernel in ((dilated, spec(3, 3, 8, 4)), (grouped, spec(3, 3, 2, 8))):
        assert flops.count(function, x, kernel).flops == by_xla(function, x, kernel)


@pytest.mark.parametrize("config", [NetworkConfig("paper"), NetworkConfig("unet", 32, "bins")])
def test_networks_are_nearly_all_products(config):
    """XLA counts every addition, too: a little more."""
    params, lightness = model.shapes(config), spec(1, 64, 64)

    def forward(params, lightness):
        return model.predict(params, config, lightness).output

    counted = flops.count(forward, params, lightness).flops
    with winograd.enabled(False):
        assert counted < by_xla(forward, params, lightness) < 1.03 * counted


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_with_fewer_multiplications_count_as_plain_ones(stride):
    x, kernel = spec(2, 32, 32, 32), spec(3, 3, 32, 48)  # Winograd's tiles, or phases

    @jax.jit
    def gradients(x, kernel):
        return jax.grad(lambda x, k: layers.convolve(x, k, stride).sum(), (0, 1))(x, kernel)

    jax.eval_shape(gradients, x, kernel)  # what jit remembers of it does not count

    def plain(x, kernel):
        return jax.grad(lambda x, k: convolve(x, k, stride).sum(), (0, 1))(x, kernel)

    own = flops.count(gradients, x, kernel)
    assert own.flops == flops.count(plain, x, kernel).flops
    assert own.flops > 3 * 2 * 2 * (30 // stride) ** 2 * 9 * 32 * 48


def test_loops_conditions_and_inner_functions():
    square = spec(4, 4)
    once = flops.count(jnp.matmul, square, square)

    def rounds(x, y):
        return jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, y), None), x, None, length=7)[0]

    def either(x, y):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ y @ y, lambda: x @ y)

    def endless(x, y):
        return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ y, x)

    assert flops.count(rounds, square, square) == once * 7
    assert flops.count(either, square, square) == once * 2
    with pytest.raises(ValueError, match="rounds"):
        flops.count(endless, square, square)
