import numpy as np
import pytest
import safetensors.numpy

from colorjax import checkpoint, model
from colorjax.checkpoint import Checkpoints, WeightsError
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
    before = weights.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
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


def test_newest_and_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest() is None
    for step, value in ((1, 1.0), (2, 5.0), (3, 3.0), (4, None), (5, 2.0)):
        checkpoints.save(step, {"x": np.full(4, step, np.float32)}, {"at": step}, value)
    checkpoints.wait()
    kept = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert kept == ["2", "5"] and checkpoints.newest() == 5
    state, progress = checkpoints.restore(2, {"x": np.zeros(4, np.float32)})
    np.testing.assert_array_equal(state["x"], np.full(4, 2))
    assert progress == {"at": 2}
    checkpoints.close()


def test_the_best_outlives_a_resume(tmp_path):
    first = Checkpoints(tmp_path)
    first.save(1, {"x": np.zeros(4)}, {}, 9.0)
    first.save(2, {"x": np.zeros(4)}, {})
    first.close()
    second = Checkpoints(tmp_path)
    second.save(3, {"x": np.zeros(4)}, {}, 1.0)
    second.save(4, {"x": np.zeros(4)}, {}, 2.0)
    second.close()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["1", "4"]
