from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorjax import model, palette
from colorjax.model import NetworkConfig

NETWORKS = [NetworkConfig("paper"), NetworkConfig("unet", 16)]


@partial(jax.jit, static_argnums=(1, 3))
def apply(params, config, lightness, dtype=jnp.float32):
    return model.predict(params, config, lightness, dtype).output


def size(params) -> int:
    return sum(p.size for p in jax.tree.leaves(params))


def disturbed(params):
    """The parameters moved off their start, so that the network predicts something."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [p + 0.05 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def flop(config, side):
    params = model.shapes(config)
    lowered = jax.jit(lambda p, x: model.predict(p, config, x).output).lower(
        params, jax.ShapeDtypeStruct((1, side, side), jnp.float32)
    )
    return lowered.cost_analysis()["flops"]


def test_paper_network_has_its_parameters():
    assert size(model.shapes(NetworkConfig("paper"))) == 3_892_194


def test_unet_is_within_its_budget():
    whole = size(model.shapes(NetworkConfig()))
    half = size(model.shapes(NetworkConfig(width=32)))
    assert 5e6 < whole < 8e6
    assert half < whole / 3
    assert flop(NetworkConfig(), 256) < 12e9


@pytest.mark.parametrize("config", NETWORKS, ids=lambda c: c.kind)
@pytest.mark.parametrize("shape", [(1, 1), (17, 31)])
def test_any_height_and_width(config, shape):
    params = disturbed(model.init(0, config))
    ab = apply(params, config, jnp.full((2, *shape), 50.0))
    expected = tuple(-(-side // config.reduction) for side in shape)
    assert ab.shape == (2, *expected, 2) and ab.dtype == jnp.float32
    assert jnp.isfinite(ab).all() and jnp.abs(ab).max() <= 128


@pytest.mark.parametrize("config", NETWORKS, ids=lambda c: c.kind)
def test_predicts_no_colour_at_first(config):
    lightness = jax.random.uniform(jax.random.key(0), (2, 32, 32)) * 100
    assert jnp.all(apply(model.init(0, config), config, lightness) == 0)


@pytest.mark.parametrize("config", NETWORKS, ids=lambda c: c.kind)
def test_a_picture_does_not_depend_on_its_batch(config):
    params = disturbed(model.init(0, config))
    lightness = jax.random.uniform(jax.random.key(0), (3, 32, 48)) * 100
    together = apply(params, config, lightness)
    alone = jnp.concatenate([apply(params, config, picture[None]) for picture in lightness])
    # float32 sums in another order, on values up to 128
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_a_network_with_bins_has_a_logit_for_each():
    config = NetworkConfig("unet", 16, "bins")
    assert len(palette.bins()) == model.BINS
    logits = apply(disturbed(model.init(0, config)), config, jnp.full((2, 33, 16), 50.0))
    assert logits.shape == (2, 9, 4, model.BINS) and jnp.isfinite(logits).all()
    extra = size(model.shapes(config)) - size(model.shapes(NetworkConfig("unet", 16)))
    assert extra == 17 * model.BINS - (16 * 9 + 1) * 2  # a 1×1 head in place of a 3×3 one


def test_init_follows_the_seed():
    config = NETWORKS[1]
    same, other = model.init(3, config), model.init(4, config)
    jax.tree.map(np.testing.assert_array_equal, model.init(3, config), same)
    assert (same["stem"]["kernel"] != other["stem"]["kernel"]).any()


@pytest.mark.parametrize("config", NETWORKS, ids=lambda c: c.kind)
def test_bfloat16_is_near_float32(config):
    params = disturbed(model.init(0, config))
    lightness = jax.random.uniform(jax.random.key(0), (1, 32, 32)) * 100
    exact = apply(params, config, lightness)
    rough = apply(params, config, lightness, jnp.bfloat16)
    assert rough.dtype == jnp.float32
    # bfloat16 keeps 8 bits a value; over some 20 layers a tenth of the spread is lost at most
    assert jnp.abs(rough - exact).mean() < 0.1 * jnp.abs(exact).mean() + 0.1


@pytest.mark.parametrize(
    "values",
    [{"kind": "resnet"}, {"width": 0}, {"width": 24}, {"width": 1024}, {"head": "lab"}],
)
def test_configuration_says_what_is_wrong(values):
    with pytest.raises(ValueError, match=str(next(iter(values.values())))):
        NetworkConfig(**values)


def test_the_papers_network_has_no_bins():
    with pytest.raises(ValueError, match="head is 'bins': the paper network's must be 'ab'"):
        NetworkConfig("paper", head="bins")
