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
    size=32,
    film=0,
    degradation=0,
    clip=1e9,
    optimizer="adamw",
    lr=2e-4,
)


def pictures(count: int = 8, side: int = 36) -> np.ndarray:
    return np.stack([picture(number, side, side) for number in range(count)])


def knowing(config, seed=1):
    """A state whose network and discriminator already say something everywhere."""
    state = gan.create_state(config, 100)
    random = np.random.default_rng(seed)
    nudged = jax.tree.map(
        lambda p: p + random.normal(0, 0.05, p.shape).astype(np.float32),
        (state.params, state.discriminator),
    )
    return dataclasses.replace(state, params=nudged[0], discriminator=nudged[1])


@pytest.mark.parametrize("number", [1, 16])
def test_one_pass_has_the_gradients_of_two(number):
    """With the gradient penalty in every sixteenth step."""
    config = dataclasses.replace(CONFIG, label_names=("cat", "dog"))
    state, images = dataclasses.replace(knowing(config), step=jnp.int32(number)), pictures()
    numbers = jnp.array([0, 1, -1, 0, 1, 1, 0, -1])
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    lightness, true = jax.jit(step.make_inputs_and_targets, static_argnums=0)(config, key, images)

    def network_loss(params):
        prediction = step.predict(config, params, lightness)
        value = step.ordinary_loss(config, prediction, true, state.bin_weights, numbers)
        judged = gan.adversarial_loss(config, state.discriminator, lightness, true, prediction[0])
        return value + gan.WEIGHT * judged

    def own_loss(discriminator):
        output = step.predict(config, state.params, lightness)[0]
        predicted = palette.decode(output, "bins")
        value = gan.discriminator_loss(config, discriminator, lightness, true, predicted)
        penalty = gan.gradient_penalty(config, discriminator, lightness, true)
        return value + (number == 16) * 16 * penalty

    expected = (
        jax.jit(jax.grad(network_loss))(state.params),
        jax.jit(jax.grad(own_loss))(state.discriminator),
    )
    after, _ = gan.train_step(config, state, images, numbers)
    # The first moments of Adam after one step are the gradients, times 1 − b1.
    kind, found = optax.ScaleByAdamState, (after.moments, after.discriminator_moments)
    moments = jax.tree.leaves(found, is_leaf=lambda part: isinstance(part, kind))
    moments = [part for part in moments if isinstance(part, kind)]
    for gradient, moment, rest in zip(expected, moments, (0.1, 0.5), strict=True):
        size = float(optax.tree.norm(gradient))
        assert size > 1e-3
        distance = optax.tree.sub(gradient, optax.tree.scale(1 / rest, moment.mu))
        assert float(optax.tree.norm(distance)) < 1e-4 * size


def test_two_devices_equal_one_and_beyond_the_end_nothing_is_learnt():
    config, images = dataclasses.replace(CONFIG, size=16), pictures(8, 18)
    states = []
    for devices in (1, 2):
        whole, split = step.placement(devices)
        state = jax.device_put(knowing(config), whole)
        for _ in range(2):
            state, _ = gan.train_step(config, state, jax.device_put(images, split))
        states.append(jax.device_get((state.params, state.discriminator, state.ema)))
    # But for rounding, which Adam magnifies where gradients are near zero.
    distances = jax.tree.map(lambda a, b: float(np.abs(a - b).mean()), *states)
    assert max(jax.tree.leaves(distances)) < 0.02 * gan.TTUR_RATIO * config.lr
    # So a step can be timed before its run's length is known.
    end = jax.device_put({"step": jnp.int32(500), "total_steps": jnp.int32(2)}, whole)
    state = dataclasses.replace(state, **end)
    state, _ = gan.train_step(config, state, jax.device_put(images, split))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), states[1][0])


def trained_discriminator(true, predicted, lightness, steps=80):
    """What a discriminator's loss comes to that sees the same pictures again and again."""
    critic = gan.create_state(CONFIG).discriminator
    optimizer = optax.adam(1e-3)

    @jax.jit
    def once(critic, moments):
        value, gradient = jax.value_and_grad(gan.discriminator_loss, argnums=1)(
            CONFIG, critic, lightness, true, predicted
        )
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(critic, updates), moments, value

    moments = optimizer.init(critic)
    for _ in range(steps):
        critic, moments, value = once(critic, moments)
    return float(value)


def test_the_discriminator_cannot_win_on_blur():
    """Colours finer than a network can say are in no picture that it sees."""
    images = pictures(16)
    key = jax.random.key(0)
    crops = augment.random_crops(key, images, CONFIG.size)
    lab = jnp.asarray(np.asarray(color.rgb_to_lab(crops)))
    lightness = lab[..., 0]
    blocks = lab.reshape(16, 8, 4, 8, 4, 3).mean((2, 4), keepdims=True)
    blurred = jnp.broadcast_to(blocks, (16, 8, 4, 8, 4, 3)).reshape(lab.shape)[..., 1:]
    blurred = color.fit_gamut(jnp.concatenate([lightness[..., None], blurred], axis=-1))
    true, smooth = (
        step.downsampled_lab(CONFIG, lightness, rgb)[..., 1:] for rgb in (crops, blurred)
    )
    assert jnp.abs(true - smooth).mean() < 0.5  # what is left is the gamut's edge
    assert trained_discriminator(true, smooth, lightness) > 1.9  # 2 is no idea
    assert trained_discriminator(true, 0.5 * true, lightness) < 1.7  # one that can be told


def test_gradient_penalty_is_that_of_differences():
    config = dataclasses.replace(CONFIG, size=16)
    critic = knowing(config).discriminator
    random = np.random.default_rng(0)
    lightness = jnp.asarray(random.uniform(20, 80, (1, 16, 16)), jnp.float32)
    true = jnp.asarray(random.normal(0, 20, (1, 4, 4, 2)), jnp.float32)

    def scores(ab):
        return float(gan.discriminate(config, critic, lightness, ab)[0].sum())

    slopes = []
    for place in np.ndindex(true.shape):
        step_up = jnp.zeros_like(true).at[place].set(0.5)
        slopes.append(50 * (scores(true + step_up) - scores(true - step_up)))
    expected = gan.R1_WEIGHT / 2 * np.sum(np.square(slopes)) / 16  # over 16 places
    found = float(gan.gradient_penalty(config, critic, lightness, true))
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

    config = TrainConfig(network="unet", head="ab", width=16, size=16, film=0, degradation=0)
    chroma = []
    # The discriminator has four times the network's rate, and a say that is four times its usual.
    monkeypatch.setattr(gan, "WEIGHT", 4.0)
    for algorithm, lr in ((step, 2e-3), (gan, 5e-4)):
        config = dataclasses.replace(config, lr=lr, schedule="cosine")
        state = algorithm.create_state(config, 120)
        for number in range(120):
            state, result = algorithm.train_step(config, state, of_two_colours(number))
            assert np.isfinite(float(result["loss"]))
        images = of_two_colours(999)
        _, ab, _ = validation.evaluate(config, state.ema, state.bin_weights, images, np.zeros(1))
        chroma.append(float(jnp.linalg.norm(ab[0], axis=-1).mean()))
    assert chroma[0] < 25 and chroma[1] > 1.3 * chroma[0]


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
    config, images = dataclasses.replace(CONFIG, size=16, clip=1.0), pictures(8, 18)
    for number, network, discriminator in ((0, 0, 1), (5, 0.5 * 0.95, 0.95), (50, 0.5, 0.5)):
        state = dataclasses.replace(knowing(config), step=jnp.int32(number))
        before = jax.tree.map(jnp.copy, (state.params, state.discriminator))
        after, _ = gan.train_step(config, state, images)
        moved = jax.tree.map(
            lambda a, b: float(jnp.abs(a - b).max()), (after.params, after.discriminator), before
        )
        # The first step of Adam is its rate long, and a kernel's weight decays beside it.
        for part, expected in zip(moved, (network, 4 * discriminator), strict=True):
            assert max(jax.tree.leaves(part)) == pytest.approx(expected * config.lr, rel=0.1)


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
    scores, features = gan.discriminate(
        CONFIG, critic, jnp.zeros((2, 32, 48)), jnp.zeros((2, 8, 12, 2))
    )
    assert scores.shape == (2, 4, 6) and features[0].shape == (2, 8, 12, 64)
    assert float(jnp.abs(scores).max()) == 0  # no opinion yet
