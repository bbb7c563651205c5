import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import picture

from colorjax import augment, color, loss, palette, step
from colorjax.model import NetworkConfig

CONFIG = step.StepConfig(NetworkConfig("unet", 16), size=32, lr=3e-3)
VIVID = step.StepConfig(NetworkConfig("unet", 16, "bins"), size=32, lr=3e-3, film=0, ageing=0)


def photographs(count: int = 8, side: int = 36) -> np.ndarray:
    return np.stack([picture(number, side, side) for number in range(count)])


def run(config, steps, images, sharding=None, state=None):
    state = state or step.create_state(config, 100)
    losses = []
    if sharding:
        state, images = jax.device_put(state, sharding[0]), jax.device_put(images, sharding[1])
    for _ in range(steps):
        state, result = step.train_step(config, state, images)
        losses.append(float(result["loss"]))
    return state, losses


def test_loss_falls_on_one_batch():
    plain = dataclasses.replace(CONFIG, film=0.0, ageing=0.0)
    _, losses = run(plain, 60, photographs())
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_second_step_does_not_compile_anew():
    state, _ = run(CONFIG, 1, photographs())
    compiled = step.train_step._cache_size()
    run(CONFIG, 2, photographs(), state=state)
    assert step.train_step._cache_size() == compiled


def test_one_seed_gives_one_result():
    first, losses = run(CONFIG, 3, photographs())
    again, losses_again = run(CONFIG, 3, photographs())
    assert losses == losses_again
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_four_devices_equal_one():
    images = photographs()
    one, losses_one = run(CONFIG, 3, images, step.placement(1))
    four, losses_four = run(CONFIG, 3, images, step.placement(4))
    # Sums over the batch come in another order: float32 rounding, through three steps of Adam,
    # which divides by a gradient's size and so magnifies the rounding of near-zero gradients.
    np.testing.assert_allclose(losses_one, losses_four, rtol=1e-4)
    averages = jax.device_get((one.ema, four.ema))
    differences = jax.tree.map(lambda a, b: float(np.abs(a - b).mean()), *averages)
    assert max(jax.tree.leaves(differences)) < 0.02 * CONFIG.lr


def test_too_many_devices_are_refused():
    with pytest.raises(ValueError, match="--devices 99"):
        step.placement(99)


def test_learning_rate_warms_up_and_ends_at_zero():
    rates = [float(step.learning_rate(CONFIG, jnp.int32(k), jnp.int32(1000))) for k in range(1001)]
    assert rates[0] == pytest.approx(CONFIG.lr / 20) and max(rates) == pytest.approx(CONFIG.lr)
    assert rates[20:] == sorted(rates[20:], reverse=True) and rates[1000] == pytest.approx(0)


def test_ema_forgets_its_start():
    state, _ = run(CONFIG, 30, photographs())
    start = step.create_state(CONFIG)
    moved = jax.tree.map(lambda p, s: jnp.abs(p - s).sum(), state.params, start.params)
    behind = jax.tree.map(lambda p, e: jnp.abs(p - e).sum(), state.params, state.ema)
    assert sum(jax.tree.leaves(behind)) < 0.7 * sum(jax.tree.leaves(moved))


def test_prediction_keeps_lightness():
    state, _ = run(CONFIG, 10, photographs())
    losses, ab, _ = step.evaluate(CONFIG, state.params, state.rarity, photographs(), np.zeros(1))
    assert losses.shape == (8,) and ab.shape == (1, 8, 8, 8, 2)
    truth = step.centre_crops(photographs(), CONFIG.size)
    prediction = step.colour_up(color.lightness(truth), ab[0])
    error = jnp.abs(color.lightness(prediction) - color.lightness(truth)).max()
    assert prediction.shape == (8, 32, 32, 3) and error < 0.5


def vivid_state(images):
    histogram = palette.histogram(color.rgb_to_lab(images / 255.0)[..., 1:])
    return step.create_state(VIVID, 100, histogram=histogram)


def test_vivid_begins_with_the_frequencies_and_learns():
    images = photographs()
    state = vivid_state(images)
    start, ab, _ = step.evaluate(VIVID, state.params, state.rarity, images, np.float32([0, 1]))
    assert ab.shape == (2, 8, 8, 8, 2) and np.ptp(ab[0], (0, 1, 2)).max() < 1e-3  # one colour yet
    state, _ = run(VIVID, 60, images, state=state)
    end, ab, _ = step.evaluate(VIVID, state.params, state.rarity, images, np.float32([0, 1]))
    assert end.mean() < 0.8 * start.mean()
    # What is learnt is where which colour is; favouring rare colours is bolder.
    truth = step.reduced_truth(VIVID, images)[..., 1:]
    mean = truth.mean((0, 1, 2))
    assert jnp.abs(ab[0] - truth).mean() < 0.8 * jnp.abs(mean - truth).mean()
    assert (
        jnp.linalg.norm(ab[1] - mean, axis=-1).mean()
        > jnp.linalg.norm(ab[0] - mean, axis=-1).mean()
    )


def test_rare_colours_weigh_more():
    """Two answers equally wrong in their share of pixels: the one that misses the rare is worse."""
    common, rare = jnp.array([20.0, 30.0]), jnp.array([-40.0, 20.0])
    target = jnp.broadcast_to(common, (1, 10, 10, 2)).at[:, 0].set(rare)
    rarity = palette.bin_weights(palette.histogram(target))
    sure = 6 * palette.encode(target)
    misses_rare = sure.at[:, 0].set(0)
    misses_common = sure.at[:, 1].set(0)
    losses = [
        float(loss.cross_entropy(x, target, rarity)[0]) for x in (sure, misses_common, misses_rare)
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


def test_film_sees_a_share_of_the_pictures_otherwise():
    rgb = jnp.asarray(photographs(200)) / 255.0
    film = augment.film_lightness(jax.random.key(0), rgb, 0.3)
    changed = jnp.abs(film - color.lightness(rgb)).max((1, 2)) > 0.01
    assert 0.15 < changed.mean() < 0.45  # 0.3 of 200, four standard deviations either side
    grey = jnp.repeat(rgb[..., :1], 3, axis=-1)
    seen = augment.film_lightness(jax.random.key(0), grey, 1.0)
    # All films agree on greys, up to float32 rounding.
    np.testing.assert_allclose(seen, color.lightness(grey), atol=1e-3)


def test_ageing_befalls_and_stays_in_range():
    lightness = color.lightness(jnp.asarray(photographs(64)) / 255.0)
    np.testing.assert_array_equal(augment.age(jax.random.key(0), lightness, 0.0), lightness)
    aged = augment.age(jax.random.key(0), lightness, 1.0)
    assert jnp.isfinite(aged).all() and aged.min() >= 0 and aged.max() <= 100
    assert (jnp.abs(aged - lightness).max((1, 2)) > 1).all()


def test_true_colour_is_asked_for_at_the_networks_size():
    lightness, target = step.examples(
        dataclasses.replace(CONFIG, film=0.0, ageing=0.0), jax.random.key(0), photographs()
    )
    assert lightness.shape == (8, 32, 32) and target.shape == (8, 8, 8, 2)
    rgb = augment.random_crops(jax.random.split(jax.random.key(0), 3)[0], photographs(), 32)
    ab = color.rgb_to_lab(rgb)[..., 1:].reshape(8, 8, 4, 8, 4, 2).mean((2, 4))
    # The mean of real colours lies inside the gamut, or so near that it is hardly moved.
    assert jnp.abs(target - ab).mean() < 0.2
