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


def test_hidden_kernels_are_muons_and_the_rest_adams():
    params = model.init(0, NetworkConfig("unet", 16, "bins", labels=("a", "b")))
    kinds = muon._kinds(params)
    assert {kinds[name]["kernel"] for name in ("stem", "head", "classifier")} == {"adam"}
    assert kinds["merge"] == {"kernel": "muon", "bias": "adam"}
    block = kinds["encoder"][0][0]
    assert block["conv1"] == {"kernel": "muon", "bias": "adam"}
    assert set(jax.tree.leaves(block["norm1"])) == {"adam"}
    paper = model.init(0, NetworkConfig("paper"))
    found = jax.tree.leaves(muon._kinds({"layers": paper["layers"]}))
    assert found.count("muon") == 10  # all kernels but the first, of one channel


def test_its_products_are_of_full_precision_everywhere():
    """In TF32, a GPU's default, the iteration on the squares runs away."""
    program = str(jax.make_jaxpr(muon.orthogonal)(jnp.ones((2, 144, 16))))
    full = program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
    assert full == program.count("dot_general[") >= 6
