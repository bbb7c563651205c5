import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import color as reference

from colorjax import color

# Bruce Lindbloom's equations under D65 (his matrix is rounded to 7 digits, hence 1e-3): the bars
# of a colour test card, sRGB and Lab.
BARS = {
    (255, 255, 255): (100.0, 0.0, 0.0),
    (255, 255, 0): (97.1393, -21.5537, 94.4780),
    (0, 255, 255): (91.1132, -48.0875, -14.1312),
    (0, 255, 0): (87.7347, -86.1827, 83.1793),
    (255, 0, 255): (60.3242, 98.2343, -60.8249),
    (255, 0, 0): (53.2408, 80.0925, 67.2032),
    (0, 0, 255): (32.2970, 79.1875, -107.8602),
    (0, 0, 0): (0.0, 0.0, 0.0),
}


def random_lab(count: int, reach: float) -> np.ndarray:
    random = np.random.default_rng(0)
    lab = random.uniform((0, -reach, -reach), (100, reach, reach), (count, 3))
    return lab.astype(np.float32)


def test_all_8_bit_colours_survive_the_round_trip():
    @jax.jit
    def changed(red):
        green, blue = jnp.mgrid[0:256, 0:256]
        rgb = jnp.stack([jnp.full((256, 256), red), green, blue], axis=-1)
        back = jnp.round(255 * color.lab_to_rgb(color.rgb_to_lab(rgb / 255.0)))
        return (back != rgb).sum()

    assert sum(int(changed(red)) for red in range(256)) == 0


@pytest.mark.parametrize(("rgb", "lab"), BARS.items())
def test_lindbloom_bars(rgb, lab):
    np.testing.assert_allclose(color.rgb_to_lab(jnp.array(rgb) / 255.0), lab, atol=1e-3)


def test_agrees_with_scikit_image():
    rgb = np.random.default_rng(0).uniform(size=(1000, 3)).astype(np.float32)
    # scikit-image's matrix is rounded, so that its white is tinted by 0.005.
    np.testing.assert_allclose(color.rgb_to_lab(jnp.array(rgb)), reference.rgb2lab(rgb), atol=0.02)


def test_greys_are_neutral_and_agree():
    grey = jnp.arange(256) / 255.0
    lab = color.rgb_to_lab(jnp.stack([grey] * 3, axis=-1))
    np.testing.assert_allclose(lab[:, 1:], 0, atol=1e-4)  # float32 rounding of values near 1
    np.testing.assert_allclose(color.grey_lightness(grey), lab[:, 0], atol=1e-4)
    np.testing.assert_allclose(color.lightness(jnp.stack([grey] * 3, -1)), lab[:, 0], atol=1e-4)


@pytest.mark.parametrize(("top", "limit"), [(255, 0.5), (65535, 0.01)])
def test_fit_gamut_keeps_lightness_after_rounding(top, limit):
    lab = random_lab(1_000_000, 150)
    outside = (np.abs(color.lab_to_rgb(lab) - 0.5).max(-1) > 0.5).mean()
    assert outside > 0.5  # most of them have to be moved
    rgb = jax.jit(color.fit_gamut)(lab)
    assert rgb.min() >= 0 and rgb.max() <= 1
    lightness = color.lightness(jnp.round(top * rgb) / top)
    assert np.abs(lightness - lab[:, 0]).max() < limit


def test_fit_gamut_leaves_colours_inside_alone():
    rgb = np.random.default_rng(0).uniform(size=(10_000, 3)).astype(np.float32)
    np.testing.assert_allclose(color.fit_gamut(color.rgb_to_lab(rgb)), rgb, atol=2e-5)


def test_fit_gamut_keeps_the_hue_in_linear_light():
    lab = jnp.array([60.0, 120.0, 20.0])
    linear = color.srgb_to_linear(color.lab_to_rgb(lab))
    fitted = color.srgb_to_linear(color.fit_gamut(lab))
    luminance = ((60 + 16) / 116) ** 3
    moved, wanted = fitted - luminance, linear - luminance
    cosine = moved @ wanted / (jnp.linalg.norm(moved) * jnp.linalg.norm(wanted))
    assert cosine > 1 - 1e-5


@pytest.mark.parametrize(
    "function", [color.rgb_to_lab, color.lab_to_rgb, color.fit_gamut, color.lightness]
)
def test_gradients_are_finite_everywhere(function):
    corners = jnp.stack(jnp.meshgrid(*[jnp.array([0.0, 0.5, 1.0])] * 3), -1).reshape(-1, 3)
    points = jnp.concatenate([corners, corners * 100, random_lab(1000, 150)])
    gradient = jax.grad(lambda x: function(x).sum())(points)
    assert jnp.isfinite(gradient).all()


def test_any_leading_shape():
    lab = random_lab(24, 60)
    rows = color.fit_gamut(lab)
    folded = color.fit_gamut(lab.reshape(2, 3, 4, 3)).reshape(-1, 3)
    np.testing.assert_allclose(folded, rows, atol=1e-6)  # float32 rounding
    np.testing.assert_allclose(color.fit_gamut(lab[0]), rows[0], atol=1e-6)


def test_colorfulness_by_hand():
    # Half the picture pure red, half pure green: r-g is ±255, 0.5(r+g)-b is 127.5.
    rgb = np.zeros((4, 4, 3), np.float32)
    rgb[:2, :, 0] = rgb[2:, :, 1] = 1
    assert color.colorfulness(jnp.array(rgb)) == pytest.approx(255 + 0.3 * 127.5, rel=1e-5)
    absolute = 0 + 0.3 * np.hypot(255, 127.5)
    assert color.colorfulness(jnp.array(rgb), absolute=True) == pytest.approx(absolute, rel=1e-5)
    assert color.colorfulness(jnp.full((4, 4, 3), 0.3)) == pytest.approx(0, abs=1e-4)
