import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, TiffImagePlugin

from colorjax.media import codec, files, tiff

# pytest takes away the filters that `files` sets.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::UserWarning:PIL.{module}")
    for module in ("Image", "PngImagePlugin", "TiffImagePlugin")
]
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 65536, (13, 21), dtype=np.uint16)
RGB = RNG.integers(0, 65536, (13, 21, 3), dtype=np.uint16)
SRGB = codec.srgb_profile()


def eight(samples):
    return np.round(samples / 257).astype(np.uint8)


def scene(height=40, width=52):
    """Smooth enough for lossy formats, `H W 3` uint8, every quarter unlike the others."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack(
        [y * 240 // height, x * 240 // width, 255 - (x + y) * 255 // (width + height)], -1
    ).astype(np.uint8)


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples, depth, kind, *chunks, interlaced=False):
    """A PNG by another hand: `H W C` or `H W`, no filters, any depth."""
    height, width = samples.shape[:2]
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        ]
    lines = b""
    for y, x, down, across in passes:
        part = samples[y::down, x::across]
        for row in part if part.size else ():
            if depth == 16:
                data = row.astype(">u2").tobytes()
            else:
                bits = np.unpackbits(row.astype(np.uint8)[..., None], axis=-1)[..., -depth:]
                data = np.packbits(bits.ravel()).tobytes()
            lines += b"\0" + data
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    body = b"".join(chunks) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def decode_png(data):
    """The samples and chunks of a PNG whose rows all use the filter "up"."""
    chunks, place, body = {}, 8, b""
    while place < len(data):
        (length,), kind = struct.unpack_from(">I", data, place), data[place + 4 : place + 8]
        content = data[place + 8 : place + 8 + length]
        assert zlib.crc32(kind + content) == struct.unpack_from(">I", data, place + 8 + length)[0]
        chunks[kind] = content
        body += content if kind == b"IDAT" else b""
        place += length + 12
    width, height, depth, kind = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    rows = np.frombuffer(zlib.decompress(body), np.uint8).reshape(height, -1)
    assert (rows[:, 0] == 2).all()
    rows = np.cumsum(rows[:, 1:], 0, dtype=np.uint8)
    return rows.view(f">u{depth // 8}").reshape(
        height, width, {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    ), chunks


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
@pytest.mark.parametrize("depth", [8, 16])
def test_png_keeps_every_bit(tmp_path, interlaced, kind, channels, depth):
    samples = RNG.integers(0, 2**depth, (13, 21, channels), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png(samples, depth, kind, interlaced=interlaced))
    photograph = files.read(tmp_path / "a.png")
    assert photograph.pixels.dtype == (np.uint16 if depth == 16 else np.uint8)
    colors = samples[..., 0] if channels < 3 else samples[..., :3]
    np.testing.assert_array_equal(photograph.pixels, colors)
    if channels in (2, 4):
        np.testing.assert_array_equal(photograph.alpha, samples[..., -1])
    else:
        assert photograph.alpha is None
    assert photograph.notes == ()


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_png_of_every_depth_with_a_transparent_level(tmp_path, depth):
    levels = RNG.integers(0, 2**depth, (9, 11), dtype=np.uint16)
    key = int(levels[4, 5])
    (tmp_path / "a.png").write_bytes(png(levels, depth, 0, chunk(b"tRNS", struct.pack(">H", key))))
    photograph = files.read(tmp_path / "a.png")
    top = 65535 if depth == 16 else 255
    np.testing.assert_array_equal(photograph.pixels, levels * (top // (2**depth - 1)))
    assert photograph.alpha is not None
    np.testing.assert_array_equal(photograph.alpha, np.where(levels == key, 0, top))


@pytest.mark.parametrize("depth", [8, 16])
def test_rgb_png_with_a_transparent_colour(tmp_path, depth):
    samples = RNG.integers(0, 2**depth, (5, 6, 3), dtype=np.uint16)
    key = struct.pack(">3H", *samples[2, 3])
    (tmp_path / "a.png").write_bytes(png(samples, depth, 2, chunk(b"tRNS", key)))
    photograph = files.read(tmp_path / "a.png")
    np.testing.assert_array_equal(photograph.pixels, samples)
    assert photograph.alpha is not None and np.argwhere(photograph.alpha == 0).tolist() == [[2, 3]]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_with_transparency(tmp_path, depth):
    colors = RNG.integers(0, 256, (2**depth, 3), dtype=np.uint8)
    alphas = RNG.integers(0, 256, 2**depth, dtype=np.uint8)
    index = RNG.integers(0, 2**depth, (6, 7), dtype=np.uint16)
    chunks = chunk(b"PLTE", colors.tobytes()), chunk(b"tRNS", alphas.tobytes())
    (tmp_path / "a.png").write_bytes(png(index, depth, 3, *chunks))
    photograph = files.read(tmp_path / "a.png")
    np.testing.assert_array_equal(photograph.pixels, colors[index])
    np.testing.assert_array_equal(photograph.alpha, alphas[index])


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


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "group4", "jpeg"])
def test_tiff_compressions(tmp_path, compression):
    picture = Image.fromarray(scene())
    picture = picture.convert("1") if compression == "group4" else picture
    picture.save(tmp_path / "a.tif", compression=compression)
    pixels = files.read(tmp_path / "a.tif").pixels
    expected = np.asarray(picture.convert("L") if compression == "group4" else picture)
    np.testing.assert_allclose(pixels, expected, atol=20 if compression == "jpeg" else 0)


def test_grey_16_bit_lzw(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(files.read(tmp_path / "a.tif").pixels, GREY)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_white_is_zero(tmp_path, dtype):
    levels = GREY.astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", levels, photometric="miniswhite")
    np.testing.assert_array_equal(files.read(tmp_path / "a.tif").pixels, ~levels)


def test_12_bits_are_scaled_to_16(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    tags.update({256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 0, 277: 1, 278: 1, 279: 3})
    with open(tmp_path / "a.tif", "wb") as file:
        tags.save(file)
        file.write(bytes([0xFF, 0xF1, 0x23]))
    assert files.read(tmp_path / "a.tif").pixels.tolist() == [[0xFFFF, 0x1231]]


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_fourth_channel_of_a_scanner_is_left(tmp_path, dtype):
    samples = RNG.integers(0, 65536, (13, 21, 4), dtype=np.uint16).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extrasamples=["unspecified"])
    photograph = files.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(photograph.pixels, samples[..., :3])
    assert photograph.alpha is None


@pytest.mark.parametrize("samples", [GREY.astype(np.float32), GREY.astype(np.int32), RGB])
def test_tiffs_not_supported_are_refused(tmp_path, samples):
    if samples is RGB:
        planes = samples.transpose(2, 0, 1)
        tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    else:
        tifffile.imwrite(tmp_path / "a.tif", samples)
    with pytest.raises(files.FileError, match="rare samples: save it with 8 or 16"):
        files.read(tmp_path / "a.tif")


@pytest.mark.parametrize("maximum", [200, 255, 1023, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_pgm_and_ppm(tmp_path, maximum, channels):
    samples = RNG.integers(0, maximum + 1, (7, 9, channels))
    header = f"P{5 if channels == 1 else 6}\n# made\n9 7\n{maximum}\n".encode()
    dtype = ">u2" if maximum > 255 else "u1"
    (tmp_path / "a.ppm").write_bytes(header + samples.astype(dtype).tobytes())
    photograph = files.read(tmp_path / "a.ppm")
    top = 65535 if maximum > 255 else 255
    assert photograph.pixels.dtype == (np.uint16 if maximum > 255 else np.uint8)
    # 1: Pillow rounds half to even
    np.testing.assert_allclose(photograph.pixels, samples.squeeze() * (top / maximum), atol=1)


def test_plain_16_bit_ppm_is_noted(tmp_path):
    (tmp_path / "a.ppm").write_text("P3 1 1 65535 257 514 65535")
    photograph = files.read(tmp_path / "a.ppm")
    assert photograph.pixels.tolist() == [[[1, 2, 255]]] and "read at 8" in photograph.notes[0]


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp", "gif", "png", "tif"])
@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_common_formats(tmp_path, suffix, mode):
    picture = Image.fromarray(scene()).convert(mode)
    picture.save(tmp_path / f"a.{suffix}", quality=95)
    pixels = files.read(tmp_path / f"a.{suffix}").pixels
    grey = mode != "RGB" and suffix != "webp"
    grey &= pixels.ndim == 2  # a GIF of so many greys has a palette
    assert pixels.dtype == np.uint8 and pixels.shape == ((40, 52) if grey else (40, 52, 3))
    if (mode, suffix) not in {("RGB", "gif"), ("1", "jpg"), ("1", "webp")}:
        tolerance = {"jpg": 8, "webp": 12}.get(suffix, 0)  # both are lossy
        np.testing.assert_allclose(
            pixels, np.asarray(picture.convert("L" if grey else "RGB")), atol=tolerance
        )


def test_progressive_jpeg_and_content_before_suffix(tmp_path):
    save(tmp_path / "a.jpg", scene(), quality=95, progressive=True)
    assert abs(files.read(tmp_path / "a.jpg").pixels.astype(int) - scene()).max() < 20
    save(tmp_path / "b.jpg", scene(), format="PNG")
    np.testing.assert_array_equal(files.read(tmp_path / "b.jpg").pixels, scene())


@pytest.mark.parametrize("suffix", ["gif", "tif", "png", "webp"])
def test_first_of_several_frames(tmp_path, suffix):
    frames = [Image.new("L", (8, 6), level).convert("RGB") for level in (10, 200)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    photograph = files.read(tmp_path / f"a.{suffix}")
    assert (photograph.pixels == 10).all() and "first frame" in photograph.notes[0]


# ICC profiles


def profile(space, gamma, matrix=None):
    """An ICC profile of a power curve, with the colours of sRGB turned about if asked."""
    base = bytearray(SRGB)
    tags = {}
    for place in range(132, 132 + 12 * struct.unpack_from(">I", base, 128)[0], 12):
        name, offset, size = struct.unpack_from(">4sII", base, place)
        tags[name] = bytes(base[offset : offset + size])
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    if space == b"GRAY":
        kept = {name: tags[name] for name in (b"desc", b"cprt", b"wtpt")} | {b"kTRC": curve}
    else:
        kept = tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
        if matrix == "swapped":
            kept[b"rXYZ"], kept[b"bXYZ"] = tags[b"bXYZ"], tags[b"rXYZ"]
    table, body = struct.pack(">I", len(kept)), b""
    for name, content in kept.items():
        table += struct.pack(">4sII", name, 132 + 12 * len(kept) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    base[16:20] = space
    return struct.pack(">I", 128 + len(table + body)) + bytes(base[4:128]) + table + body


def to_srgb(linear):
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


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
    for number, (pixels, options) in enumerate(
        [
            (scene(), {}),
            (scene()[..., 0].copy(), {}),
            (GREY, {}),
            (np.dstack([scene()] * 2)[..., :4], {}),
        ]
    ):
        path = save(tmp_path / f"{number}.png", pixels, icc_profile=SRGB, **options)
        photograph = files.read(path)
        np.testing.assert_array_equal(
            photograph.pixels, pixels[..., :3] if pixels.ndim > 2 else pixels
        )
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
    assert photograph.pixels.dtype == np.uint16 and "8 of its 16 bits" in photograph.notes[0]
    # half a level of 255 on the way in, where the slope is up to 5, and on the way out
    np.testing.assert_allclose(photograph.pixels / 65535, expected, atol=3 / 255)
    if channels in (2, 4):
        assert photograph.alpha is not None
        np.testing.assert_allclose(photograph.alpha, samples[..., -1], atol=129)


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


def test_cielab(tmp_path):
    from PIL import ImageCms

    rgb = Image.fromarray(scene())
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(rgb, *profiles, outputMode="LAB")
    assert lab is not None
    lab.save(tmp_path / "a.tif")
    off = np.abs(files.read(tmp_path / "a.tif").pixels.astype(int) - scene())
    assert off.mean() < 4  # the purest colours are out of what 8 bits of CIELAB hold


def test_cmyk_profile_is_used(tmp_path, monkeypatch):
    # The smallest CMYK profile: a table (lut8) of two points an axis, to Lab.
    corners = np.indices((2, 2, 2, 2)).reshape(4, -1).T  # C M Y K, K fastest
    lab = np.array([[0 if k else 255 * (3 - c - m - y) // 3, 128, 128] for c, m, y, k in corners])
    identity = np.arange(256, dtype=np.uint8).tobytes()
    lut = (
        b"mft1"
        + bytes(4)
        + bytes([4, 3, 2, 0])
        + struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
    )
    lut += identity * 4 + lab.astype(np.uint8).tobytes() + identity * 3
    text = b"text" + bytes(4) + b"public domain\0" + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags, table, body = {b"A2B0": lut, b"cprt": text, b"wtpt": white}, struct.pack(">I", 3), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, 132 + 36 + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = bytearray(SRGB[:128])
    head[12:24] = b"prtrCMYKLab "
    icc = struct.pack(">I", 128 + len(table + body)) + bytes(head[4:]) + table + body
    ImageCms.ImageCmsProfile(io.BytesIO(icc))
    picture = Image.new("CMYK", (8, 8), (0, 0, 0, 128))
    picture.save(tmp_path / "a.jpg", icc_profile=icc, quality=100)
    photograph = files.read(tmp_path / "a.jpg")
    # L = 100 (1 - 128/255) = 49.8 is 118 in sRGB; without the profile it would be 127
    np.testing.assert_allclose(photograph.pixels, 118, atol=2)
    assert photograph.notes == ()


# What is carried beside the pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_orientation_is_applied_once(tmp_path, orientation, suffix):
    upright = np.dstack([scene(), scene()[..., 0]]) if suffix != "jpg" else scene()
    undo = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}.get(orientation)
    method = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    stored = Image.fromarray(upright)
    stored = stored.transpose(method[undo]) if undo else stored
    exif = Image.Exif()
    exif[274], exif[271] = orientation, "Maker"
    options = {"exif": exif, "quality": 95, "lossless": True, "exact": True, "subsampling": 0}
    stored.save(tmp_path / f"a.{suffix}", **options)
    photograph = files.read(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(photograph.pixels, scene(), atol=8 if suffix == "jpg" else 0)
    if suffix != "jpg":
        np.testing.assert_array_equal(photograph.alpha, upright[..., 3])
    kept = Image.Exif()
    kept.load(photograph.exif or b"")
    assert kept.get(274, 1) == 1 and kept[271] == "Maker"
    small = files.read_small((tmp_path / f"a.{suffix}").read_bytes(), "a", 40)
    np.testing.assert_allclose(small, scene()[:, 6:46], atol=8 if suffix == "jpg" else 0)


def exif_with_everything():
    exif = Image.Exif()
    exif[271], exif[306], exif[282] = "Maker", "1936:03:01 12:00:00", 300.0
    exif.get_ifd(34665).update({37500: b"maker's own\0\1\2", 33434: 0.01})
    exif.get_ifd(34853).update({1: "N", 2: (35.0, 2.0, 33.5)})
    return exif.tobytes()


@pytest.mark.parametrize("target", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("source", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("depth", [8, 16])
def test_exif_and_resolution_are_carried(tmp_path, source, target, depth):
    path = save(tmp_path / f"in.{source}", scene(), exif=exif_with_everything(), dpi=(300, 300))
    photograph = files.read(path)
    assert photograph.notes == ()
    # PNG counts in whole pixels per metre; WebP has no resolution but in EXIF
    assert source == "webp" or photograph.dpi == pytest.approx((300, 300), abs=0.02)
    pixels = photograph.pixels if depth == 8 else photograph.pixels * np.uint16(257)
    written = files.Photograph(pixels, exif=photograph.exif, dpi=photograph.dpi)
    files.write(tmp_path / f"out.{target}", written)
    tags = Image.open(tmp_path / f"out.{target}").getexif()
    assert tags[271] == "Maker" and tags[306].startswith("1936")
    assert tags.get_ifd(34665)[37500] == b"maker's own\0\1\2"
    assert tags.get_ifd(34665)[33434] == pytest.approx(0.01)
    assert tags.get_ifd(34853)[2] == (35.0, 2.0, 33.5)
    if "webp" not in (source, target):
        assert files.read(tmp_path / f"out.{target}").dpi == pytest.approx((300, 300), abs=0.02)


def test_damaged_exif_is_noted_and_empty_is_not(tmp_path):
    save(tmp_path / "b.jpg", scene(), exif=Image.Exif())
    assert files.read(tmp_path / "b.jpg").notes == ()
    save(tmp_path / "a.jpg", scene(), exif=b"Exif\0\0" + b"nonsense" * 9)
    photograph = files.read(tmp_path / "a.jpg")
    np.testing.assert_allclose(photograph.pixels, scene(), atol=40)  # JPEG's default quality
    assert photograph.exif is None and "EXIF is damaged" in photograph.notes[0]


@pytest.mark.parametrize("dpi", [(0, 0), (float("nan"), 72), (-1, -1)])
def test_senseless_resolution_is_none(tmp_path, dpi, monkeypatch):
    save(tmp_path / "a.png", scene())
    original = files._open

    def opened(*args):
        image = original(*args)
        image.info["dpi"] = dpi
        return image

    monkeypatch.setattr(files, "_open", opened)
    assert files.read(tmp_path / "a.png").dpi is None


def test_opaque_alpha_is_no_alpha(tmp_path):
    save(tmp_path / "a.png", np.dstack([scene(), np.full((40, 52), 255, np.uint8)]))
    assert files.read(tmp_path / "a.png").alpha is None


# Writing


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "webp", "bmp", "ppm", "PNG"])
@pytest.mark.parametrize("pixels", [scene(), scene()[..., 0], scene()[:1, :1]], ids=str)
def test_lossless_formats_hold_exactly_the_pixels(tmp_path, suffix, pixels):
    assert files.write(tmp_path / f"a.{suffix}", files.Photograph(pixels)) == []
    for read in (files.read(tmp_path / f"a.{suffix}").pixels, Image.open(tmp_path / f"a.{suffix}")):
        read = np.asarray(read)
        read = read[..., 0] if read.ndim > pixels.ndim else read  # grey WebP
        np.testing.assert_array_equal(read, pixels)
    assert os.listdir(tmp_path) == [f"a.{suffix}"]


@pytest.mark.parametrize("alpha", [None, GREY])
@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "rgb"])
def test_16_bits_are_written_whole(tmp_path, pixels, alpha):
    photograph = files.Photograph(pixels, alpha, dpi=(600, 300))
    expected = pixels if alpha is None else np.dstack([pixels, alpha])
    expected = expected.reshape(13, 21, -1)
    assert files.write(tmp_path / "a.png", photograph) == []
    samples, chunks = decode_png((tmp_path / "a.png").read_bytes())
    np.testing.assert_array_equal(samples, expected)
    assert chunks[b"sRGB"] == b"\0" and chunks[b"pHYs"] == struct.pack(">IIB", 23622, 11811, 1)
    assert files.write(tmp_path / "a.tif", photograph) == []
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        np.testing.assert_array_equal(tiff.asarray().reshape(expected.shape), expected)
        assert tiff.pages.first.tags["XResolution"].value == (600, 1)
    suffixes = ["png"] if pixels.ndim == 2 and alpha is not None else ["png", "tif"]
    for suffix in suffixes:  # Pillow, and so `read`, knows no such TIFF
        again = files.read(tmp_path / f"a.{suffix}")
        np.testing.assert_array_equal(again.pixels, pixels)
        assert again.dpi == pytest.approx((600, 300), abs=0.02)
        if alpha is not None:
            np.testing.assert_array_equal(again.alpha, alpha)


def test_many_strips(tmp_path):
    pixels = RNG.integers(0, 65536, (300, 4001, 3), dtype=np.uint16)
    for suffix in ("png", "tif"):
        files.write(tmp_path / f"a.{suffix}", files.Photograph(pixels))
        np.testing.assert_array_equal(files.read(tmp_path / f"a.{suffix}").pixels, pixels)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_alpha_is_carried(tmp_path, suffix):
    alpha = scene()[..., 1]
    files.write(tmp_path / f"a.{suffix}", files.Photograph(scene(), alpha))
    photograph = files.read(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(photograph.pixels, scene())
    np.testing.assert_array_equal(photograph.alpha, alpha)


@pytest.mark.parametrize(
    ("suffix", "lost"),
    [
        ("jpg", "transparency 8 bits"),
        ("webp", "8 bits|resolution"),
        ("bmp", "transparency|8 bits|EXIF"),
        ("ppm", "transparency|8 bits|EXIF|resolution"),
        ("png", ""),
        ("tif", ""),
    ],
)
def test_what_cannot_be_kept_is_said(tmp_path, suffix, lost):
    lost = lost.replace(" 8", "|8").split("|") if lost else []
    photograph = files.Photograph(RGB, GREY, exif_with_everything(), (300, 300))
    notes = files.write(tmp_path / f"a.{suffix}", photograph)
    assert len(notes) == len(lost)
    for note, word in zip(notes, lost, strict=True):
        assert word in note and "\n" not in note
    if suffix in ("bmp", "ppm", "webp"):
        np.testing.assert_array_equal(files.read(tmp_path / f"a.{suffix}").pixels, eight(RGB))


def test_exif_too_large_for_jpeg_is_left_and_said(tmp_path):
    exif = Image.Exif()
    exif[305] = "x" * 70000
    photograph = files.Photograph(scene(), exif=exif.tobytes())
    assert "holds no such EXIF" in files.write(tmp_path / "a.jpg", photograph)[0]
    assert files.write(tmp_path / "a.png", photograph) == []
    assert files.read(tmp_path / "a.png").exif is not None


def test_8_bits_are_16_rounded():
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    np.testing.assert_array_equal(np.asarray(codec.eight(every)), np.round(every[..., 0] / 257))


def test_jpeg_is_not_subsampled_and_quality_counts(tmp_path):
    for quality in (50, 95):
        files.write(tmp_path / f"{quality}.jpg", files.Photograph(scene()), quality)
    picture: Any = Image.open(tmp_path / "95.jpg")
    assert [component[1:3] for component in picture.layer] == [(1, 1)] * 3
    assert (tmp_path / "50.jpg").stat().st_size < (tmp_path / "95.jpg").stat().st_size


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_output_is_tagged_srgb_and_equal_each_time(tmp_path, suffix):
    for name in ("a", "b"):
        files.write(tmp_path / f"{name}.{suffix}", files.Photograph(scene(), dpi=(300, 300)))
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    info = Image.open(tmp_path / f"a.{suffix}").info
    if suffix == "png":
        assert info["srgb"] == 0
    else:
        source = ImageCms.ImageCmsProfile(io.BytesIO(info["icc_profile"]))
        assert "sRGB" in ImageCms.getProfileDescription(source)


# Errors


def test_unreadable_files(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("no picture at all, but text\n" * 100)
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in (
        ("missing.png", "cannot be read: No such file"),
        ("empty.png", "is empty"),
        ("text.jpg", "is no picture"),
        ("folder.png", "a folder"),
        ("pipe.png", "or a device"),
    ):
        with pytest.raises(files.FileError, match=message) as error:
            files.read(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)


def test_permission_denied(tmp_path, monkeypatch):
    save(tmp_path / "a.png", scene())

    def denied(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(files.FileError, match="a.png cannot be read: Permission denied"):
        files.read(tmp_path / "a.png")


def encoded(suffix, **options):
    stream = io.BytesIO()
    noisy = (scene(24, 30).astype(int) + RNG.integers(0, 9, (24, 30, 3))).clip(0, 255)
    Image.fromarray(noisy.astype(np.uint8)).save(stream, suffix, **options)
    return stream.getvalue()


def tiff_16():
    stream = io.BytesIO()
    tiff.write(stream, RGB, SRGB, (300, 300), exif_with_everything())
    return stream.getvalue()


EXAMPLES = {
    "png": encoded("PNG", exif=exif_with_everything(), icc_profile=SRGB),
    "png16": png(RGB, 16, 2, interlaced=True),
    "jpeg": encoded("JPEG", exif=exif_with_everything(), icc_profile=SRGB),
    "progressive": encoded("JPEG", progressive=True),
    "tiff": encoded("TIFF", exif=exif_with_everything()),
    "tiff-lzw": encoded("TIFF", compression="tiff_lzw"),
    "tiff16": tiff_16(),
    "webp": encoded("WEBP", exif=exif_with_everything()),
    "webp-lossless": encoded("WEBP", lossless=True),
    "gif": encoded("GIF"),
    "bmp": encoded("BMP"),
    "ppm": encoded("PPM"),
    "ppm16": b"P6 21 13 65535\n" + RGB.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("data", EXAMPLES.values(), ids=EXAMPLES)
def test_truncated_files_are_refused(tmp_path, data):
    path = tmp_path / "a"
    path.write_bytes(data)
    whole = files.read(path).pixels
    refused = 0
    for length in sorted(
        {*range(0, len(data), max(1, len(data) // 60)), *range(len(data) - 9, len(data))}
    ):
        path.write_bytes(data[:length])
        try:  # what only follows the pixels may be missing
            np.testing.assert_array_equal(files.read(path).pixels, whole)
        except files.FileError as error:
            refused += 1
            assert "truncated" in str(error) or "damaged" in str(error) or length == 0
    assert refused >= 50


@pytest.mark.parametrize("data", EXAMPLES.values(), ids=EXAMPLES)
def test_mutated_files_are_read_or_refused(tmp_path, data, capfd):
    random = np.random.default_rng(len(data))
    path = tmp_path / "a"
    read = 0
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(random.integers(1, 5)):
            place = random.integers(0, min(len(data), (64, 1024, len(data))[random.integers(3)]))
            changed[place] = (0, 255, 128, random.integers(0, 256))[random.integers(4)]
        if random.random() < 0.2:
            del changed[random.integers(0, len(data)) :][: random.integers(1, 99)]
        path.write_bytes(changed)
        try:
            pixels = files.read(path, max_megapixels=1).pixels
            assert pixels.dtype in (np.uint8, np.uint16) and pixels.ndim in (2, 3)
            read += 1
        except files.FileError as error:
            assert str(path) in str(error)
        try:
            assert files.read_small(bytes(changed), "a", 16).shape == (16, 16, 3)
        except files.FileError:
            pass
    assert read > 0
    if data not in (EXAMPLES["tiff-lzw"], EXAMPLES["tiff16"]):
        assert capfd.readouterr() == ("", "")  # but libtiff's own word on a damaged strip


def test_limit_is_checked_before_decoding(tmp_path):
    header = struct.pack(">IIBBBBB", 40000, 30000, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    (tmp_path / "a.png").write_bytes(data + chunk(b"IEND", b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(files.FileError, match="1200 megapixels.* 500: .*--max-megapixels"):
            files.read(tmp_path / "a.png")
        with pytest.raises(files.FileError, match="1200 megapixels"):
            files.read_small(data, "a.png", 64)
        save(tmp_path / "b.png", np.zeros((200, 1000), np.uint8))
        with pytest.raises(files.FileError, match="0.2 megapixels.* 0.1"):
            files.read(tmp_path / "b.png", max_megapixels=0.1)
        assert files.read(tmp_path / "b.png", max_megapixels=0.2).pixels.shape == (200, 1000)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.xyz", "ends in none of .png"),
        ("a", "ends in none of .png"),
        ("a.gif", "ends in none of .png"),
        ("missing/a.png", "no existing folder: create"),
        ("folder.png", "is a folder"),
        ("there.png", "exists: name another or give --overwrite"),
        ("dangling.png", "exists"),
    ],
)
def test_outputs_that_cannot_be(tmp_path, name, message):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "there.png").write_bytes(b"mine")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    before = sorted(os.listdir(tmp_path))
    for attempt in (files.check_output, lambda path: files.write(path, files.Photograph(scene()))):
        with pytest.raises(files.FileError, match=message) as error:
            attempt(tmp_path / name)
        assert name in str(error.value)
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "there.png").read_bytes() == b"mine"


def test_read_only_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(files.FileError, match="read-only"):
        files.check_output(tmp_path / "a.png")


def test_overwrite_and_permissions(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    files.write(path, files.Photograph(scene()), overwrite=True)
    np.testing.assert_array_equal(files.read(path).pixels, scene())
    (tmp_path / "made").touch()  # a file of the user's own: as readable as any other
    assert path.stat().st_mode == (tmp_path / "made").stat().st_mode
    assert files.check_output(path, overwrite=True) is None


def failing(error):
    def fail(*args, **options):
        raise error

    return fail


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("where", ["fsync", "publish", "encode"])
def test_nothing_half_written_is_left(tmp_path, monkeypatch, overwrite, error, where):
    path = tmp_path / "a.png"
    if overwrite:
        path.write_bytes(b"old")
    if where == "encode":
        monkeypatch.setattr(codec, "write_png", failing(error))
    for name in (
        ["link", "replace"] if where == "publish" else ["fsync"] if where == "fsync" else []
    ):
        monkeypatch.setattr(os, name, failing(error))
    expected = files.FileError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        files.write(path, files.Photograph(scene()), overwrite=overwrite)
    assert os.listdir(tmp_path) == (["a.png"] if overwrite else [])
    assert not overwrite or path.read_bytes() == b"old"


def run(code, *args):
    command = [sys.executable, "-c", code, *map(str, args)]
    folder = Path(__file__).parents[1]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)


def test_full_disk(tmp_path):
    pytest.importorskip("resource")
    code = """
import resource, sys, numpy as np
from colorjax.media import codec, files, tiff
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
for suffix in ("png", "jpg", "tif", "webp", "bmp", "ppm"):
    try: files.write(f"{sys.argv[1]}/a.{suffix}", files.Photograph(pixels))
    except files.FileError as error: print(error)
"""
    lines = run(code, tmp_path).stdout.splitlines()
    for line, suffix in zip(lines, ("png", "jpg", "tif", "webp", "bmp", "ppm"), strict=True):
        assert line == f"{tmp_path}/a.{suffix} could not be written: File too large"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("links", [True, False])
def test_name_is_taken_without_a_race(tmp_path, monkeypatch, links):
    path = tmp_path / "a.png"
    if not links:
        monkeypatch.setattr(os, "link", failing(OSError(95, "Operation not supported")))
    files.write(path, files.Photograph(scene()))
    np.testing.assert_array_equal(files.read(path).pixels, scene())
    # Another's file that appears after the check stays.
    path.write_bytes(b"theirs")
    monkeypatch.setattr(files, "check_output", lambda *args: None)
    with pytest.raises(files.FileError, match="exists: name another"):
        files.write(path, files.Photograph(scene()))
    assert path.read_bytes() == b"theirs" and os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize(("suffix", "side"), [("jpg", 66000), ("webp", 17000)])
def test_too_large_for_the_format(tmp_path, suffix, side):
    with pytest.raises(files.FileError, match="holds (65500|16383) pixels a side"):
        files.write(tmp_path / f"a.{suffix}", files.Photograph(np.zeros((2, side), np.uint8)))
    assert os.listdir(tmp_path) == []


def test_no_noise(tmp_path):
    """Pillow warns of this palette, of this EXIF and of so many samples."""
    index = RNG.integers(0, 4, (6, 7), dtype=np.uint16)
    chunks = chunk(b"PLTE", bytes(12)), chunk(b"tRNS", bytes(4))
    (tmp_path / "a.png").write_bytes(png(index, 8, 3, *chunks))
    save(tmp_path / "b.jpg", scene(), exif=exif_with_everything()[:60])
    many = RNG.integers(0, 255, (9, 9, 9), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "c.tif", many, photometric="rgb", planarconfig="contig")
    (tmp_path / "d.tif").write_bytes(EXAMPLES["tiff"][:-300])
    code = (
        "import sys; from colorjax.media import files\n"
        "for path in files.list_images(sys.argv[1]):\n"
        "    try: files.read(path)\n"
        "    except files.FileError: pass"
    )
    done = run(code, tmp_path)
    assert (done.stdout, done.stderr) == ("", "")


# Folders and training


def test_list_images(tmp_path):
    for name in (
        "b.JPG",
        "a.png",
        "sub/c.tiff",
        ".hidden.png",
        ".git/d.png",
        "notes.txt",
        "sub/e.WebP",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "sub")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "missing")
    listed = [str(path.relative_to(tmp_path)) for path in files.list_images(tmp_path)]
    assert listed == ["a.png", "again/c.tiff", "again/e.WebP", "b.JPG"]
    assert files.list_images(str(tmp_path / "missing")) == []


@pytest.mark.parametrize("shape", [(400, 300), (300, 400), (301, 301), (64, 900)])
@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "WEBP"])
def test_small_is_the_centre_square(shape, suffix):
    stream = io.BytesIO()
    Image.fromarray(scene(*shape)).save(stream, suffix, quality=95, lossless=True)
    small = files.read_small(stream.getvalue(), "a", 64)
    short = min(shape)
    top, left = (shape[0] - short) // 2, (shape[1] - short) // 2
    square = Image.fromarray(scene(*shape)[top : top + short, left : left + short])
    expected = np.asarray(square.resize((64, 64), Image.Resampling.BOX)).astype(int)
    # of 255: kernels differ, JPEG is lossy and decoded at half or quarter size
    assert small.shape == (64, 64, 3) and abs(small - expected).max() <= 6


@pytest.mark.parametrize("name", ["L16", "RGB16", "P", "LA", "CMYK", "profile", "grey profile"])
def test_small_of_every_kind(tmp_path, name):
    grey = name in ("L16", "LA", "grey profile")
    truth = scene().mean(2, keepdims=True).astype(np.uint8).repeat(3, 2) if grey else scene()
    picture = Image.fromarray(truth)
    stream = io.BytesIO()
    if name == "L16":
        Image.fromarray(truth[..., 0].astype(np.uint16) * 257).save(stream, "PNG")
    elif name == "RGB16":
        codec.write_png(stream, truth.astype(np.uint16) * 257, None, None)
    elif name == "P":
        picture = picture.quantize(256)
        picture.save(stream, "PNG")
        truth = np.asarray(picture.convert("RGB"))
    elif name == "LA":
        picture.convert("LA").save(stream, "PNG")
    elif name == "CMYK":
        picture.convert("CMYK").save(stream, "JPEG", quality=100)
    else:
        icc = profile(b"GRAY" if grey else b"RGB ", 1.8)
        picture.convert("L" if grey else "RGB").save(stream, "PNG", icc_profile=icc)
        truth = np.round(to_srgb((truth / 255) ** 1.8) * 255)
    small = files.read_small(stream.getvalue(), "a", 40)
    np.testing.assert_allclose(small, truth[:, 6:46], atol=8 if name == "CMYK" else 1)


def test_small_is_never_enlarged_beyond_twice():
    data = encoded("PNG")  # 24 × 30
    assert files.read_small(data, "a", 48).shape == (48, 48, 3)
    with pytest.raises(files.FileError, match="b.png has 30 × 24 pixels, too few for 49"):
        files.read_small(data, "b.png", 49)
