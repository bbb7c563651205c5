import jax
import jax.numpy as jnp
import numpy as np
import optax.contrib
import pytest

from colorjax import model
from colorjax.extra import muon
from colorjax.model import NetworkConfig


@pytest.mark.parametrize("shape", [(2, 144, 16), (3, 16, 144), (1, 32, 32)])
def test_matrices_become_orthogonal(shape):
    matrices = np.random.default_rng(0).standard_normal(shape, np.float32)
    result = muon.orthogonal(jnp.asarray(matrices))
    values = np.linalg.svd(result, compute_uv=False)
    # Jordan's polynomial does not converge to 1, but into a range about it.
    assert values.min() > 0.6 and values.max() < 1.25
    # With the same singular vectors.
    left, _, right = np.linalg.svd(matrices, full_matrices=False)
    inner = left.swapaxes(1, 2) @ np.asarray(result) @ right.swapaxes(1, 2)
    diagonal = np.diagonal(inner, axis1=1, axis2=2)
    assert diagonal.min() > 0.6
    np.testing.assert_allclose(inner, diagonal[:, None] * np.eye(len(inner[0])), atol=1e-4)


def test_no_direction_runs_away():
    """Of singular values over six decades: those too small to be told from rounding stay small."""
    random = np.random.default_rng(1)
    left, right = (np.linalg.qr(random.standard_normal((n, 64)))[0] for n in (576, 64))
    matrix = left * np.logspace(0, -6, 64) @ right.T
    values = np.linalg.svd(muon.orthogonal(jnp.asarray(matrix[None], jnp.float32))[0])[1]
    assert values.max() < 1.25
    assert (values > 0.6).sum() >= 28  # those above a thousandth


def test_it_is_what_optax_computes():
    gradient = np.random.default_rng(1).standard_normal((3, 3, 16, 32)).astype(np.float32)
    theirs = optax.contrib.scale_by_muon(
        weight_dimension_numbers=optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
    )
    wanted, _ = theirs.update(jnp.asarray(gradient), theirs.init(jnp.asarray(gradient)))
    params = {"a": jnp.asarray(gradient), "b": jnp.asarray(-gradient)}
    ours = muon.scale_by_muon()
    result, _ = ours.update(params, ours.init(params))
    scale = 0.2 * 144**0.5
    np.testing.assert_allclose(result["a"], scale * wanted, atol=1e-4)
    np.testing.assert_allclose(result["b"], -scale * wanted, atol=1e-4)  # those alike together


def kinds(config):
    return muon.kinds(model.shapes(config), model.outer_parts(config))


def test_hidden_kernels_are_muons_and_the_rest_adams():
    unet = kinds(NetworkConfig("unet", 16, "bins", labels=("a", "b")))
    assert {unet[name]["kernel"] for name in ("stem", "head", "classifier")} == {"adam"}
    assert unet["merge"] == {"kernel": "muon", "bias": "adam"}
    block = unet["encoder"][0][0]
    assert block["conv1"] == {"kernel": "muon", "bias": "adam"}
    assert set(jax.tree.leaves(block["norm1"])) == {"adam"}
    paper = jax.tree.leaves(kinds(NetworkConfig("paper")))
    assert paper.count("muon") == 10  # all kernels but the first, of one channel, and the head's


def test_a_pretrained_encoder_is_adams():
    lite = kinds(NetworkConfig("lite", 16, "bins"))
    assert set(jax.tree.leaves(lite["encoder"])) == {"adam"}
    assert lite["level4"][0]["conv1"] == {"kernel": "muon", "bias": "adam"}
