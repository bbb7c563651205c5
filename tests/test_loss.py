"""The error at equal colourfulness: where colour is put counts, how much of it does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorjax import color, loss


@pytest.fixture(scope="module")
def truth():
    """Lab of four pictures, inside the gamut: soft patches of colour."""
    small = jax.random.uniform(jax.random.key(0), (4, 4, 4, 3))
    return color.rgb_to_lab(0.3 + 0.4 * jax.image.resize(small, (4, 16, 16, 3), "linear"))


def test_more_of_all_colour_changes_nothing(truth):
    noise = 8 * jax.random.normal(jax.random.key(1), truth[..., 1:].shape)
    ab = 0.5 * truth[..., 1:] + noise
    once, twice = (loss.matched_error(factor * ab, truth) for factor in (1.0, 1.3))
    # As nearly as colourfulness is linear in chroma.
    np.testing.assert_allclose(once, twice, atol=0.05)
    assert once.shape == (4,)


def test_colour_in_the_right_places_is_nearer(truth):
    ab = truth[..., 1:]
    right, elsewhere = (loss.matched_error(x, truth).mean() for x in (ab, ab[:, ::-1]))
    assert right < elsewhere - 1


def test_a_batch_is_brought_to_its_share_of_the_truths_colourfulness(truth):
    """What is 0.8 of the truth is measured as 0.85 of it."""
    flat = truth.at[..., 1:].set(jnp.array([20.0, 10.0]))
    found = loss.matched_error(0.8 * flat[..., 1:], flat)
    share = flat * jnp.array([1, loss.MATCHED, loss.MATCHED])
    expected = ((color.fit_gamut(flat) - color.fit_gamut(share)) ** 2).mean((1, 2, 3))
    # The error is a square: 2 % of colourfulness, which is not quite linear, are a quarter of it.
    np.testing.assert_allclose(jnp.exp(found) - 1e-4, expected, rtol=0.25)


@pytest.mark.parametrize("factor", [0.0, 1e-6, 1.0, 10.0])
def test_its_gradient_is_finite(truth, factor):
    gradient = jax.grad(lambda ab: loss.matched_error(ab, truth).mean())(factor * truth[..., 1:])
    assert jnp.isfinite(gradient).all() and jnp.abs(gradient).max() > 0


def test_its_weight_adds_it_to_the_loss_of_bins(truth):
    logits = jax.random.normal(jax.random.key(2), (4, 16, 16, 261))
    args = "bins", logits, truth, jnp.ones(261), 1.0
    without, with_it = loss.color_loss(*args), loss.color_loss(*args, 2.0)
    ab = loss.palette.decode(logits, "bins")
    np.testing.assert_allclose(with_it - without, 2 * loss.matched_error(ab, truth), rtol=1e-4)
