import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import picture

from colorjax import color, data, metrics, model, palette, step, validation
from colorjax.config import TrainConfig
from colorjax.data import Pool
from colorjax.palette import Decoding

CONFIG = TrainConfig(network="unet", head="ab", width=16, size=32, colorfulness=0.0)


@pytest.fixture(scope="module")
def pool():
    images = np.stack([picture(number, 36, 36) for number in range(6)])
    return Pool(images, np.arange(6, dtype=np.uint64), [str(n) for n in range(6)], {}, "", Path())


def make(pool, target=0.0, rows=6, config=CONFIG):
    config = dataclasses.replace(config, colorfulness=target)
    mean, histogram = data.color_statistics(pool, np.arange(rows))
    weights = palette.bin_weights(histogram)
    return validation.Validation(config, pool, np.arange(rows), mean, weights)


def muted(pool, factor):
    """An answer in place of a network's: the truth with less of its colour."""
    truth = validation.downsampled_truth(CONFIG, pool.images)[..., 1:]
    return lambda params: (0.1, factor * np.asarray(truth), None)


def test_baselines_are_those_of_a_hand(pool):
    held_out = make(pool)
    truth = validation.centre_crops(pool.images, 32)
    lightness = color.lightness(truth)
    for ab, measured in (
        (np.zeros(2), held_out.psnr_grey),
        (
            np.asarray(color.rgb_to_lab(pool.images / np.float32(255))[..., 1:]).mean((0, 1, 2)),
            held_out.psnr_constant,
        ),
    ):
        everywhere = np.broadcast_to(ab, (6, 32, 32, 2)).astype(np.float32)
        lab = np.concatenate([lightness[..., None], everywhere], axis=-1)
        answer = np.round(255 * np.asarray(color.fit_gamut(lab))) / 255
        assert measured == pytest.approx(float(metrics.psnr(answer, truth).mean()), abs=0.01)


def test_a_new_network_answers_as_grey_does(pool):
    held_out = make(pool)
    measured = held_out.measure(model.init(0, CONFIG.network_config), samples=2)
    assert measured.psnr == pytest.approx(held_out.psnr_grey, abs=0.01)
    assert measured.colorfulness < 0.02 and measured.samples.shape == (2, 32, 32, 3)
    assert measured.decoding == Decoding(working_size=48)
    assert "samples" not in measured.figures() and measured.figures()["saturation"] == 1


@pytest.mark.parametrize("target", [0.3, 0.8])
def test_calibration_reaches_the_colourfulness_asked_for(pool, target, monkeypatch):
    held_out = make(pool, target)
    monkeypatch.setattr(held_out, "predict", muted(pool, 0.4))
    measured = held_out.measure({})
    # Half of chroma is half of colourfulness, as nearly as opponents are linear in ab.
    assert measured.colorfulness == pytest.approx(0.4, abs=0.08)
    assert measured.decoding.saturation == pytest.approx(target / 0.4, rel=0.2)
    lab = np.array(validation.downsampled_truth(CONFIG, pool.images))
    lab[..., 1:] *= 0.4 * measured.decoding.saturation
    reached = color.colorfulness(color.fit_gamut(lab), absolute=True).mean()
    lab = validation.downsampled_truth(CONFIG, pool.images)
    truth = color.colorfulness(color.fit_gamut(lab), absolute=True).mean()
    assert reached / truth == pytest.approx(target, abs=0.01)
    better = measured.psnr_calibrated > measured.psnr
    assert better == (target > 0.4)  # nearer to the truth is better, and away from it worse


def test_colours_are_taken_from_all_over_the_pool():
    """Of 5,000 photographs 4,096 are looked at, the last among them."""
    images = np.zeros((5000, 4, 4, 3), np.uint8)
    images[4500:, ..., 0] = 255  # a tenth of them are red, and come last
    mean, histogram = data.color_statistics(SimpleNamespace(images=images), np.arange(5000))  # type: ignore
    assert histogram.sum() == 4096 * 16
    assert histogram.max() / histogram.sum() == pytest.approx(0.9, abs=0.01) and mean[0] > 7


def test_saturation_of_a_network_without_colour_stays_within_bounds(pool):
    measured = make(pool, 0.6).measure(model.init(0, CONFIG.network_config))
    assert measured.decoding.saturation == validation.MAX_SATURATION


def test_filling_the_last_batch_changes_nothing(pool, monkeypatch):
    config = dataclasses.replace(CONFIG, head="bins")
    params = step.create_state(config).params
    whole = make(pool, 0.6, config=config)
    monkeypatch.setattr(validation, "_BATCH", 4)  # six photographs: two batches, two filled up
    parts = make(pool, 0.6, config=config)
    assert parts.truth.shape == whole.truth.shape
    one, other = whole.predict(params), parts.predict(params)
    assert one[1].shape == (6, 8, 8, 2)
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    np.testing.assert_allclose(one[1], other[1], atol=1e-3)
