import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import picture, refused
from PIL import Image
from test_train import SMALL, log

import colorize
import train
from colorjax import Colorizer, checkpoint, data, loss, model, run, step, validation
from colorjax.config import TrainConfig
from colorjax.model import NetworkConfig


def scene(kind: str, number: int) -> np.ndarray:
    """Pictures of two kinds that lightness tells apart: stripes along, stripes across."""
    waves = 80 + number / 2 + 60 * np.sign(np.sin(np.arange(40) * 0.8 + number))
    stripes = np.tile(waves, (40, 1)) if kind == "along" else np.tile(waves[:, None], (1, 40))
    tint = [1.2, 0.8, 0.5] if kind == "along" else [0.5, 0.8, 1.2]
    return (stripes[..., None] * tint).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    for kind in ("along", "across"):
        for number in range(40):
            place = folder / kind / ("deep" if number % 2 else "")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene(kind, number)).save(place / f"{number}.png")
    for number in range(25):  # nothing is learnt of these three
        for name in ("unlabelled", "few" if number < 5 else "unlabelled/more", ""):
            (folder / name).mkdir(exist_ok=True)
            pixels = picture(100 + number + 1000 * len(name))
            Image.fromarray(pixels).save(folder / name / f"x{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(labelled, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "labels"
    options = "--labels --steps 100 --validate-every 50 --batch 16".split()
    options += "--val-fraction 0.2 --film 0 --degradation 0".split()
    argv = ["--data", str(labelled), "--out", str(out), *SMALL, *options]
    assert train.main(argv) == 0
    return out


def test_folders_are_labels(labelled, tmp_path):
    pool = data.load_pool(labelled, 18, tmp_path, 0, say=lambda line: None)
    names = data.label_names(pool, np.arange(len(pool)))
    assert names == ("across", "along")
    numbers = data.label_numbers(pool, names)
    for path, number in zip(pool.paths, numbers, strict=True):
        first = path.split("/")[0]
        assert number == {"across": 0, "along": 1}.get(first, -1)
    assert (numbers == 0).sum() == (numbers == 1).sum() == 40
    few = np.flatnonzero(numbers == 1)[:19]  # 19 photographs to train on are too few
    assert data.label_names(pool, np.append(np.flatnonzero(numbers != 1), few)) == ("across",)


def test_batches_bring_the_labels_of_their_photographs(labelled, tmp_path):
    pool = data.load_pool(labelled, 18, tmp_path, 0, say=lambda line: None)
    numbers = data.label_numbers(pool, ("across", "along"))
    known = {image.tobytes(): number for image, number in zip(pool.images, numbers, strict=True)}
    rows = np.arange(len(pool))
    for images, labels in data.batches(pool, numbers, rows, 16, 0, 0, 5):
        for image, label in zip(np.asarray(images), np.asarray(labels), strict=True):
            assert known[image.tobytes()] == label


def test_what_has_no_label_costs_nothing():
    logits = jnp.array([[2.0, 0.0], [0.0, 0.0], [5.0, -5.0]])
    losses = loss.label_cross_entropy(logits, jnp.array([0, 1, -1]))
    wanted = [np.log(1 + np.exp(-2)), np.log(2), 0]
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)


def test_labels_are_learnt_and_travel_with_the_weights(trained, capsys, tmp_path):
    network, _, summary = checkpoint.read_header(trained / "weights.safetensors")
    assert network.labels == ("across", "along")
    last = [line for line in log(trained) if "psnr" in line][-1]
    assert last["label_accuracy"] >= 0.9 and 0.5 <= last["label_chance"] < 0.8
    for kind in network.labels:
        Image.fromarray(scene(kind, 77)).convert("L").save(tmp_path / f"{kind}.png")
        argv = [tmp_path / f"{kind}.png", tmp_path / f"{kind}-out.png", "--explain"]
        argv += ["--weights", trained / "weights.safetensors"]
        capsys.readouterr()
        assert colorize.main([str(word) for word in argv]) == 0
        assert f"taken for: {kind} " in capsys.readouterr().out


def test_explain_adds_up(trained):
    colorizer = Colorizer.load(trained / "weights.safetensors")
    shares = colorizer.explain(colorizer.analyze(scene("along", 3)))
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert sum(shares.values()) == pytest.approx(1)
    with pytest.raises(ValueError, match="no labels"):
        colorizer = Colorizer.load()
        colorizer.explain(colorizer.analyze(scene("along", 3)))


def test_labels_leave_colour_alone():
    """The same network with labels predicts the same colours: they only add a classifier."""
    plain = NetworkConfig("unet", 16, "bins")
    with_labels = dataclasses.replace(plain, labels=("a", "b", "c"))
    lightness = np.random.default_rng(0).uniform(0, 100, (2, 32, 48)).astype(np.float32)
    params = model.init(3, with_labels)
    colors, label_logits, _ = model.predict(params, with_labels, lightness)
    assert label_logits is not None and label_logits.shape == (2, 3)
    alone = {name: part for name, part in params.items() if not name.startswith("classifier")}
    np.testing.assert_array_equal(model.predict(alone, plain, lightness).output, colors)


def test_accuracy_counts_the_labelled_alone(labelled, tmp_path):
    pool = data.load_pool(labelled, 18, tmp_path, 0, say=lambda line: None)
    rows = np.arange(len(pool))
    numbers = data.label_numbers(pool, ("across", "along"))
    numbers[np.flatnonzero(numbers == 0)[:10]] = -1
    names = ("across", "along")
    config = TrainConfig(network="unet", width=16, size=16, colorfulness=0, label_names=names)
    state = step.create_state(config)
    held_out = validation.Validation(config, pool, rows, np.zeros(2), state.bin_weights, numbers)
    measured = held_out.measure(state.params)  # a new classifier always says the first
    assert measured.label_accuracy == pytest.approx(30 / 70)
    assert measured.label_chance == pytest.approx(40 / 70)


def test_fine_tuning_may_add_labels_and_leave_them(trained, labelled, tmp_path):
    weights, out = str(trained / "weights.safetensors"), tmp_path / "without"
    argv = ["--data", str(labelled), *SMALL, "--steps", "1", "--init", weights, "--out", str(out)]
    assert train.main(argv) == 0
    network, *_ = checkpoint.read_header(out / "weights.safetensors")
    assert network.labels == ()
    plain, others = network, dataclasses.replace(network, labels=("a", "b", "c"))
    params = checkpoint.load_weights(out / "weights.safetensors", model.shapes(plain))
    more = run.with_labels(params, (), others)
    assert jax.tree.map(jnp.shape, more) == jax.tree.map(lambda s: s.shape, model.shapes(others))
    assert run.with_labels(more, others.labels, others) is more  # what they know is kept
    lightness = np.full((1, 16, 16), 50, np.float32)
    np.testing.assert_array_equal(
        model.predict(more, others, lightness).output,
        model.predict(params, plain, lightness).output,
    )


def test_bad_input_gets_a_sentence(labelled, trained, tmp_path, capsys):
    flat = tmp_path / "flat"
    (flat / "only").mkdir(parents=True)
    for path in (labelled / "along").rglob("*.png"):
        shutil.copy(path, flat / "only")
    shutil.copytree(labelled / "unlabelled", flat / "unlabelled")
    out, grey = tmp_path / "out", tmp_path / "grey.png"
    Image.fromarray(picture(1)).convert("L").save(grey)
    weights = trained / "weights.safetensors"
    (film := tmp_path / "in.mp4").touch()
    for main, argv, words in (
        (train.main, ["--data", flat, "--labels", *SMALL], ["--labels", "one folder", "two"]),
        (train.main, ["--data", flat / "only", "--labels", *SMALL], ["--labels", "no folder"]),
        (train.main, ["--data", flat, "--labels", "--preset", "paper"], ["--labels", "paper"]),
        (colorize.main, [grey, out.with_suffix(".png"), "--explain"], ["--explain", "labels"]),
        (colorize.main, [film, out.with_suffix(".mp4"), "--explain"], ["--explain", "film"]),
        (colorize.main, [flat, out, "--explain", "--weights", weights], ["--explain", "folder"]),
    ):
        if main is train.main:
            argv = [*argv, "--out", out]
        refused(capsys, main, argv, *words)
        assert not out.exists() and not out.with_suffix(".png").exists()
