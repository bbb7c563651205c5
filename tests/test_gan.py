import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import picture, refused
from test_train import ROOT, interrupt_at, log, states_equal

import train
from colorjax import augment, checkpoint, color, model, palette, step, validation
from colorjax.config import TrainConfig
from colorjax.extra import gan
from colorjax.model import NetworkConfig

CONFIG = TrainConfig(
    preset="gan",
    network="unet",
    width=16,
    size=16,
    film=0,
    degradation=0,
    clip=1e9,
    optimizer="adamw",
    lr=2e-4,
    label_names=("cat", "dog"),
)
LABELS = np.array([0, 1, -1, 0, 1, 1, 0, -1], np.int32)


def pictures(count: int = 8, side: int = CONFIG.pool_side) -> np.ndarray:
    return np.stack([picture(number, side, side) for number in range(count)])


def knowing(number):
    """A state at a step of 100, whose network and discriminator already say something."""
    state, random = gan.create_state(CONFIG, 100), np.random.default_rng(1)
    nudged = jax.tree.map(
        lambda p: p + random.normal(0, 0.05, p.shape).astype(np.float32),
        (state.params, state.discriminator),
    )
    state = dataclasses.replace(state, params=nudged[0], discriminator=nudged[1])
    return dataclasses.replace(state, step=np.int32(number))


@jax.jit
def gradients_of_two_passes(state, images, penalty_weight):
    key = jax.random.fold_in(jax.random.key(CONFIG.seed), state.step)
    lightness, truth = step.make_inputs_and_targets(CONFIG, key, images)
    true = truth[..., 1:]

    def network_loss(params):
        prediction = step.predict(CONFIG, params, lightness)
        value = step.ordinary_loss(CONFIG, prediction, truth, state.bin_weights, LABELS)
        judged = gan.adversarial_loss(CONFIG, state.discriminator, lightness, true, prediction[0])
        return value + gan.WEIGHT * judged

    def own_loss(discriminator):
        output = step.predict(CONFIG, state.params, lightness)[0]
        predicted = palette.decode(output, "bins")
        value = gan.discriminator_loss(CONFIG, discriminator, lightness, true, predicted)
        return value + penalty_weight * gan.gradient_penalty(CONFIG, discriminator, lightness, true)

    return jax.grad(network_loss)(state.params), jax.grad(own_loss)(state.discriminator)


@pytest.mark.parametrize(("number", "penalty_weight"), [(1, 0.0), (16, 16.0)])
def test_one_pass_has_the_gradients_of_two(number, penalty_weight):
    """With the gradient penalty in every sixteenth step."""
    images = pictures()
    expected = gradients_of_two_passes(knowing(number), images, penalty_weight)
    after, _ = gan.train_step(CONFIG, knowing(number), images, LABELS)
    # The first moments of Adam after one step are the gradients, times 1 − b1.
    kind, found = optax.ScaleByAdamState, (after.moments, after.discriminator_moments)
    moments = jax.tree.leaves(found, is_leaf=lambda part: isinstance(part, kind))
    moments = [part for part in moments if isinstance(part, kind)]
    for gradient, moment, rest in zip(expected, moments, (0.1, 0.5), strict=True):
        size = float(optax.tree.norm(gradient))
        assert size > 1e-3
        distance = optax.tree.sub(gradient, optax.tree.scale(1 / rest, moment.mu))
        assert float(optax.tree.norm(distance)) < 1e-4 * size


@jax.jit
def discriminator_step(critic, moments, lightness, true, predicted):
    value, gradient = jax.value_and_grad(gan.discriminator_loss, argnums=1)(
        CONFIG, critic, lightness, true, predicted
    )
    updates, moments = optax.adam(1e-3).update(gradient, moments)
    return optax.apply_updates(critic, updates), moments, value


def trained_discriminator(lightness, true, predicted):
    """What a discriminator's loss comes to that sees the same pictures again and again."""
    critic = gan.create_state(CONFIG).discriminator
    moments = optax.adam(1e-3).init(critic)
    for _ in range(80):
        critic, moments, value = discriminator_step(critic, moments, lightness, true, predicted)
    return float(value)


def test_the_discriminator_cannot_win_on_blur():
    """Colours finer than a network can say are in no picture that it sees."""
    crops = augment.random_crops(jax.random.key(0), pictures(16, 36), 32)
    lab = jnp.asarray(np.asarray(color.rgb_to_lab(crops)))
    lightness = lab[..., 0]
    blocks = lab.reshape(16, 8, 4, 8, 4, 3).mean((2, 4), keepdims=True)
    blurred = jnp.broadcast_to(blocks, (16, 8, 4, 8, 4, 3)).reshape(lab.shape)[..., 1:]
    blurred = color.fit_gamut(jnp.concatenate([lightness[..., None], blurred], axis=-1))
    true, smooth = (
        step.downsampled_lab(CONFIG, lightness, rgb)[..., 1:] for rgb in (crops, blurred)
    )
    assert jnp.abs(true - smooth).mean() < 0.5  # what is left is the gamut's edge
    assert trained_discriminator(lightness, true, smooth) > 1.9  # 2 is no idea
    assert trained_discriminator(lightness, true, 0.5 * true) < 1.7  # one that can be told


def test_gradient_penalty_is_that_of_differences():
    critic = knowing(0).discriminator
    random = np.random.default_rng(0)
    lightness = jnp.asarray(random.uniform(20, 80, (1, 16, 16)), jnp.float32)
    true = jnp.asarray(random.normal(0, 20, (1, 4, 4, 2)), jnp.float32)

    def score(ab):
        return gan.discriminate(CONFIG, critic, lightness, ab)[0].sum()

    steps = 0.5 * jnp.eye(true.size).reshape(-1, *true.shape)
    slopes = 50 * (jax.lax.map(score, true + steps) - jax.lax.map(score, true - steps))
    expected = gan.R1_WEIGHT / 2 * np.sum(np.square(slopes)) / 16  # over 16 places
    found = float(gan.gradient_penalty(CONFIG, critic, lightness, true))
    assert found == pytest.approx(expected, rel=0.02)


def test_losses_by_hand():
    true, predicted = jnp.array([[2.0, 0.5]]), jnp.array([[-3.0, 0.0]])
    assert float(gan.hinge(true, predicted)) == pytest.approx(0.25 + 0.5)
    layers = [jnp.ones((2, 3)), jnp.zeros((1, 4))]
    others = [jnp.full((2, 3), 3.0), jnp.full((1, 4), -1.0)]
    assert float(gan.feature_matching(layers, others)) == pytest.approx(1.5)


def test_it_makes_colours_bolder(monkeypatch):
    """Colours that lightness does not tell: squared error answers with their mean."""

    def of_two_colours(number):
        random = np.random.default_rng(number)
        ab = np.where(random.random((16, 1, 1, 1)) < 0.5, [45, 30], [-5, -35])
        ab = np.broadcast_to(ab, (16, 18, 18, 2))
        lab = np.concatenate([55 + random.normal(0, 3, (16, 18, 18, 1)), ab], axis=-1)
        rgb = color.fit_gamut(jnp.asarray(lab, jnp.float32))
        return np.asarray(255 * rgb).astype(np.uint8)

    config = dataclasses.replace(CONFIG, head="ab", label_names=(), lr=5e-4, clip=1.0)
    # The discriminator has four times the network's rate, and a say that is four times its usual.
    monkeypatch.setattr(gan, "WEIGHT", 4.0)
    state = gan.create_state(config, 120)
    for number in range(120):
        state, result = gan.train_step(config, state, of_two_colours(number))
        assert np.isfinite(float(result["loss"]))
    images = of_two_colours(999)
    _, ab, _ = validation.evaluate(config, state.ema, state.bin_weights, images)
    images = np.concatenate([of_two_colours(number) for number in range(20)])
    mean = np.asarray(color.rgb_to_lab(images / np.float32(255))[..., 1:]).mean((0, 1, 2))
    assert jnp.linalg.norm(ab, axis=-1).mean() > 1.5 * np.linalg.norm(mean)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Weights to start from."""
    path = tmp_path_factory.mktemp("start") / "w.safetensors"
    network = NetworkConfig("unet", 16, "bins")
    checkpoint.save_weights(path, model.init(1, network), dataclasses.asdict(network), {"size": 16})
    return path


def gan_command(photographs, start, out, *options):
    argv = ["--data", photographs, "--out", out, "--preset", "gan", "--init", start]
    argv += "--size 16 --batch 8 --devices 1 --steps 6 --validate-every 2".split()
    return [str(word) for word in (*argv, *options)]


def test_a_run_starts_from_weights_is_interrupted_and_resumes(
    photographs, start, tmp_path, monkeypatch, capsys
):
    """Network and width are those of the weights."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert train.main(gan_command(photographs, start, whole)) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        assert train.main(gan_command(photographs, start, out)) == 130
    assert train.main(["--out", str(out), "--resume"]) == 0
    states_equal(out, whole)
    assert all(line["discriminator"] > 0 for line in log(out) if "loss" in line)
    # What it starts from is measured first: it may be the best that it comes to.
    measured = [line for line in log(out) if "psnr" in line]
    assert [line["step"] for line in measured] == [0, 2, 4, 6]
    *_, summary = checkpoint.read_header(out / "weights.safetensors")
    best = max(line["auc"] - 4 * abs(1 - line["colorfulness"]) for line in measured)
    kept = summary["auc"] - 4 * abs(1 - summary["colorfulness"])
    assert kept == pytest.approx(best, abs=1e-6)
    capsys.readouterr()
    argv = gan_command(photographs, start, tmp_path / "other", "--width", "32")
    refused(capsys, train.main, argv, "width 16", "--width")
    assert not (tmp_path / "other").exists()


def test_the_rates_of_network_and_discriminator():
    """The network's rises over a tenth, then both fall; the discriminator's is four times that."""
    # Beyond the end nothing is learnt: a step can be timed before its run's length is known.
    for number, network, discriminator in (
        (0, 0, 1),
        (5, 0.5 * 0.95, 0.95),
        (50, 0.5, 0.5),
        (101, 0, 0),
    ):
        before, state = jax.device_get(knowing(number)), knowing(number)
        after, _ = gan.train_step(CONFIG, state, pictures(), LABELS)
        for part, expected in (("params", network), ("discriminator", 4 * discriminator)):
            moved = jax.tree.map(
                lambda a, b: np.abs(a - b).max(), *(getattr(s, part) for s in (after, before))
            )
            # The first step of Adam is its rate long, and a kernel's weight decays beside it.
            assert max(jax.tree.leaves(moved)) == pytest.approx(expected * CONFIG.lr, rel=0.1)


def test_multiplied_colours_are_no_better():
    """Bolder colours count, but not if they are merely multiplied: they are farther away."""
    decoding = palette.AS_PREDICTED
    found = validation.Measured(
        np.zeros(0), decoding, 4.5, 23.4, 23.3, 0.54, 89.6, None, None, 22, 23
    )
    assert validation.selection_score(found) == -4.5
    assert gan.selection_score(found) == pytest.approx(89.6 - 4 * 0.46)


def test_ordinary_training_imports_no_discriminator():
    code = "import sys, train; print([m for m in sys.modules if m.startswith('colorjax.extra.')])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert "gan" not in done.stdout and "distributed" not in done.stdout, done.stderr


def test_it_scores_each_eighth_of_lightness():
    critic = gan.create_state(CONFIG).discriminator
    lightness, ab = jnp.zeros((2, 32, 48)), jnp.zeros((2, 8, 12, 2))
    scores, features = gan.discriminate(CONFIG, critic, lightness, ab)
    assert scores.shape == (2, 4, 6) and features[0].shape == (2, 8, 12, 64)
    assert float(jnp.abs(scores).max()) == 0  # no opinion yet
