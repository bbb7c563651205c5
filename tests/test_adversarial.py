import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import picture, refused
from test_train import command, interrupt_at, log, weights

import train
from colorjax import augment, checkpoint, config, loss, model, step, validation
from colorjax.extra import gan
from colorjax.model import NetworkConfig

NETWORK = NetworkConfig("unet", 16, "bins")
CONFIG = step.StepConfig(
    NETWORK, size=32, film=0, ageing=0, adversarial=1.0, clip=1e9, optimizer="adamw"
)


def pictures(count: int = 8, side: int = 36) -> np.ndarray:
    return np.stack([picture(number, side, side) for number in range(count)])


def knowing(config, seed=1):
    """A state whose network and critic already say something everywhere."""
    state = step.create_state(config, 100)
    random = np.random.default_rng(seed)
    nudged = jax.tree.map(
        lambda p: p + random.normal(0, 0.05, p.shape).astype(np.float32),
        (state.params, state.critic),
    )
    return dataclasses.replace(state, params=nudged[0], critic=nudged[1])


@pytest.mark.parametrize("number", [1, 16])
def test_one_pass_has_the_gradients_of_two(number):
    """With the gradient penalty in every sixteenth step."""
    network = dataclasses.replace(NETWORK, labels=("cat", "dog"))
    config = dataclasses.replace(CONFIG, network=network)
    state, images = dataclasses.replace(knowing(config), step=jnp.int32(number)), pictures()
    numbers = jnp.array([0, 1, -1, 0, 1, 1, 0, -1])
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    lightness, true = jax.jit(step.examples, static_argnums=0)(config, key, images)

    def of_network(params):
        output, label_logits = model.predict(params, network, lightness)
        value = step.colour_loss(config, output, true, state.rarity).mean()
        value += loss.label_cross_entropy(label_logits, numbers).mean()
        judged = gan.adversarial_loss(config, state.critic, lightness, true, output)
        return value + config.critic_weight * judged

    def of_critic(critic):
        output = model.apply(state.params, network, lightness)
        predicted = gan.decoded(config, output)
        value = gan.critic_objective(config, critic, lightness, true, predicted)
        penalty = gan.gradient_penalty(config, critic, lightness, true)
        return value + (number == 16) * 16 * penalty

    wanted = jax.jit(jax.grad(of_network))(state.params), jax.jit(jax.grad(of_critic))(state.critic)
    after, _ = gan.train_step(config, state, images, numbers)
    # The first moments of Adam after one step are the gradients, times 1 − b1.
    kind, found = optax.ScaleByAdamState, (after.moments, after.critic_moments)
    moments = jax.tree.leaves(found, is_leaf=lambda part: isinstance(part, kind))
    moments = [part for part in moments if isinstance(part, kind)]
    for gradient, moment, rest in zip(wanted, moments, (0.1, 0.5), strict=True):
        size = float(optax.tree.norm(gradient))
        assert size > 1e-3
        apart = optax.tree.sub(gradient, optax.tree.scale(1 / rest, moment.mu))
        assert float(optax.tree.norm(apart)) < 1e-4 * size


def test_two_devices_equal_one_and_the_average_begins_anew():
    config, images = dataclasses.replace(CONFIG, adversarial=0.5, size=16), pictures(8, 18)
    states = []
    for devices in (1, 2):
        whole, split = step.placement(devices)
        state = dataclasses.replace(knowing(config), step=jnp.int32(48), **step.steps(config, 96))
        old = jax.tree.map(lambda p: p + 1, state.params)
        state = jax.device_put(dataclasses.replace(state, ema=old), whole)
        for _ in range(2):
            state, _ = gan.train_step(config, state, jax.device_put(images, split))
        states.append(jax.device_get((state.params, state.critic, state.ema)))
    # But for rounding, which Adam magnifies where gradients are near zero.
    apart = jax.tree.map(lambda a, b: float(np.abs(a - b).mean()), *states)
    assert max(jax.tree.leaves(apart)) < 0.02 * config.critic_lr
    params, _, ema = states[0]
    # It was 1 away: the phase's first step leaves a tenth of that, the second two elevenths.
    left = jax.tree.leaves(jax.tree.map(lambda e, p: np.abs(e - p).max(), ema, params))
    assert 0.015 < max(left) < 0.025
    # Beyond the end nothing is learnt, nor unlearnt: so a step can be timed before its length is
    # known.
    end = jax.device_put(step.steps(config, 2) | {"step": jnp.int32(500)}, whole)
    state = dataclasses.replace(state, **end)
    state, _ = gan.train_step(config, state, jax.device_put(images, split))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), states[1][0])


def trained_critic(true, predicted, lightness, steps=80):
    """What a critic's loss comes to that sees the same pictures again and again."""
    critic = model.init(0, NETWORK, critic=True)
    optimizer = optax.adam(1e-3)

    @jax.jit
    def once(critic, moments):
        value, gradient = jax.value_and_grad(gan.critic_objective, argnums=1)(
            CONFIG, critic, lightness, true, predicted
        )
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(critic, updates), moments, value

    moments = optimizer.init(critic)
    for _ in range(steps):
        critic, moments, value = once(critic, moments)
    return float(value)


def test_the_critic_cannot_win_on_blur():
    """Colours finer than a network can say are in no picture that the critic sees."""
    images = pictures(16)
    key = jax.random.key(0)
    crops = augment.random_crops(key, images, CONFIG.size)
    lab = jnp.asarray(np.asarray(step.color.rgb_to_lab(crops)))
    lightness = lab[..., 0]
    blocks = lab.reshape(16, 8, 4, 8, 4, 3).mean((2, 4), keepdims=True)
    blurred = jnp.broadcast_to(blocks, (16, 8, 4, 8, 4, 3)).reshape(lab.shape)[..., 1:]
    blurred = step.color.fit_gamut(jnp.concatenate([lightness[..., None], blurred], axis=-1))
    true, smooth = (step.reduced(CONFIG, lightness, rgb)[..., 1:] for rgb in (crops, blurred))
    assert jnp.abs(true - smooth).mean() < 0.5  # what is left is the gamut's edge
    assert trained_critic(true, smooth, lightness) > 1.9  # 2 is no idea
    assert trained_critic(true, 0.5 * true, lightness) < 1.7  # one that can be told


def test_gradient_penalty_is_that_of_differences():
    config = dataclasses.replace(CONFIG, size=16)
    critic = knowing(config).critic
    random = np.random.default_rng(0)
    lightness = jnp.asarray(random.uniform(20, 80, (1, 16, 16)), jnp.float32)
    true = jnp.asarray(random.normal(0, 20, (1, 4, 4, 2)), jnp.float32)

    def scores(ab):
        return float(model.judge(critic, NETWORK, lightness, ab, jnp.float32)[0].sum())

    slopes = []
    for place in np.ndindex(true.shape):
        step_up = jnp.zeros_like(true).at[place].set(0.5)
        slopes.append(50 * (scores(true + step_up) - scores(true - step_up)))
    wanted = gan.R1_WEIGHT / 2 * np.sum(np.square(slopes)) / 16  # over 16 places
    found = float(gan.gradient_penalty(config, critic, lightness, true))
    assert found == pytest.approx(wanted, rel=0.02)


def test_losses_by_hand():
    true, predicted = jnp.array([[2.0, 0.5]]), jnp.array([[-3.0, 0.0]])
    assert float(loss.hinge(true, predicted)) == pytest.approx(0.25 + 0.5)
    layers = [jnp.ones((2, 3)), jnp.zeros((1, 4))]
    others = [jnp.full((2, 3), 3.0), jnp.full((1, 4), -1.0)]
    assert float(loss.feature_matching(layers, others)) == pytest.approx(1.5)


def test_it_makes_colours_bolder():
    """Colours that lightness does not tell: squared error answers with their mean, a critic not."""

    def of_two_colours(number):
        random = np.random.default_rng(number)
        ab = np.where(random.random((16, 1, 1, 1)) < 0.5, [45, 30], [-5, -35])
        ab = np.broadcast_to(ab, (16, 18, 18, 2))
        lab = np.concatenate([55 + random.normal(0, 3, (16, 18, 18, 1)), ab], axis=-1)
        rgb = step.color.fit_gamut(jnp.asarray(lab, jnp.float32))
        return np.asarray(255 * rgb).astype(np.uint8)

    base = step.StepConfig(NetworkConfig("unet", 16), size=16, film=0, ageing=0, lr=2e-3)
    chroma = []
    for share in (0.0, 1.0):
        config = dataclasses.replace(base, adversarial=share, critic_weight=4.0, critic_lr=2e-3)
        train_step = gan.train_step if share else step.train_step
        state = step.create_state(config, 120)
        for number in range(120):
            state, result = train_step(config, state, of_two_colours(number))
            assert np.isfinite(float(result["loss"]))
        images = of_two_colours(999)
        _, ab, _ = step.evaluate(config, state.ema, state.rarity, images, np.zeros(1))
        chroma.append(float(jnp.linalg.norm(ab[0], axis=-1).mean()))
    assert chroma[0] < 25 and chroma[1] > 1.3 * chroma[0]


GAN = ["--preset", "gan", "--adversarial", "0.5", "--steps", "8", "--validate-every", "2"]


@pytest.fixture(scope="module")
def whole(photographs, tmp_path_factory):
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert train.main(command(photographs, out, *GAN)) == 0
    return out


@pytest.mark.parametrize("at", [2, 5])
def test_a_run_resumes_in_both_phases(whole, photographs, tmp_path, monkeypatch, at):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, at)
        assert train.main(command(photographs, out, *GAN)) == 130
    assert train.main(["--out", str(out), "--resume"]) == 0
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(weights(out)[name], value)
    lines = log(out)
    assert ["critic" in line for line in lines if "loss" in line] == 4 * [False] + 4 * [True]
    same = [line for line in log(whole) if "psnr" in line]
    assert [line for line in lines if "psnr" in line] == same
    # The best of the adversarial phase is kept, whatever came before it.
    *_, summary = checkpoint.read_header(out / "weights.safetensors")
    assert summary["step"] >= 4


def test_it_starts_from_weights_of_the_same_network(whole, photographs, tmp_path, capsys):
    out = tmp_path / "gan"
    options = ("--preset", "gan", "--init", str(whole / "weights.safetensors"), "--steps", "2")
    assert train.main(command(photographs, out, *options)) == 0
    assert all("critic" in line for line in log(out) if "loss" in line)
    said = capsys.readouterr().out
    assert "the last 2 beside a critic" in said and "AuC" in said
    started = checkpoint.read_header(whole / "weights.safetensors")[2]
    # What it starts from is measured first: it may be the best that it comes to.
    first, best = (
        log(out)[0],
        -min(4 * abs(1 - x["colorfulness"]) - x["auc"] for x in log(out) if "psnr" in x),
    )
    assert first["step"] == 0 and first["psnr"] == started["psnr"]
    summary = checkpoint.read_header(out / "weights.safetensors")[2]
    found = summary["auc"] - 4 * abs(1 - summary["colorfulness"])
    assert found == pytest.approx(best, abs=1e-6)
    argv = command(photographs, tmp_path / "other", *options, "--width", "32")
    refused(capsys, train.main, argv, "width 16", "--width")
    assert not (tmp_path / "other").exists()


def test_patience_waits_for_colours_in_the_last_phase(photographs, tmp_path, monkeypatch, capsys):
    """In the first phase it does not wait; in the last, neither loss nor PSNR count."""
    measure, losses = validation.Validation.measure, iter(range(100, 0, -1))

    def the_same_colours(*rest):
        fixed = {"colorfulness": 0.5, "auc": 80.0, "validation_loss": float(next(losses))}
        return dataclasses.replace(measure(*rest), **fixed)

    monkeypatch.setattr(validation.Validation, "measure", the_same_colours)
    out = tmp_path / "run"
    options = [*GAN[:4], "--steps", "20", "--validate-every", "1", "--patience", "3"]
    assert train.main(command(photographs, out, *options)) == 0
    said = capsys.readouterr().out
    assert "no improvement in 3 validations" in said and "4·|1 − colourfulness| − AuC: -78" in said
    assert [line["step"] for line in log(out) if "psnr" in line] == list(range(1, 14))
    assert checkpoint.read_header(out / "weights.safetensors")[2]["step"] == 10  # where it began
    assert train.main(["--out", str(out), "--resume"]) == 0  # nothing left to do
    assert [line["step"] for line in log(out) if "psnr" in line] == list(range(1, 14))


def test_the_phases_learning_rates():
    """The first falls to nothing at its end; in the last the network's rate rises, then falls."""
    config = dataclasses.replace(CONFIG, adversarial=0.5, size=16, clip=1.0)
    images, critic_lr = pictures(8, 18), CONFIG.critic_lr
    assert float(step.learning_rate(config, jnp.int32(99), jnp.int32(100))) < 1e-3 * config.lr
    for number, of_network, of_critic in ((100, 0, 1), (105, 0.5 * 0.95, 0.95), (150, 0.5, 0.5)):
        state = dataclasses.replace(knowing(config), step=jnp.int32(number))
        state = dataclasses.replace(state, **step.steps(config, 200))
        before = jax.tree.map(jnp.copy, (state.params, state.critic))
        after, _ = gan.train_step(config, state, images)
        moved = jax.tree.map(
            lambda a, b: float(jnp.abs(a - b).max()), (after.params, after.critic), before
        )
        network, critic = (max(jax.tree.leaves(part)) for part in moved)
        # The first step of Adam is its rate long, and a kernel's weight decays beside it.
        assert network == pytest.approx(of_network * critic_lr / 4, rel=0.1)
        assert critic == pytest.approx(of_critic * critic_lr, rel=0.1)


def test_multiplied_colours_are_no_better():
    """Bolder colours count, but not if they are merely multiplied: they are farther away."""
    found = validation.Measured(np.zeros(0), 4.5, 23.4, 23.3, 0.54, 1, 1, 89.6, None, None, 22, 23)
    assert found.badness(adversarial=False) == 4.5
    assert found.badness(adversarial=True) == pytest.approx(4 * 0.46 - 89.6)


def test_its_options_are_checked(photographs, tmp_path, capsys):
    argv = command(photographs, tmp_path / "out", "--preset", "gan", "--adversarial", "1")
    refused(capsys, train.main, argv, "--adversarial 1", "--init")
    argv += ["--init", str(tmp_path / "none.safetensors")]
    refused(capsys, train.main, [*argv, "--lr", "1e-5"], "--lr", "--critic-lr")
    given = {"preset": "gan", "init": "weights.safetensors"}
    assert config.resolve(given).epochs == pytest.approx(0.1 * config.TrainConfig.epochs)
    assert config.resolve(given | {"epochs": 2.0}).epochs == 2
    some = config.resolve(given | {"adversarial": 0.1})  # ordinary training first, in full
    assert (some.adversarial, some.epochs) == (0.1, config.TrainConfig.epochs)
    assert config.resolve({"preset": "gan"}).epochs == config.TrainConfig.epochs


def test_a_critic_scores_each_eighth_of_lightness():
    critic = model.init(0, NETWORK, critic=True)
    scores, features = model.judge(
        critic, NETWORK, jnp.zeros((2, 32, 48)), jnp.zeros((2, 8, 12, 2)), jnp.float32
    )
    assert scores.shape == (2, 4, 6) and features[0].shape == (2, 8, 12, 64)
    assert float(jnp.abs(scores).max()) == 0  # no opinion yet
