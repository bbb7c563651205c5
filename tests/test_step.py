import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import picture

from colorjax import augment, color, loss, model, palette, step, validation
from colorjax.config import TrainConfig

# On a batch of eight, these are steps that other tests compile.
VIVID = TrainConfig(network="unet", width=16, size=16, dtype="float32")
CONFIG = dataclasses.replace(VIVID, head="ab", lr=2e-3)


def photographs(count: int = 8, side: int = VIVID.pool_side) -> np.ndarray:
    return np.stack([picture(number, side, side) for number in range(count)])


def run(config, steps, images, devices=1, state=None):
    whole, split = step.placement(devices)
    state = jax.device_put(state or step.create_state(config, 100), whole)
    images, losses = jax.device_put(images, split), []
    for _ in range(steps):
        state, result = step.train_step(config, state, images)
        losses.append(float(result["loss"]))
    return state, losses


def test_loss_falls_on_one_batch():
    _, losses = run(CONFIG, 60, photographs())
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_second_step_does_not_compile_anew():
    state, _ = run(CONFIG, 1, photographs())
    compiled = step.train_step._cache_size()
    run(CONFIG, 2, photographs(), state=state)
    assert step.train_step._cache_size() == compiled


@pytest.mark.parametrize("config", [CONFIG, dataclasses.replace(VIVID, matched=3.0)])
def test_four_devices_equal_one(config):
    """The error at equal colourfulness is of the whole batch, on however many devices it lies."""
    images = photographs()
    one, losses_one = run(config, 3, images)
    four, losses_four = run(config, 3, images, devices=4)
    # Sums over the batch come in another order: float32 rounding, through three steps of Adam,
    # which divides by a gradient's size and so magnifies the rounding of near-zero gradients.
    np.testing.assert_allclose(losses_one, losses_four, rtol=1e-4)
    averages = jax.device_get((one.ema, four.ema))
    differences = jax.tree.map(lambda a, b: float(np.abs(a - b).mean()), *averages)
    assert max(jax.tree.leaves(differences)) < 0.02 * config.lr


def test_devices_are_those_of_all_processes_alike(monkeypatch):
    with pytest.raises(ValueError, match="--devices 99"):
        step.placement(99)
    halves = jax.devices()[:2], jax.devices()[2:]  # stand for two processes
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "local_devices", lambda process: list(halves[process]))
    with pytest.raises(ValueError, match="--devices 1: it must be a multiple of the 2 processes"):
        step.placement(1)
    mesh = step.placement(2)[1].mesh
    assert list(mesh.devices) == [halves[0][0], halves[1][0]]


def rates(config, total):
    steps = jnp.arange(total + 1)
    return np.asarray(jax.vmap(lambda k: step.learning_rate(config, k, jnp.int32(total)))(steps))


def test_learning_rate_warms_up_and_ends_at_zero():
    cosine = rates(dataclasses.replace(CONFIG, schedule="cosine"), 1000)
    assert cosine[0] == pytest.approx(CONFIG.lr / 20) and max(cosine) == pytest.approx(CONFIG.lr)
    assert (np.diff(cosine[20:]) <= 0).all() and cosine[1000] == pytest.approx(0)


def test_a_wsd_rate_is_constant_and_falls_over_the_last_tenth():
    wsd = rates(VIVID, 1000)
    assert wsd[0] == pytest.approx(VIVID.lr / 20) and wsd[1000] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(wsd[20:900], VIVID.lr, rtol=1e-3)
    # 1 − √t, a quarter of the way.
    assert wsd[925] == pytest.approx(VIVID.lr / 2, rel=1e-3)
    assert step.trunk_steps(1000) == 900 and step.branch_steps(900) == 1000
    for done in range(1, 500):  # a branch's rate falls from where it begins
        assert done <= step.trunk_steps(step.branch_steps(done)) <= done + 1


def test_what_the_step_does_not_depend_on_does_not_compile_it_anew():
    same = dataclasses.replace(VIVID, data="photos", out="runs/x", devices=3, label_names=())
    assert same == VIVID and hash(same) == hash(VIVID)
    assert dataclasses.replace(VIVID, lr=1e-4) != VIVID


LITE = dataclasses.replace(VIVID, network="lite", optimizer="adamw", weight_decay=0.0)


def test_an_encoder_learns_at_its_own_rate_and_its_first_blocks_may_be_frozen():
    params = model.shapes(LITE.network_config)
    config = dataclasses.replace(LITE, lr=1e-3, encoder_lr=2e-4, frozen_blocks=2)
    found = step.learning_rates(config, params)
    encoder = found["encoder"]
    assert encoder["stem"]["kernel"] == encoder["blocks"][1]["expand"]["kernel"] == 0
    assert encoder["blocks"][2]["expand"]["kernel"] == pytest.approx(0.2)
    assert found["head"]["kernel"] == found["stem"]["kernel"] == 1
    # The U-Net has an encoder that is not pretrained.
    unet = step.learning_rates(VIVID, model.shapes(VIVID.network_config))
    assert set(jax.tree.leaves(unet)) == {1.0}


def test_a_frozen_encoder_stays_and_takes_no_backward_pass():
    frozen = dataclasses.replace(LITE, encoder_lr=0.0)
    images = photographs(2)
    jaxprs = [
        str(jax.make_jaxpr(lambda s, c=c: step.train_step(c, s, images))(step.create_state(c, 10)))
        for c in (LITE, frozen)
    ]
    products = [len(re.findall(r"= (?:dot_general|conv_general_dilated)\[", x)) for x in jaxprs]
    # Each of the encoder's 32 dense convolutions has two gradients, by its kernel and its input.
    assert products[0] - products[1] >= 60


def test_ema_forgets_its_start():
    state, _ = run(CONFIG, 30, photographs())
    start = step.create_state(CONFIG)
    moved = jax.tree.map(lambda p, s: jnp.abs(p - s).sum(), state.params, start.params)
    behind = jax.tree.map(lambda p, e: jnp.abs(p - e).sum(), state.params, state.ema)
    assert sum(jax.tree.leaves(behind)) < 0.7 * sum(jax.tree.leaves(moved))


def test_prediction_keeps_lightness():
    state, _ = run(CONFIG, 10, photographs())
    losses, ab, _ = validation.evaluate(CONFIG, state.params, state.bin_weights, photographs())
    assert losses.shape == (8,) and ab.shape == (8, 4, 4, 2)
    truth = validation.centre_crops(photographs(), CONFIG.size)
    prediction = validation.upsample_and_merge(color.lightness(truth), ab)
    error = jnp.abs(color.lightness(prediction) - color.lightness(truth)).max()
    assert prediction.shape == (8, 16, 16, 3) and error < 0.5


def test_vivid_begins_with_the_frequencies_and_learns():
    images = photographs()
    histogram = palette.histogram(color.rgb_to_lab(images / 255.0)[..., 1:])
    state = step.create_state(VIVID, 200, histogram=histogram)
    start, ab, _ = validation.evaluate(VIVID, state.params, state.bin_weights, images)
    assert ab.shape == (8, 4, 4, 2) and np.ptp(ab, (0, 1, 2)).max() < 1e-3  # one colour yet
    state, _ = run(VIVID, 200, images, state=state)
    end, ab, _ = validation.evaluate(VIVID, state.params, state.bin_weights, images)
    assert end.mean() < 0.8 * start.mean()
    # What is learnt is where which colour is; favouring rare colours is bolder.
    truth = validation.downsampled_truth(VIVID, images)[..., 1:]
    mean = truth.mean((0, 1, 2))
    assert jnp.abs(ab - truth).mean() < 0.8 * jnp.abs(mean - truth).mean()
    lightness = color.lightness(validation.centre_crops(images, VIVID.size))
    output = step.predict(VIVID, state.params, lightness).output
    rare = palette.Decoding(rarity_power=1.0, bin_weights=np.asarray(state.bin_weights))
    bolder = palette.decode(output, "bins", rare)
    assert (
        jnp.linalg.norm(bolder - mean, axis=-1).mean() > jnp.linalg.norm(ab - mean, axis=-1).mean()
    )


def test_rare_colours_weigh_more():
    """Two answers equally wrong in their share of pixels: the one that misses the rare is worse."""
    common, rare = jnp.array([20.0, 30.0]), jnp.array([-40.0, 20.0])
    target = jnp.broadcast_to(common, (1, 10, 10, 2)).at[:, 0].set(rare)
    weights = palette.bin_weights(palette.histogram(target))
    sure = 6 * palette.encode(target)
    misses_rare = sure.at[:, 0].set(0)
    misses_common = sure.at[:, 1].set(0)
    losses = [
        float(loss.cross_entropy(x, target, weights)[0]) for x in (sure, misses_common, misses_rare)
    ]
    assert losses[0] < losses[1] < losses[2]
    even = [
        float(loss.cross_entropy(x, target, jnp.ones(261))[0]) for x in (misses_common, misses_rare)
    ]
    assert even[0] == pytest.approx(even[1], rel=1e-5)


def test_losses_by_hand():
    """Cross-entropy of an even answer is log 261; Huber's is quadratic, then linear."""
    target = jnp.array([3.0, -4.0]).reshape(1, 1, 1, 2)
    even = loss.cross_entropy(jnp.zeros((1, 1, 1, 261)), target, jnp.full(261, 2.0))
    assert even[0] == pytest.approx(2 * np.log(261))
    assert loss.huber(target + 5.0, target)[0] == pytest.approx(0.5 * 0.5**2)
    assert loss.huber(target + 30.0, target)[0] == pytest.approx(3 - 0.5)
    assert loss.mean_squared_error(target + 64.0, target)[0] == pytest.approx(0.25)


def test_rmsprop_divides_by_the_gradients_running_size():
    config = dataclasses.replace(CONFIG, optimizer="rmsprop", weight_decay=0.0, clip=1e9)
    optimizer = step.optimizer(config)
    params, gradient = {"kernel": jnp.zeros((1, 1))}, {"kernel": jnp.full((1, 1), 4.0)}
    update, _ = optimizer.update(gradient, optimizer.init(params), params)
    # The mean square begins at 0 and has taken up a tenth of 4².
    assert update["kernel"][0, 0] == pytest.approx(4 / np.sqrt(0.1 * 16), rel=1e-4)


@pytest.mark.parametrize("mirrored", [False, True])
def test_whole_crops_are_the_picture(monkeypatch, mirrored):
    numbers = iter([1.0, 0.3, 0.7, float(mirrored)])  # as long as it can be, at any corner
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.full(shape, next(numbers)))
    image = photographs(1, 32)
    crops = augment.random_crops(jax.random.key(0), image, 32)
    np.testing.assert_allclose(crops, image[:, :, :: -1 if mirrored else 1] / 255, atol=1e-6)


def test_crops_vary_and_stay_in_range():
    images = np.repeat(photographs(1), 64, axis=0)
    crops = augment.random_crops(jax.random.key(0), images, 32)
    assert crops.shape == (64, 32, 32, 3)
    assert crops.min() >= images.min() / 255 - 1e-6 and crops.max() <= images.max() / 255 + 1e-6
    assert len(np.unique(np.asarray(crops).reshape(64, -1), axis=0)) == 64


def test_film_sees_some_pictures_otherwise():
    rgb = jnp.asarray(photographs(200)) / 255.0
    film = augment.film_lightness(jax.random.key(0), rgb, 0.3)
    changed = jnp.abs(film - color.lightness(rgb)).max((1, 2)) > 0.01
    assert 0.15 < changed.mean() < 0.45  # 0.3 of 200, four standard deviations either side
    grey = jnp.repeat(rgb[..., :1], 3, axis=-1)
    seen = augment.film_lightness(jax.random.key(0), grey, 1.0)
    # All films agree on greys, up to float32 rounding.
    np.testing.assert_allclose(seen, color.lightness(grey), atol=1e-3)


def test_degradation_shows_and_stays_in_range():
    lightness = color.lightness(jnp.asarray(photographs(64)) / 255.0)
    np.testing.assert_array_equal(augment.degrade(jax.random.key(0), lightness, 0.0), lightness)
    degraded = augment.degrade(jax.random.key(0), lightness, 1.0)
    assert jnp.isfinite(degraded).all() and degraded.min() >= 0 and degraded.max() <= 100
    assert (jnp.abs(degraded - lightness).max((1, 2)) > 1).all()


def test_true_colour_is_asked_for_at_the_networks_size():
    lightness, truth = step.make_inputs_and_targets(
        dataclasses.replace(CONFIG, film=0.0, degradation=0.0), jax.random.key(0), photographs()
    )
    assert lightness.shape == (8, 16, 16) and truth.shape == (8, 4, 4, 3)
    rgb = augment.random_crops(jax.random.split(jax.random.key(0), 3)[0], photographs(), 16)
    ab = color.rgb_to_lab(rgb)[..., 1:].reshape(8, 4, 4, 4, 4, 2).mean((2, 4))
    # The mean of real colours lies inside the gamut, or so near that it is hardly moved.
    assert jnp.abs(truth[..., 1:] - ab).mean() < 0.2
