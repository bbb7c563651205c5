import io
import struct
import zlib

import numpy as np
import pytest
from pictures import (
    GREY,
    RNG,
    SRGB,
    chunk,
    icc_of,
    packed,
    png,
    profile,
    save,
    scene,
    tiff_of,
    to_srgb,
)
from PIL import Image, ImageCms

from colorjax import color
from colorjax.media import files, profiles


@pytest.mark.parametrize(
    ("suffix", "space"),
    [(suffix, space) for suffix in ("png", "jpg", "tif") for space in (b"GRAY", b"RGB ")]
    + [("webp", b"RGB ")],  # which is never grey
)
def test_grey_with_a_profile(tmp_path, suffix, space):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(8, 0).repeat(8, 1)
    options = {"icc_profile": profile(space, 1.5), "quality": 100, "lossless": True}
    pixels = files.read(save(tmp_path / f"a.{suffix}", levels, **options)).pixels
    expected = to_srgb((levels / 255) ** 1.5) * 255
    expected = expected[..., None] if pixels.ndim == 3 else expected
    # 1 of rounding, and near black, where the curve is steep, JPEG's own error
    np.testing.assert_allclose(pixels, expected + 0 * pixels, atol=8 if suffix == "jpg" else 1.5)


def test_wide_gamut_profile(tmp_path):
    icc = profile(b"RGB ", 2.2, "swapped")
    photograph = files.read(save(tmp_path / "a.png", scene(), icc_profile=icc))
    expected = to_srgb((scene()[..., ::-1] / 255) ** 2.2) * 255
    np.testing.assert_allclose(photograph.pixels, expected, atol=1.5)
    assert photograph.notes == ()


def test_profiles_of_srgb_change_nothing(tmp_path):
    grey, with_alpha = scene()[..., 0].copy(), np.dstack([scene()] * 2)[..., :4]
    for pixels in (scene(), grey, GREY, with_alpha):
        photograph = files.read(save(tmp_path / "a.png", pixels, icc_profile=SRGB))
        colors = pixels[..., :3] if pixels.ndim > 2 else pixels
        np.testing.assert_array_equal(photograph.pixels, colors)
        assert photograph.notes == ()


@pytest.mark.parametrize("kind", [0, 2, 4, 6])
def test_16_bits_with_a_profile(tmp_path, kind):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    samples = RNG.integers(0, 65536, (13, 21, channels), dtype=np.uint16)
    icc = profile(b"RGB " if kind & 2 else b"GRAY", 2.2 if kind & 2 else 1.8)
    iccp = chunk(b"iCCP", b"name\0\0" + zlib.compress(icc))
    (tmp_path / "a.png").write_bytes(png(samples, 16, kind, iccp))
    photograph = files.read(tmp_path / "a.png")
    colors = samples[..., 0] if channels < 3 else samples[..., :3]
    expected = to_srgb((colors / 65535) ** (2.2 if kind & 2 else 1.8))
    assert photograph.pixels.dtype == np.uint16 and photograph.notes == ()
    lightness = color.grey_lightness if channels < 3 else color.lightness
    off = lightness(photograph.pixels / 65535.0) - lightness(expected)
    assert np.abs(off).max() < 0.01
    if channels in (2, 4):
        np.testing.assert_array_equal(photograph.alpha, samples[..., -1])


RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def curve_profile(curve, connection=b"XYZ "):
    """A profile of grey by such a tag, `curv` or `para`."""
    tags = {b"kTRC": curve, b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)}
    head = bytearray(SRGB[:128])
    head[16:24] = b"GRAY" + connection
    return icc_of(tags, head)


def curv(*values):
    return b"curv" + bytes(4) + struct.pack(f">I{len(values)}H", len(values), *values)


def para(kind, *values):
    parameters = [round(value * 65536) for value in values]
    return b"para" + bytes(4) + struct.pack(f">HH{len(values)}i", kind, 0, *parameters)


X = RAMP / 65535
DOT_GAIN = np.linspace(0, 1, 256) ** 1.75 * 0.97
# name -> tag, what it says of light
CURVES = {
    "linear": (curv(), X),
    "gamma 1": (curv(256), X),
    "gamma 2.2": (curv(563), X**2.2),
    "gamma 1.8": (curv(461), X**1.8),
    "gamma of 256ths": (curv(575), X ** (575 / 256)),
    "table": (curv(*np.rint(DOT_GAIN * 65535).astype(int)), None),
    "para 0": (para(0, 2.2), X**2.2),
    "para 1": (para(1, 2, 0.9, 0.1), (0.9 * X + 0.1) ** 2),
    "para 2": (para(2, 2, 0.8, 0.1, 0.05), (0.8 * X + 0.1) ** 2 + 0.05),
    "para 3": (para(3, 2, 0.9, 0.1, 0.5, 0.02), np.where(X < 0.02, X / 2, (0.9 * X + 0.1) ** 2)),
    "para 4": (
        para(4, 2, 0.8, 0.1, 0.5, 0.02, 0.01, 0.005),
        np.where(X < 0.02, X / 2 + 0.005, (0.8 * X + 0.1) ** 2 + 0.01),
    ),
}


@pytest.mark.parametrize("suffix", ["tif", "png"])
@pytest.mark.parametrize(("tag", "light"), CURVES.values(), ids=CURVES)
def test_16_bit_grey_keeps_all_its_levels_of_lightness(tmp_path, tag, light, suffix):
    icc = curve_profile(tag)
    if suffix == "tif":
        data = tiff_of(packed(RAMP, 16), 256, t258=16, tags={34675: (7, len(icc), icc)})
    else:
        data = png(RAMP, 16, 0, chunk(b"iCCP", b"name\0\0" + zlib.compress(icc)))
    (tmp_path / "a").write_bytes(data)
    photograph = files.read(tmp_path / "a")
    if light is None:
        light = np.interp(X, np.linspace(0, 1, 256), DOT_GAIN)
    off = color.grey_lightness(photograph.pixels / 65535.0) - color.grey_lightness(to_srgb(light))
    assert np.abs(off).max() < 0.01 and photograph.notes == ()


def test_grey_by_lightness_rather_than_light(tmp_path):
    icc = curve_profile(curv(), b"Lab ")
    data = tiff_of(packed(RAMP, 16), 256, t258=16, tags={34675: (7, len(icc), icc)})
    (tmp_path / "a.tif").write_bytes(data)
    found = color.grey_lightness(files.read(tmp_path / "a.tif").pixels / 65535.0)
    assert np.abs(found - 100 * X).max() < 0.01


def test_profiles_with_tables_are_applied_at_8_bits_and_that_is_said(tmp_path, monkeypatch):
    def with_tables(*args):
        raise ValueError("it has tables")

    monkeypatch.setattr(profiles, "to_srgb", with_tables)
    icc = curve_profile(curv(461))
    data = tiff_of(packed(GREY, 16), 21, t258=16, tags={34675: (7, len(icc), icc)})
    (tmp_path / "a.tif").write_bytes(data)
    photograph = files.read(tmp_path / "a.tif")
    assert photograph.pixels.dtype == np.uint16 and "8 of its 16 bits" in photograph.notes[0]
    expected = to_srgb((GREY / 65535) ** 1.8)
    # half a level of 255 on the way in, where the slope is up to 5, and on the way out
    np.testing.assert_allclose(photograph.pixels / 65535, expected, atol=3 / 255)


def test_profiles_that_are_damaged_are_refused():
    whole = curve_profile(curv(563))
    for icc in (whole[:140], whole.replace(b"curv", b"nope"), whole[:128] + b"\xff" * 40):
        with pytest.raises(ValueError):
            profiles.to_srgb(icc, SRGB, True)


def test_the_profile_of_a_jpeg_2000_is_used(tmp_path):
    file = io.BytesIO()
    Image.fromarray(RAMP).save(file, "JPEG2000", irreversible=False)
    data, icc = file.getvalue(), curve_profile(curv(461))
    place = data.index(b"colr") - 4
    (old,) = struct.unpack_from(">I", data, place)
    box = struct.pack(">I", 11 + len(icc)) + b"colr\2\0\0" + icc
    head = data.index(b"jp2h") - 4
    (size,) = struct.unpack_from(">I", data, head)
    data = data[:place] + box + data[place + old :]
    data = data[:head] + struct.pack(">I", size + len(box) - old) + data[head + 4 :]
    (tmp_path / "a.jp2").write_bytes(data)
    found = files.read(tmp_path / "a.jp2").pixels / 65535.0
    off = color.grey_lightness(found) - color.grey_lightness(to_srgb(X**1.8))
    assert np.abs(off).max() < 0.01


@pytest.mark.parametrize("icc", [b"nonsense", profile(b"GRAY", 2.2), SRGB[:200]])
def test_unusable_profiles_are_ignored_and_noted(tmp_path, icc):
    photograph = files.read(save(tmp_path / "a.png", scene(), icc_profile=icc))
    np.testing.assert_array_equal(photograph.pixels, scene())
    assert "colour profile is damaged" in photograph.notes[0]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path, suffix):
    rgb = scene()
    cmyk = Image.fromarray(rgb).convert("CMYK")  # a JPEG of it is inverted, as Adobe's are
    cmyk.save(tmp_path / f"a.{suffix}", quality=100, subsampling=0)
    photograph = files.read(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(photograph.pixels, rgb, atol=6)
    assert "CMYK has no profile" in photograph.notes[0]


def test_cmyk_profile_is_used(tmp_path, monkeypatch):
    # The smallest CMYK profile: a table (lut8) of two points an axis, to Lab.
    corners = np.indices((2, 2, 2, 2)).reshape(4, -1).T  # C M Y K, K fastest
    lab = np.array([[0 if k else 255 * (3 - c - m - y) // 3, 128, 128] for c, m, y, k in corners])
    identity = np.arange(256, dtype=np.uint8).tobytes()
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
    lut += struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
    lut += identity * 4 + lab.astype(np.uint8).tobytes() + identity * 3
    text = b"text" + bytes(4) + b"public domain\0" + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    head = bytearray(SRGB[:128])
    head[12:24] = b"prtrCMYKLab "
    icc = icc_of({b"A2B0": lut, b"cprt": text, b"wtpt": white}, head)
    ImageCms.ImageCmsProfile(io.BytesIO(icc))
    picture = Image.new("CMYK", (8, 8), (0, 0, 0, 128))
    picture.save(tmp_path / "a.jpg", icc_profile=icc, quality=100)
    photograph = files.read(tmp_path / "a.jpg")
    # L = 100 (1 - 128/255) = 49.8 is 118 in sRGB; without the profile it would be 127
    np.testing.assert_allclose(photograph.pixels, 118, atol=2)
    assert photograph.notes == ()


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("kind", [0, 2, 4])
def test_the_gamma_of_a_png_is_applied_unless_a_profile_is_there(tmp_path, depth, kind):
    top, channels = 2**depth - 1, {0: 1, 2: 3, 4: 2}[kind]
    samples = np.linspace(0, top, 64 * channels).astype(np.uint16).reshape(8, 8, channels)
    gamma = chunk(b"gAMA", struct.pack(">I", 100000))
    (tmp_path / "a.png").write_bytes(png(samples, depth, kind, gamma))
    colors = samples if kind == 2 else samples[..., 0]
    found = files.read(tmp_path / "a.png")
    expected = to_srgb(colors / top) * top
    np.testing.assert_allclose(found.pixels, expected, atol=1.5 if depth == 8 else 12)
    for said in (chunk(b"sRGB", b"\0"), chunk(b"iCCP", b"n\0\0" + zlib.compress(SRGB))):
        (tmp_path / "b.png").write_bytes(png(samples, depth, kind, gamma, said))
        np.testing.assert_array_equal(files.read(tmp_path / "b.png").pixels, colors)


def test_the_usual_gamma_of_a_png_changes_nothing(tmp_path):
    gamma = chunk(b"gAMA", struct.pack(">I", 45455))
    (tmp_path / "a.png").write_bytes(png(GREY, 16, 0, gamma))
    np.testing.assert_array_equal(files.read(tmp_path / "a.png").pixels, GREY)
