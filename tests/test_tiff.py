import io
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import refused
from pictures import (
    GREY,
    RGB,
    RNG,
    ifd,
    packed,
    preview_and_picture,
    save,
    scene,
    tiff_of,
    written,
)
from PIL import Image, ImageCms

import colorize
from colorjax.media import files, metadata, tiff


def read(tmp_path, data, name="a.tif"):
    (tmp_path / name).write_bytes(data)
    return files.read(tmp_path / name)


TIFFS = {
    "plain": {},
    "deflate": {"compression": "zlib", "predictor": True},
    "tiles": {"tile": (16, 16)},
    "strips": {"rowsperstrip": 5},
    "big-endian": {"byteorder": ">"},
    "big-endian-deflate": {"byteorder": ">", "compression": "zlib"},
}


@pytest.mark.parametrize("options", TIFFS.values(), ids=TIFFS)
@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_keeps_every_bit(tmp_path, options, dtype, channels):
    samples = RNG.integers(0, 65536, (13, 21, channels), dtype=np.uint16).astype(dtype)
    kind = "rgb" if channels > 2 else "minisblack"
    extra: dict[str, Any] = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(tmp_path / "a.tif", samples.squeeze(), photometric=kind, **options, **extra)
    photograph = files.read(tmp_path / "a.tif")
    colors = samples[..., 0] if channels < 3 else samples[..., :3]
    assert photograph.pixels.dtype == dtype and photograph.notes == ()
    np.testing.assert_array_equal(photograph.pixels, colors)
    if channels == 4:
        np.testing.assert_array_equal(photograph.alpha, samples[..., 3])


@pytest.mark.parametrize("compression", ["group4", "jpeg"])
def test_compressions_of_pillow(tmp_path, compression):
    picture = Image.fromarray(scene())
    picture = picture.convert("1") if compression == "group4" else picture
    picture.save(tmp_path / "a.tif", compression=compression)
    pixels = files.read(tmp_path / "a.tif").pixels
    expected = np.asarray(picture.convert("L") if compression == "group4" else picture)
    np.testing.assert_allclose(pixels, expected, atol=20 if compression == "jpeg" else 0)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "zstd", "tiff_adobe_deflate"])
@pytest.mark.parametrize("pixels", [GREY, scene()], ids=["grey16", "rgb8"])
def test_compressions_of_libtiff(tmp_path, compression, pixels):
    path = save(tmp_path / "a.tif", pixels, compression=compression)
    np.testing.assert_array_equal(files.read(path).pixels, pixels)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_white_is_zero(tmp_path, dtype):
    levels = GREY.astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", levels, photometric="miniswhite")
    np.testing.assert_array_equal(files.read(tmp_path / "a.tif").pixels, ~levels)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 10, 12, 14])
def test_packed_grey_fills_the_range_of_8_or_16_bits(tmp_path, bits, order):
    levels = GREY >> 16 - bits
    photograph = read(tmp_path, tiff_of(packed(levels, bits), 21, order, t258=bits))
    top = 255 if bits <= 8 else 65535
    assert photograph.pixels.dtype == (np.uint8 if bits <= 8 else np.uint16)
    np.testing.assert_array_equal(photograph.pixels, np.rint(levels * (top / (2**bits - 1))))


def test_bits_in_the_other_order(tmp_path):
    rows = [row.tobytes() for row in np.packbits(np.unpackbits(eight_bits())[::-1]).reshape(13, 21)]
    photograph = read(tmp_path, tiff_of(rows, 21, t258=8, t266=2))
    np.testing.assert_array_equal(photograph.pixels, eight_bits()[::-1, ::-1])


def eight_bits():
    return (GREY >> 8).astype(np.uint8)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_planes(tmp_path, dtype):
    samples = RGB.astype(dtype)
    planes = np.ascontiguousarray(samples.transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(files.read(tmp_path / "a.tif").pixels, samples)


def further(pixels, channel, **tags):
    """A TIFF of 16 bits with one more channel."""
    samples = np.dstack([pixels, channel])
    rows = packed(samples.reshape(len(samples), -1), 16)
    count = samples.shape[2]
    tags = {"t262": 2 if count > 3 else 1, "t277": count, "t258": (16,) * count} | tags
    return tiff_of(rows, pixels.shape[1], **tags)


@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "rgb"])
def test_transparency_of_16_bits(tmp_path, pixels):
    alpha = GREY[::-1].copy()
    photograph = read(tmp_path, further(pixels, alpha, t338=2))
    np.testing.assert_array_equal(photograph.pixels, pixels)
    np.testing.assert_array_equal(photograph.alpha, alpha)
    assert photograph.notes == ()


def test_colours_multiplied_by_transparency_are_divided_by_it(tmp_path):
    alpha = np.full((1, 2), 32768, np.uint16)
    photograph = read(tmp_path, further(np.array([[[100, 16384, 40000]] * 2], "u2"), alpha, t338=1))
    assert photograph.pixels[0, 0].tolist() == [200, 32768, 65535]
    np.testing.assert_array_equal(photograph.alpha, alpha)


@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "rgb"])
def test_infrared_is_not_taken_for_transparency(tmp_path, pixels):
    infrared = RNG.integers(30000, 65000, GREY.shape, dtype=np.uint16)
    photograph = read(tmp_path, further(pixels, infrared))
    np.testing.assert_array_equal(photograph.pixels, pixels)
    assert photograph.alpha is None and "left out (infrared?)" in photograph.notes[0]
    named = read(tmp_path, further(pixels, infrared, t338=0))
    assert named.alpha is None and "left out" in named.notes[0]


def test_a_mask_without_its_tag_is_transparency_and_that_is_said(tmp_path):
    mask = np.where(GREY > 30000, 65535, 0).astype(np.uint16)
    photograph = read(tmp_path, further(RGB, mask))
    np.testing.assert_array_equal(photograph.alpha, mask)
    assert "not said to be transparency" in photograph.notes[0]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("target", ["tif", "png", "jpg"])
def test_bigtiff_is_read_and_its_tags_are_written_as_classic_exif(tmp_path, order, target):
    tags = {270: (2, 5, b"Scan\0"), 306: (2, 20, b"1936:03:01 12:00:00\0")}
    tags |= {37724 - 1: (16, 1, struct.pack(order + "Q", 7))}  # any of 64 bits
    rows = [row.astype(order + "u2").tobytes() for row in GREY]
    photograph = read(tmp_path, tiff_of(rows, 21, order, True, tags, t258=16))
    np.testing.assert_array_equal(photograph.pixels, GREY)
    assert files.write(tmp_path / f"b.{target}", photograph)[1:] == []
    again = Image.open(tmp_path / f"b.{target}").getexif()
    assert again[270] == "Scan" and again[306] == "1936:03:01 12:00:00" and again[37723] == 7


def lab(tmp_path, values, dtype, photometric=8, **options):
    values = np.asarray([values]).astype(dtype)
    rows = [row.astype("<" + np.dtype(dtype).str[1:]).tobytes() for row in values]
    bits = (values.itemsize * 8,) * 3
    data = tiff_of(rows, values.shape[1], t258=bits, t262=photometric, t277=3, **options)
    return read(tmp_path, data).pixels[0]


def test_cielab_of_8_and_16_bits(tmp_path):
    # L* 50 is 0.46633 in sRGB; sRGB's red in CIELAB of D50 is 54.29 80.81 69.89 (Lindbloom)
    grey, white, red = lab(tmp_path, [[32768, 0, 0], [65535, 0, 0], [35579, 20687, 17892]], "u2")
    np.testing.assert_allclose(grey, 0.46633 * 65535, atol=3)
    assert white.tolist() == [65535] * 3
    np.testing.assert_allclose(red, [65535, 0, 0], atol=600)
    grey, red = lab(tmp_path, [[128, 0, 0], [138, 81, 70]], "u1")
    np.testing.assert_allclose(grey, 0.46633 * 255, atol=1)
    np.testing.assert_allclose(red, [255, 0, 0], atol=6)


def test_cielab_as_icc_encodes_it(tmp_path):
    grey, red = lab(tmp_path, [[32640, 32768, 32768], [35441, 53455, 50660]], "u2", 9)
    np.testing.assert_allclose(grey, 0.46633 * 65535, atol=3)
    np.testing.assert_allclose(red, [65535, 0, 0], atol=600)


def test_cielab_of_another_white(tmp_path):
    white = struct.pack("<4I", 3127, 10000, 3290, 10000)  # red there is 53.24 80.09 67.20
    red = lab(tmp_path, [[34891, 20503, 17203]], "u2", tags={318: (5, 2, white)})
    np.testing.assert_allclose(red, [[65535, 0, 0]], atol=600)


# Which picture of a file


def test_a_preview_before_the_picture_is_passed_over(tmp_path):
    photograph = read(tmp_path, preview_and_picture(RGB))
    np.testing.assert_array_equal(photograph.pixels, RGB)
    assert photograph.notes == ()
    small = files.read_small(preview_and_picture(RGB), "a.tif", 13)
    assert small.shape == (13, 13, 3)


def test_a_preview_before_a_picture_that_pillow_reads(tmp_path):
    page = Image.fromarray(scene())
    preview = page.resize((8, 6))
    preview.encoderinfo = {"tiffinfo": {254: 1}, "compression": "jpeg"}
    page.encoderinfo = {"compression": "jpeg"}
    preview.save(tmp_path / "a.tif", save_all=True, append_images=[page], compression="jpeg")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tif:
        tif.pages[0].tags[254].overwrite(1)
    photograph = files.read(tmp_path / "a.tif")
    assert photograph.pixels.shape == scene().shape
    np.testing.assert_allclose(photograph.pixels, scene(), atol=20)


def test_smaller_copies_after_the_picture_are_no_further_pages(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(RGB, photometric="rgb")
        tif.write(np.ascontiguousarray(RGB[::2, ::2]), photometric="rgb", subfiletype=1)
    photograph = files.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(photograph.pixels, RGB)
    assert photograph.notes == ()


def raws():
    dng = tiff_of([bytes(4)], 4, t258=8, tags={50706: (1, 4, b"\1\4\0\0")})
    mosaic = tiff_of([bytes(4)], 4, t258=8, t262=32803)
    preview = tiff_of([bytes(4)], 4, t258=8)
    return [("a.tif", dng), ("a.dng", dng), ("b.tif", mosaic), ("c.nef", preview)]


@pytest.mark.parametrize(("name", "data"), raws())
def test_raw_is_named_with_what_to_do(tmp_path, name, data, capsys):
    (tmp_path / name).write_bytes(data)
    kind = "DNG" if b"\1\4\0\0" in data else name[2:].upper().replace("TIF", "TIFF")
    words = (name, f"is raw ({kind})", "develop it into a TIFF")
    refused(capsys, colorize.main, [tmp_path / name, tmp_path / "out.png"], *words)
    with pytest.raises(files.FileError, match="is raw"):
        files.read_small(data, name, 2)


def test_directories_in_a_circle_come_to_an_end(tmp_path):
    data = bytearray(tiff_of(packed(GREY, 16), 21, t258=16, t254=1))
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    struct.pack_into("<I", data, start + 2 + 12 * count, start)
    np.testing.assert_array_equal(read(tmp_path, bytes(data)).pixels, GREY)


@pytest.mark.parametrize("samples", [GREY.astype(np.float32), GREY.astype(np.int32)])
def test_samples_that_are_no_levels_are_refused(tmp_path, samples):
    tifffile.imwrite(tmp_path / "a.tif", samples)
    with pytest.raises(files.FileError, match="rare samples: save it with 8 or 16"):
        files.read(tmp_path / "a.tif")


@pytest.mark.parametrize("layout", [{"t262": 99}, {"t259": 34712}, {"t262": 2}, {"t258": 64}])
def test_other_layouts_are_named_as_tiff(tmp_path, layout):
    with pytest.raises(files.FileError, match="is a TIFF of a layout that is not read: save it"):
        read(tmp_path, tiff_of([bytes(21)] * 13, 21, **({"t258": 8} | layout)))


# Writing


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_what_is_written_is_plain_tiff(tmp_path, order, dtype):
    samples = RGB.astype(dtype)
    exif = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    exif += ifd({271: (2, 6, b"Maker\0")}, order, 8)
    data = written(tiff.write, samples, b"profile", (300, 300.5), exif)
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        page = tif.pages.first
        assert isinstance(page, tifffile.TiffPage) and tif.byteorder == order
        assert page.compression == (5 if dtype == "u1" else 1)
        assert page.tags["Make"].value == "Maker"
        assert page.tags["XResolution"].value == (300, 1)
        assert page.tags["YResolution"].value == (3005000, 10000)
    np.testing.assert_array_equal(read(tmp_path, data).pixels, samples)
    if dtype == "u1" or order == "<":
        shown = (samples >> 8).astype(np.uint8) if dtype == "u2" else samples
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), shown)
    entries, _ = metadata.directory(
        io.BytesIO(data), struct.unpack_from(order + "I", data, 4)[0], order
    )
    assert list(entries) == sorted(entries)


def test_resolution_is_never_missing():
    with tifffile.TiffFile(io.BytesIO(written(tiff.write, RGB))) as tif:
        tags = tif.pages.first.tags
        assert (tags["XResolution"].value, tags["ResolutionUnit"].value) == ((1, 1), 1)


def test_cielab_as_littlecms_makes_it(tmp_path):
    rgb = Image.fromarray(scene())
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(rgb, *profiles, outputMode="LAB")
    assert lab is not None
    lab.save(tmp_path / "a.tif")
    off = np.abs(files.read(tmp_path / "a.tif").pixels.astype(int) - scene())
    assert off.mean() < 4  # the purest colours are out of what 8 bits of CIELAB hold
