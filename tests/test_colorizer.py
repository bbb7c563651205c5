import dataclasses
import hashlib

import jax
import numpy as np
import pytest
from conftest import picture
from PIL import Image

from colorjax import Colorizer, checkpoint, color, colorizer, model, palette
from colorjax.model import NetworkConfig
from colorjax.palette import Decoding


@pytest.fixture(scope="module")
def strong():
    """A network of strong colours, often outside the gamut, by way of a loud last layer."""
    network = NetworkConfig("unet", 16)
    params = model.init(0, network)
    loud = jax.random.normal(jax.random.key(0), params["head"]["kernel"].shape)
    params["head"]["kernel"] = 0.1 * loud
    return Colorizer(params, network, Decoding(working_size=32))


def lightness(pixels):
    values = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    return color.lightness(values) if values.ndim == 3 else color.grey_lightness(values)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (7, 5), (640, 480), (90, 701)])
def test_any_shape_keeps_size_type_and_lightness(strong, shape, channels, dtype):
    top = np.iinfo(dtype).max
    image = np.random.default_rng(0).integers(0, top + 1, (*shape, *channels)).astype(dtype)
    out = strong(image)
    assert out.shape == (*shape, 3) and out.dtype == dtype
    limit = 0.5 if dtype == np.uint8 else 0.01
    assert np.abs(lightness(out) - lightness(image)).max() < limit


def test_strips_leave_no_seam(strong, monkeypatch):
    image = picture(0, 500, 400)[..., 0]
    whole = strong(image)
    monkeypatch.setattr(colorizer, "_PIECE", 100 * 7)
    # Pillow's weights are float64, so strips agree to rounding.
    assert np.abs(strong(image).astype(int) - whole).max() <= 1


def test_a_colour_images_own_colour_is_ignored(strong):
    rgb = picture(1, 60, 80)
    grey = np.asarray(color.fit_gamut(np.stack([lightness(rgb), *np.zeros((2, 60, 80))], -1)))
    grey = np.round(65535 * grey[..., 0]).astype(np.uint16)
    coloured, from_grey = strong(rgb) / 255.0, strong(grey) / 65535.0
    # What is left: the copies were scaled as RGB and as grey, whose mean lightness differ.
    assert np.abs(coloured - from_grey).mean() < 0.01


def test_colour_lies_where_the_network_put_it():
    """ab that rises from left to right."""
    ab = np.zeros((32, 32, 2), np.float32)
    ab[..., 0] = np.linspace(-20, 20, 32)
    image = np.full((50, 200), 30000, np.uint16)
    out = Colorizer({}, NetworkConfig("paper"), Decoding(working_size=32)).merge(image, ab, (1, 1))
    out = color.rgb_to_lab(out / np.float32(65535))
    columns = np.linspace(-20, 20, 32)
    expected = np.interp((np.arange(200) + 0.5) * 32 / 200 - 0.5, np.arange(32), columns)
    # Bicubic scaling of a ramp is the ramp but near the borders.
    np.testing.assert_allclose(out[25, 10:-10, 1], expected[10:-10], atol=0.1)
    np.testing.assert_allclose(out[..., 2], 0, atol=0.1)


@pytest.mark.parametrize("size", [64, 96, 256])
def test_working_shapes_are_few_and_near(size):
    shapes, empty = set(), []
    random = np.random.default_rng(0)
    network = Colorizer({}, NetworkConfig(), Decoding(working_size=size))
    for height, width in random.integers(20, 400, (300, 2)):
        lightness, content_fraction = network.to_network_input(np.zeros((height, width), np.uint8))
        rows, columns = lightness.shape
        shapes.add((rows, columns))
        assert rows % 16 == columns % 16 == 0
        assert 0.7 < rows * columns / size**2 < 1.35
        off = np.log(columns * content_fraction[1] / (rows * content_fraction[0]) * height / width)
        # and rounding to whole pixels
        assert abs(off) < np.log(1.1) + 1 / min(
            rows * content_fraction[0], columns * content_fraction[1]
        )
        if 1 / 3 < width / height < 3:
            empty.append(1 - min(content_fraction))
    assert len(shapes) <= 9
    assert max(empty) < 0.1 + 1 / min(shapes)[0] and np.mean(empty) < 0.03


@pytest.mark.parametrize("shape", [(1, 400), (400, 1), (30, 90), (90, 30), (50, 60)])
def test_the_smallest_working_size_takes_any_shape(shape):
    network = NetworkConfig("unet", 16)
    out = Colorizer(model.init(0, network), network, Decoding(working_size=16))(
        np.full(shape, 99, np.uint8)
    )
    assert out.shape == (*shape, 3)


@pytest.mark.parametrize("shape", [(30, 2000), (2000, 30)])
def test_long_pictures_keep_their_aspect(strong, shape):
    lightness, content_fraction = strong.to_network_input(np.full(shape, 100, np.uint8))
    long = int(np.argmax(shape))
    assert content_fraction[long] == 1 and content_fraction[1 - long] < 1
    covered = [lightness.shape[axis] * content_fraction[axis] for axis in (0, 1)]
    assert covered[long] / covered[1 - long] > 0.6 * 2000 / 30  # at least a pixel across


def test_a_picture_of_pillow_is_taken_too(strong):
    image = picture(0, 30, 40)
    np.testing.assert_array_equal(strong(Image.fromarray(image)), strong(image))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.float32), "float32"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
        (np.zeros((0, 4), np.uint8), r"\(0, 4\)"),
        (np.zeros(4, np.uint8), r"\(4,\)"),
    ],
)
def test_arrays_that_are_no_pictures(strong, image, message):
    with pytest.raises(ValueError, match=message):
        strong(image)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"working_size": 5}, "working size is 5"),
        ({"working_size": 64.5}, "working size is 64.5"),
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"saturation": -1}, "saturation is -1"),
    ],
)
def test_numbers_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        Colorizer({}, NetworkConfig(), Decoding(**values))


@pytest.fixture(scope="module")
def bins():
    """A network with bins, of strong opinions that differ from place to place."""
    network = NetworkConfig("unet", 16, "bins")
    params = model.init(0, network)
    shape = params["head"]["kernel"].shape
    params["head"]["kernel"] = 2.0 * jax.random.normal(jax.random.key(0), shape)
    return params, network


def chroma(rgb):
    return float(np.linalg.norm(color.rgb_to_lab(rgb / np.float32(255))[..., 1:], axis=-1).mean())


def test_temperature_and_saturation_make_colour_bolder(bins):
    image = picture(0, 90, 120)[..., 0]
    mean, half, none, bold = (
        chroma(Colorizer(*bins, Decoding(saturation, temperature, working_size=32))(image))
        for saturation, temperature in ((1.0, 1.0), (0.5, 1.0), (0.0, 1.0), (1.0, 0.2))
    )
    assert none < 0.5 < half < 0.8 * mean and mean < bold


def test_what_the_weights_say_is_used_unless_another_is_given(bins, tmp_path):
    params, network = bins
    path, image = tmp_path / "w.safetensors", picture(0, 40, 50)[..., 0]
    header = {"kind": "unet", "width": 16, "head": "bins"}
    summary = {"size": 32, "temperature": 0.5, "saturation": 0.7}
    checkpoint.save_weights(path, params, header, summary)
    used = Decoding(saturation=0.7, temperature=0.5, working_size=48)
    assert Colorizer.load(path).decoding == used
    np.testing.assert_array_equal(
        Colorizer.load(path)(image), Colorizer(params, network, used)(image)
    )
    given = Colorizer.load(path, temperature=0.9, saturation=0.1)
    assert given.decoding == Decoding(saturation=0.1, temperature=0.9, working_size=48)
    for damaged in (
        {"temperature": -1},
        {"saturation": "much"},
        {"size": 3.5},
        {"size": "large"},
        {"rarity": 1},
        {"rarity": 1, "rarity_weights": [1.0, 2.0]},
        {"rarity": "much", "rarity_weights": [1.0] * 261},
    ):
        checkpoint.save_weights(path, params, header, summary | damaged)
        with pytest.raises(checkpoint.WeightsError, match="w.safetensors"):
            Colorizer.load(path)


def test_decoding_travels_in_the_header_and_the_parameters_stay_those_of_the_file(bins, tmp_path):
    params, network = bins
    weights = np.linspace(0.5, 2, 261).astype(np.float32)
    decoding = Decoding(1.3, 0.8, 0.5, weights, 64)
    header, path = dataclasses.asdict(network), tmp_path / "w.safetensors"
    checkpoint.save_weights(path, params, header, {"size": 32}, decoding=decoding)
    loaded = Colorizer.load(path)
    assert loaded.decoding == decoding
    # Six digits are kept of them.
    np.testing.assert_allclose(loaded.decoding.bin_weights, weights, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def test_rarity_makes_the_colours_that_were_weighted_likelier(bins, tmp_path):
    params, network = bins
    path, image = tmp_path / "w.safetensors", picture(0, 40, 50)[..., 0]
    weights = [1.0 + 4 * (a >= 30) for a, _ in palette.bins()]  # reds were the rare ones
    header, summary = {"kind": "unet", "width": 16, "head": "bins"}, {"rarity_weights": weights}
    checkpoint.save_weights(path, params, header, summary)
    plain, red, green = (
        Colorizer.load(path, rarity_power=power)(image).astype(int) for power in (None, 1, -1)
    )
    np.testing.assert_array_equal(
        plain, Colorizer(params, network, Decoding(working_size=96))(image)
    )
    redness = [(rgb[..., 0] - rgb[..., 1]).mean() for rgb in (green, plain, red)]
    assert redness[0] + 5 < redness[1] < redness[2] - 5
    checkpoint.save_weights(path, params, header, summary | {"rarity": 1})
    np.testing.assert_array_equal(Colorizer.load(path)(image), red)
    np.testing.assert_array_equal(Colorizer.load(path, rarity_power=0)(image), plain)


def test_confidence_is_high_where_one_bin_stands_out(bins):
    params, network = bins
    sure = {**params, "head": {**params["head"], "bias": params["head"]["bias"].at[7].set(200.0)}}
    analysis = Colorizer(sure, network, Decoding(working_size=32)).analyze(picture(0, 50, 60))
    assert analysis.confidence.shape == (8, 8) and analysis.confidence.min() > 0.99
    shown = colorizer.confidence_map(analysis, 50, 60)
    assert shown.shape == (50, 60) and shown.dtype == np.uint8 and shown.min() >= 253
    even = model.init(0, network)
    analysis = Colorizer(even, network, Decoding(working_size=32)).analyze(picture(0, 50, 60))
    assert np.abs(analysis.confidence).max() < 1e-5


# Of colorjax/weights/colorjax.safetensors; the model card beside it says what they are.
SHA256 = "8a631b86af8d771bce32bb9e8c48eab62f931414811424764532836af03c7fbf"


def test_default_weights_are_the_ones_described():
    content = colorizer.DEFAULT_WEIGHTS.read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256
    assert SHA256 in (colorizer.DEFAULT_WEIGHTS.parent / "README.md").read_text()
    out = Colorizer.load()(picture(0, 64, 96)[..., 0])
    assert out.shape == (64, 96, 3) and np.ptp(out, axis=-1).max() > 0  # some colour
