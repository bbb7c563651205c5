import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import color as reference_color
from skimage import metrics as reference

from colorjax import color, metrics, palette

# Sharma, Wu and Dalal 2005, table 1: L a b of both colours, and ΔE₀₀.
SHARMA = np.array(
    [
        (50.0000, 2.6772, -79.7751, 50.0000, 0.0000, -82.7485, 2.0425),
        (50.0000, 3.1571, -77.2803, 50.0000, 0.0000, -82.7485, 2.8615),
        (50.0000, 2.8361, -74.0200, 50.0000, 0.0000, -82.7485, 3.4412),
        (50.0000, -1.3802, -84.2814, 50.0000, 0.0000, -82.7485, 1.0000),
        (50.0000, -1.1848, -84.8006, 50.0000, 0.0000, -82.7485, 1.0000),
        (50.0000, -0.9009, -85.5211, 50.0000, 0.0000, -82.7485, 1.0000),
        (50.0000, 0.0000, 0.0000, 50.0000, -1.0000, 2.0000, 2.3669),
        (50.0000, -1.0000, 2.0000, 50.0000, 0.0000, 0.0000, 2.3669),
        (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0009, 7.1792),
        (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0010, 7.1792),
        (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0011, 7.2195),
        (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0012, 7.2195),
        (50.0000, -0.0010, 2.4900, 50.0000, 0.0009, -2.4900, 4.8045),
        (50.0000, -0.0010, 2.4900, 50.0000, 0.0010, -2.4900, 4.8045),
        (50.0000, -0.0010, 2.4900, 50.0000, 0.0011, -2.4900, 4.7461),
        (50.0000, 2.5000, 0.0000, 50.0000, 0.0000, -2.5000, 4.3065),
        (50.0000, 2.5000, 0.0000, 73.0000, 25.0000, -18.0000, 27.1492),
        (50.0000, 2.5000, 0.0000, 61.0000, -5.0000, 29.0000, 22.8977),
        (50.0000, 2.5000, 0.0000, 56.0000, -27.0000, -3.0000, 31.9030),
        (50.0000, 2.5000, 0.0000, 58.0000, 24.0000, 15.0000, 19.4535),
        (50.0000, 2.5000, 0.0000, 50.0000, 3.1736, 0.5854, 1.0000),
        (50.0000, 2.5000, 0.0000, 50.0000, 3.2972, 0.0000, 1.0000),
        (50.0000, 2.5000, 0.0000, 50.0000, 1.8634, 0.5757, 1.0000),
        (50.0000, 2.5000, 0.0000, 50.0000, 3.2592, 0.3350, 1.0000),
        (60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644),
        (63.0109, -31.0961, -5.8663, 62.8187, -29.7946, -4.0864, 1.2630),
        (61.2901, 3.7196, -5.3901, 61.4292, 2.2480, -4.9620, 1.8731),
        (35.0831, -44.1164, 3.7933, 35.0232, -40.0716, 1.5901, 1.8645),
        (22.7233, 20.0904, -46.6940, 23.0331, 14.9730, -42.5619, 2.0373),
        (36.4612, 47.8580, 18.3852, 36.2715, 50.5065, 21.2231, 1.4146),
        (90.8027, -2.0831, 1.4410, 91.1528, -1.6435, 0.0447, 1.4441),
        (90.9257, -0.5406, -0.9208, 88.6381, -0.8985, -0.7239, 1.5381),
        (6.7747, -0.2908, -2.4247, 5.8714, -0.0985, -2.2286, 0.6377),
        (2.0776, 0.0795, -1.1350, 0.9033, -0.0636, -0.5514, 0.9082),
    ]
)


rgb_to_lab = jax.jit(color.rgb_to_lab)
distance_histogram = jax.jit(metrics.distance_histogram)
ssim = jax.jit(metrics.ssim)
ciede2000 = jax.jit(metrics.ciede2000)


def pictures(seed: int, count: int = 3, height: int = 40, width: int = 56) -> jax.Array:
    """Smooth scenes with some noise, `N H W 3` in 0…1, in 8-bit steps as the protocol has it."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 10
    phases = random.uniform(0, 6, (count, 1, 1, 3))
    waves = 0.5 + 0.4 * np.sin(x[..., None] + phases) * np.cos(y[..., None] - phases)
    rgb = np.clip(waves + random.normal(0, 0.03, waves.shape), 0, 1)
    return jnp.asarray(np.round(255 * rgb) / 255, jnp.float32)


def test_psnr_by_hand():
    truth = jnp.full((2, 4, 5, 3), 0.5)
    # Off by 0.1 everywhere: 20 dB. One pixel's one channel of 60 values off by 0.5:
    # 10 log₁₀(60 / 0.25) = 23.8021 dB. Together: 10 log₁₀(2 / (0.01 + 0.25 / 60)) = 21.4976 dB.
    prediction = jnp.stack([truth[0] + 0.1, truth[1].at[2, 3, 1].set(1.0)])
    # Float32 keeps 0.6 − 0.5 to 1e-6 of itself: 1e-5 dB.
    found = jax.jit(metrics.psnr)(prediction, truth)
    np.testing.assert_allclose(found, (20, 23.80211), atol=1e-4)
    np.testing.assert_allclose(
        metrics.mean_squared_error(prediction, truth), (0.01, 0.25 / 60), rtol=1e-5
    )
    assert np.isinf(metrics.psnr(truth, truth)).all()


def test_psnr_against_scikit_image():
    prediction, truth = pictures(0), pictures(1)
    expected = [
        reference.peak_signal_noise_ratio(np.asarray(t, float), np.asarray(p, float), data_range=1)
        for p, t in zip(prediction, truth, strict=True)
    ]
    # Float32 sums of 6,720 squares.
    np.testing.assert_allclose(metrics.psnr(prediction, truth), expected, atol=1e-4)


def test_ssim_of_flat_pictures_by_hand():
    # No variance: (2 · 0.2 · 0.6 + 0.0001) / (0.04 + 0.36 + 0.0001) = 0.2401 / 0.4001.
    dark, light = jnp.full((12, 11, 3), 0.2), jnp.full((12, 11, 3), 0.6)
    # Float32 variances of a flat picture are off by 1e-8, against 0.0009: 1e-5.
    np.testing.assert_allclose(ssim(dark, light), 0.2401 / 0.4001, rtol=1e-4)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.3])
def test_ssim_against_scikit_image(noise):
    truth = pictures(1)
    random = np.random.default_rng(2)
    prediction = jnp.clip(truth + jnp.asarray(random.normal(0, noise, truth.shape)), 0, 1)
    expected = [
        reference.structural_similarity(
            p.astype(float),
            t.astype(float),
            data_range=1,
            channel_axis=-1,
            sigma=1.5,
            gaussian_weights=True,
            use_sample_covariance=False,
        )
        for p, t in zip(prediction, truth, strict=True)
    ]
    # The reference reckons in float64; float32 moments are off by 1e-7, against constants of 1e-4.
    np.testing.assert_allclose(ssim(prediction, truth), expected, atol=1e-5)


def test_ssim_says_what_is_too_small():
    small = jnp.zeros((10, 30, 3))
    with pytest.raises(ValueError, match=r"\(10, 30, 3\) have less than 11 rows"):
        metrics.ssim(small, small)


def test_ciede2000_on_the_published_pairs():
    lab1, lab2 = jnp.asarray(SHARMA[:, :3]), jnp.asarray(SHARMA[:, 3:6])
    # Published to four digits, 5e-5, and float32's own rounding.
    for function in (metrics.ciede2000, ciede2000):
        np.testing.assert_allclose(function(lab1, lab2), SHARMA[:, 6], atol=1e-4)
        np.testing.assert_allclose(function(lab2, lab1), SHARMA[:, 6], atol=1e-4)
    theirs = reference_color.deltaE_ciede2000(SHARMA[:, :3], SHARMA[:, 3:6])
    np.testing.assert_allclose(theirs, SHARMA[:, 6], atol=1e-4)


def test_ciede2000_against_scikit_image():
    random = np.random.default_rng(0)
    lab1, lab2 = random.uniform((0, -110, -110), (100, 110, 110), (2, 20000, 3))
    near = lab1 + random.normal(0, 1, lab1.shape)
    for other in (lab2, near):
        expected = reference_color.deltaE_ciede2000(lab1, other)
        # Colours of chroma 150 with hues good to 1e-4°: up to 3e-4.
        found = ciede2000(jnp.asarray(lab1), jnp.asarray(other))
        np.testing.assert_allclose(found, expected, atol=3e-4)
        assert np.abs(found - expected).mean() < 5e-5


def test_ciede2000_is_finite_and_0_only_for_equal_colours():
    values = np.array([-128, -1e-20, -0.0, 0.0, 1e-20, 50, 128], np.float32)
    ab = np.stack(np.meshgrid(values, values), axis=-1).reshape(-1, 2)
    lab = np.concatenate([np.repeat([[0], [50], [100]], len(ab), 0), np.tile(ab, (3, 1))], axis=1)
    lab = jnp.asarray(lab, jnp.float32)
    first, second = jnp.broadcast_arrays(lab[:, None], lab[None])
    difference = ciede2000(first, second)
    assert np.isfinite(difference).all() and (difference >= 0).all()
    np.testing.assert_array_equal(jnp.diagonal(difference), 0)
    # A zero's sign is no colour: grey against green is the same from −0 and from 0.
    zeros = jnp.array([[50, 0.0, 0.0], [50, -0.0, 0.0], [50, 0.0, -0.0], [50, -0.0, -0.0]])
    green = jnp.broadcast_to(jnp.array([50.0, -40.0, 20.0]), zeros.shape)
    assert len(set(metrics.ciede2000(zeros, green).tolist())) == 1


def test_distance_histogram_by_hand():
    truth = jnp.zeros((2, 3, 2))
    # Distances 0, 5, 5.1, 150, 150.3 and 250: within 0, 5, 6, 150, and twice beyond.
    prediction = jnp.array(
        [[(0, 0), (3, -4), (0, 5.1)], [(90, 120), (150.3, 0), (-200, 150)]], jnp.float32
    )
    expected = np.zeros(152)
    expected[[0, 5, 6, 150]], expected[151] = 1, 2
    found = distance_histogram(prediction, truth)
    np.testing.assert_array_equal(found, expected)
    weights = jnp.array([[1, 2, 3], [4, 5, 6]], jnp.float32)
    expected[[0, 5, 6, 150]], expected[151] = (1, 2, 3, 4), 11
    found = distance_histogram(prediction, truth, weights)
    np.testing.assert_array_equal(found, expected)


def test_auc_by_hand():
    counts = np.zeros(152)
    counts[30], counts[90] = 3, 1
    # Shares: 0 below 30, ¾ up to 89, 1 from 90 to 150. Trapezia: 60 · ¾ + 60 · 1, less what the
    # steps cut off and add, (¾ + ¼) / 2 = ½ in all: 105 + ½ of 150.
    # Float32 sums of 151 shares.
    np.testing.assert_allclose(jax.jit(metrics.auc)(counts), 100 * 105.5 / 150, rtol=1e-5)
    same = np.zeros(152)
    same[0] = 7
    np.testing.assert_allclose(metrics.auc(same), 100, rtol=1e-6)
    far = np.zeros(152)
    far[151] = 7
    assert metrics.auc(far) == 0


def test_auc_of_grey_is_what_the_mean_chroma_says():
    truth = rgb_to_lab(pictures(3))[..., 1:]
    chroma = jnp.linalg.norm(truth, axis=-1)
    grey = metrics.auc(distance_histogram(jnp.zeros_like(truth), truth))
    # Distances are known to 1 unit, their mean to far less: 0.05 of 150.
    np.testing.assert_allclose(grey, 100 * (1 - chroma.mean() / 150), atol=0.05)


def test_auc_adds_up_over_batches():
    truth = rgb_to_lab(pictures(3))[..., 1:]
    prediction = rgb_to_lab(pictures(4))[..., 1:]
    whole = distance_histogram(prediction, truth)
    parts = [metrics.distance_histogram(p, t) for p, t in zip(prediction, truth, strict=True)]
    np.testing.assert_array_equal(whole, np.sum(parts, axis=0))


def test_pixel_weights_balance_the_classes():
    # 90 grey pixels predicted rightly, 10 red ones predicted grey: red is at (60, 40), 72.1 away.
    truth = jnp.concatenate(
        [jnp.zeros((90, 2)), jnp.broadcast_to(jnp.array([60.0, 40.0]), (10, 2))]
    )
    counts = palette.histogram(truth)
    weights = metrics.pixel_weights(truth, counts)
    # In balance, each class has half of the weight: 100 / 180 a grey pixel, 100 / 20 a red one.
    np.testing.assert_allclose(weights[:90], 100 / 180, rtol=1e-4)
    np.testing.assert_allclose(weights[90:], 5, rtol=1e-4)
    prediction = jnp.zeros_like(truth)
    plain = metrics.auc(distance_histogram(prediction, truth))
    balanced = metrics.auc(distance_histogram(prediction, truth, weights))
    # Red is within 73 and beyond 72: 77 trapezia whole and one by half.
    np.testing.assert_allclose(plain, 90 + 10 * 77.5 / 150, rtol=1e-5)
    np.testing.assert_allclose(balanced, 50 + 50 * 77.5 / 150, rtol=1e-4)


def test_histogram_distance_by_hand():
    p, q = np.zeros(261), np.zeros(261)
    p[:2], q[1:3] = (30, 10), (2, 2)
    # ¾, ¼, 0 against 0, ½, ½: (¾ + ¼ + ½) / 2.
    np.testing.assert_allclose(jax.jit(metrics.histogram_distance)(p, q), 0.75, rtol=1e-6)
    np.testing.assert_allclose(metrics.histogram_distance(p, 3 * p), 0, atol=1e-6)
    np.testing.assert_allclose(metrics.histogram_distance(p, np.roll(p, 5)), 1, rtol=1e-6)
