import dataclasses
import os

import jax
import numpy as np
import pytest
import safetensors.numpy

from colorjax import checkpoint, model, step
from colorjax.checkpoint import WeightsError
from colorjax.config import TrainConfig
from colorjax.model import NetworkConfig
from colorjax.palette import Decoding

NETWORK = {"kind": "unet", "width": 16}
SHAPES = model.shapes(NetworkConfig(**NETWORK))


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    checkpoint.save_weights(path, model.init(0, NetworkConfig(**NETWORK)), NETWORK, {"size": 32})
    return path


def test_weights_come_back_with_their_header(weights):
    header = NetworkConfig(**NETWORK), Decoding(working_size=48), {"size": 32}
    assert checkpoint.read_header(weights) == header
    params = model.init(0, NetworkConfig(**NETWORK))
    loaded = checkpoint.load_weights(weights, SHAPES)
    np.testing.assert_array_equal(loaded["stem"]["kernel"], params["stem"]["kernel"])
    assert [p.name for p in weights.parent.iterdir()] == [weights.name]
    mode, probe = weights.stat().st_mode, weights.with_name("probe")
    probe.touch()
    assert mode == probe.stat().st_mode  # as the user's umask has it


def test_half_precision_halves_the_file(weights, tmp_path):
    params = checkpoint.load_weights(weights, SHAPES)
    checkpoint.save_weights(tmp_path / "half", params, NETWORK, {}, "float16")
    assert (tmp_path / "half").stat().st_size < 0.55 * weights.stat().st_size
    half = checkpoint.load_weights(tmp_path / "half", SHAPES)
    assert half["stem"]["kernel"].dtype == np.float32


def test_failed_write_leaves_what_was_there(weights, monkeypatch):
    """Of states, test_train.py says so."""
    before = weights.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save_weights(weights, {"a": np.zeros(3)}, NETWORK, {})
    assert weights.read_bytes() == before
    assert [p.name for p in weights.parent.iterdir()] == [weights.name]


def rewrite(path, change):
    tensors, metadata = safetensors.numpy.load_file(path), None
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    change(tensors, metadata)
    safetensors.numpy.save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.unlink(), "does not exist"),
        (lambda p: p.write_text("not weights"), "not a file of weights"),
        (lambda p: p.write_bytes(b""), "not a file of weights"),
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "not a file of weights"),
        (lambda p: rewrite(p, lambda t, m: m.clear()), "configuration"),
        (lambda p: rewrite(p, lambda t, m: t.pop("head.bias")), "lacks head.bias"),
        (lambda p: rewrite(p, lambda t, m: t.update(extra=np.zeros(1))), "extra"),
        (lambda p: rewrite(p, lambda t, m: t.update({"head.bias": np.zeros(3)})), r"\(3,\)"),
        (lambda p: rewrite(p, lambda t, m: t["head.bias"].fill(np.nan)), "not finite"),
        (lambda p: rewrite(p, lambda t, m: t.update({"head.bias": np.full(2, 1e300)})), "finite"),
        (lambda p: rewrite(p, lambda t, m: t.update({"head.bias": np.zeros(2, int)})), "int64"),
        (lambda p: rewrite(p, lambda t, m: m.update(summary="[1]")), "header"),
    ],
)
def test_spoilt_weights_get_a_sentence(weights, spoil, message):
    spoil(weights)
    with pytest.raises(WeightsError, match=message) as error:
        checkpoint.read_header(weights)
        checkpoint.load_weights(weights, SHAPES)
    assert str(weights) in str(error.value)


def test_a_directory_is_not_weights(tmp_path):
    with pytest.raises(WeightsError, match="not a file of weights"):
        checkpoint.read_header(tmp_path)


CONFIG = TrainConfig(network="unet", width=16, size=16, dtype="float32")


@pytest.fixture(scope="module")
def state():
    """A state all of whose numbers differ."""
    template = step.create_state(CONFIG, 9)
    leaves, tree = jax.tree.flatten(template)
    random = np.random.default_rng(0)
    values = [(100 * random.standard_normal(leaf.shape)).astype(leaf.dtype) for leaf in leaves]
    return jax.device_put(jax.tree.unflatten(tree, values))


def test_a_state_comes_back_bit_for_bit(state, tmp_path):
    path, progress = tmp_path / "newest.safetensors", {"best": -np.inf, "stale": 2}
    checkpoint.save_state(path, state, progress)
    restored, found = checkpoint.restore_state(path, step.create_state(CONFIG))
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert found == progress
    assert checkpoint.read_steps(path) == (int(state.step), int(state.total_steps))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_state_before_the_newest_stays(state, tmp_path):
    path = tmp_path / "newest.safetensors"
    for number in (1, 2, 3):
        checkpoint.save_state(path, state, {"at": number})
    assert checkpoint.restore_state(path, state)[1] == {"at": 3}
    assert checkpoint.restore_state(tmp_path / "previous.safetensors", state)[1] == {"at": 2}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.unlink(), "does not exist"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "not a file"),
        (lambda p: p.write_bytes(b""), "not a file"),
        (lambda p: rewrite(p, lambda t, m: m.clear()), "not a training state"),
        (lambda p: rewrite(p, lambda t, m: t.pop("step")), "another network"),
        (lambda p: rewrite(p, lambda t, m: t.update(step=np.array(3))), "another network"),
    ],
)
def test_spoilt_states_get_a_sentence(state, tmp_path, spoil, message):
    path = tmp_path / "newest.safetensors"
    checkpoint.save_state(path, state, {})
    spoil(path)
    with pytest.raises(WeightsError, match=message) as error:
        checkpoint.restore_state(path, state)
    assert str(path) in str(error.value)


def test_an_encoder_is_read_from_its_own_file_and_from_a_networks(tmp_path):
    network = NetworkConfig("lite", 16, "bins")
    params = model.init(0, network)
    shapes = model.shapes(NetworkConfig("lite", 32, "bins"))["encoder"]
    whole, alone = tmp_path / "whole.safetensors", tmp_path / "alone.safetensors"
    checkpoint.save_weights(whole, params, dataclasses.asdict(network), {})
    checkpoint.save_weights(alone, params["encoder"], {}, {})
    for path in (whole, alone):
        found = checkpoint.load_encoder(path, shapes)
        jax.tree.map(np.testing.assert_array_equal, found, params["encoder"])
    checkpoint.save_weights(alone, {"stem": params["encoder"]["stem"]}, {}, {})
    with pytest.raises(WeightsError, match="alone.safetensors lacks blocks"):
        checkpoint.load_encoder(alone, shapes)
