import io
import os
import resource
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
from conftest import refused
from pictures import (
    EXAMPLES,
    GREY,
    RGB,
    RNG,
    chunk,
    encoded,
    exif_with_everything,
    png,
    profile,
    save,
    scene,
    to_srgb,
)
from PIL import Image, ImageCms

import colorize
from colorjax.media import codec, files, tiff

# pytest takes away the filters that `files` sets.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::UserWarning:PIL.{module}")
    for module in ("Image", "PngImagePlugin", "TiffImagePlugin")
]


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


def test_progressive_jpeg(tmp_path):
    save(tmp_path / "a.jpg", scene(), quality=95, progressive=True)
    assert abs(files.read(tmp_path / "a.jpg").pixels.astype(int) - scene()).max() < 20


@pytest.mark.parametrize("name", ["a.jpg", "a.psd"])
def test_a_suffix_says_nothing_where_the_content_does(tmp_path, name):
    path = save(tmp_path / name, scene(), format="PNG")
    np.testing.assert_array_equal(files.read(path).pixels, scene())


@pytest.mark.parametrize("suffix", ["gif", "tif", "png", "webp"])
def test_first_of_several_frames(tmp_path, suffix):
    frames = [Image.new("L", (8, 6), level).convert("RGB") for level in (10, 200)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    photograph = files.read(tmp_path / f"a.{suffix}")
    assert (photograph.pixels == 10).all() and "first frame" in photograph.notes[0]


@pytest.mark.parametrize("suffix", ["jp2", "j2k", "avif", "heic", "heif", "jfif", "jpe"])
def test_kinds_of_telephones_archives_and_browsers(tmp_path, suffix):
    picture = Image.fromarray(scene())
    kind = {"jp2": "JPEG2000", "j2k": "JPEG2000", "avif": "AVIF", "heic": "HEIF", "heif": "HEIF"}
    options = {"irreversible": False} if "2" in suffix else {"quality": 95, "subsampling": "4:4:4"}
    picture.save(tmp_path / f"a.{suffix}", kind.get(suffix, "JPEG"), **options)
    photograph = files.read(tmp_path / f"a.{suffix}")
    assert photograph.notes == () and not photograph.partial
    np.testing.assert_allclose(photograph.pixels, scene(), atol=0 if "2" in suffix else 12)
    small = files.read_small((tmp_path / f"a.{suffix}").read_bytes(), "a", 20)
    assert small.shape == (20, 20, 3)
    assert f".{suffix}" in files.SUFFIXES


def test_jpeg_2000_of_more_than_8_bits(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.jp2", irreversible=False)
    np.testing.assert_array_equal(files.read(tmp_path / "a.jp2").pixels, GREY)


def test_heic_without_the_extra_that_reads_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.heic").write_bytes(EXAMPLES["heic"])
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    words = ("a.heic is HEIC", "pip install 'colorjax[heic]'")
    refused(capsys, colorize.main, [tmp_path / "a.heic", tmp_path / "b.png"], *words)


def jpeg_of(marker, precision=8):
    """The beginning of a JPEG whose frame header is that one."""
    frame = struct.pack(">BBHBHHB", 255, marker, 11, precision, 8, 8, 1) + b"\1\x11\0"
    return b"\xff\xd8\xff\xfe\0\4hi" + frame


OTHERS = {
    "a.psd": (b"8BPS\0\1", "Photoshop"),
    "a.pdf": (b"%PDF-1.7", "PDF"),
    "a.svg": (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    "a.eps": (b"%!PS-Adobe-3.0 EPSF-3.0", "EPS"),
    "a.exr": (b"v/1\1\2\0\0\0", "OpenEXR"),
    "a.hdr": (b"#?RADIANCE\n", "Radiance HDR"),
    "a.xcf": (b"gimp xcf v011", "GIMP"),
    "a.jxl": (b"\xff\x0a\xfa\x1f", "JPEG XL"),
    "b.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    "a.jxr": (b"II\xbc\1", "JPEG XR"),
    "a.dcm": (bytes(128) + b"DICM", "DICOM"),
    "a.fits": (b"SIMPLE  =                    T", "FITS"),
    "a.ico": (b"\0\0\1\0\1\0", "icon"),
    "a.tga": (bytes(30), "Targa"),
    "a.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1", "raw"),
    "a.raf": (b"FUJIFILMCCD-RAW 0201", "raw"),
    "a.cr2": (b"II*\0\x10\0\0\0CR\2\0", "raw"),
    "a.orf": (b"IIRO\x08\0\0\0", "raw"),
    "a.jls": (jpeg_of(0xF7), "JPEG-LS"),
    "lossless.jpg": (jpeg_of(0xC3), "lossless JPEG"),
    "twelve.jpg": (jpeg_of(0xC1, 12), "JPEG of 12 bits"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_are_named_for_what_they_are(tmp_path, name, capsys):
    data, kind = OTHERS[name]
    for path in (tmp_path / name, tmp_path / "other.png"):  # by content; Targa by its name alone
        path.write_bytes(data + bytes(200))
        if kind == "Targa" and path.suffix == ".png":
            continue
        said = "is raw" if kind == "raw" else f"is of the kind {kind}"
        refused(capsys, colorize.main, [path, tmp_path / "out.tif"], path.name, said)
    listed = files.OTHER_KINDS.get(Path(name).suffix)
    assert listed == kind or Path(name).suffix in (".jpg", ".jls")


# Files that are cut short


def jpeg(**options):
    stream = io.BytesIO()
    Image.fromarray(scene(480, 360)).save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_marker_is_whole(tmp_path, progressive):
    data = jpeg(progressive=progressive)
    (tmp_path / "a.jpg").write_bytes(data[:-2])
    photograph = files.read(tmp_path / "a.jpg")
    np.testing.assert_array_equal(photograph.pixels, np.asarray(Image.open(io.BytesIO(data))))
    assert photograph.notes == ("the file lacks its end; all of the picture is there",)
    assert not photograph.partial


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_jpeg_that_is_cut_short_is_read_as_far_as_it_goes(tmp_path, share):
    data = jpeg(exif=exif_with_everything())
    (tmp_path / "a.jpg").write_bytes(data[: int(share * len(data))])
    photograph = files.read(tmp_path / "a.jpg")
    (note,) = photograph.notes
    missing = float(note.split(":")[1].split("%")[0]) / 100
    assert photograph.partial and "is missing at its end, and is grey" in note
    assert photograph.exif is not None
    rows = round(480 * (1 - missing))
    assert 0.5 * share < 1 - missing < 1.3 * share
    np.testing.assert_allclose(photograph.pixels[: rows - 9], scene(480, 360)[: rows - 9], atol=16)
    assert (photograph.pixels[rows + 22 :] == 128).all()


def test_a_progressive_jpeg_that_is_cut_short_is_coarse(tmp_path):
    data = jpeg(progressive=True)
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 2 // 3])
    photograph = files.read(tmp_path / "a.jpg")
    assert photograph.partial and len(photograph.notes) == 1
    assert np.abs(photograph.pixels.astype(int) - scene(480, 360)).mean() < 20


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("kind", [0, 2, 4, 6])
def test_a_png_that_is_cut_short_is_read_as_far_as_it_goes(tmp_path, depth, kind):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    samples = RNG.integers(0, 2**depth, (90, 40, channels), dtype=np.uint16)
    text = chunk(b"tEXt", b"Title\0Mother")
    data = png(samples, depth, kind, text)
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    photograph = files.read(tmp_path / "a.png")
    missing = int(photograph.notes[0].split(":")[1].split("%")[0])
    assert photograph.partial and 45 <= missing <= 60
    colors = samples[:40, :, :3] if channels > 2 else samples[:40, :, 0]
    np.testing.assert_array_equal(photograph.pixels[:40], colors)
    assert len(np.unique(photograph.pixels[60:])) == 1 and photograph.text


LOSSY_ENDS = ("jpeg", "jpeg-camera", "progressive", "png", "png-text")


@pytest.mark.parametrize("name", EXAMPLES)
def test_truncated_files_are_whole_or_partial_or_refused(tmp_path, name):
    data, path = EXAMPLES[name], tmp_path / "a"
    path.write_bytes(data)
    whole = files.read(path)
    refusals = 0
    lengths = {*range(0, len(data), max(1, len(data) // 25)), *range(len(data) - 5, len(data))}
    for length in sorted(lengths):
        path.write_bytes(data[:length])
        try:
            photograph = files.read(path)
        except files.FileError as error:
            refusals += 1
            assert any(word in str(error) for word in ("truncated", "damaged", "empty"))
            continue
        assert photograph.pixels.shape == whole.pixels.shape
        if photograph.partial:
            assert name in LOSSY_ENDS and "cut short" in photograph.notes[0]
        elif name != "progressive":  # what only follows the pixels may be missing
            np.testing.assert_array_equal(photograph.pixels, whole.pixels)
    assert refusals >= (3 if name in LOSSY_ENDS else 20)


def test_opaque_alpha_is_no_alpha(tmp_path):
    save(tmp_path / "a.png", np.dstack([scene(), np.full((40, 52), 255, np.uint8)]))
    assert files.read(tmp_path / "a.png").alpha is None


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "webp", "bmp", "ppm", "PNG"])
def test_lossless_formats_hold_exactly_the_pixels(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    for pixels in (scene(), scene()[..., 0], scene()[:1, :1]):
        assert files.write(path, files.Photograph(pixels), overwrite=True) == []
        read = np.asarray(Image.open(path))
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
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        np.testing.assert_array_equal(tif.asarray().reshape(expected.shape), expected)
        assert tif.pages.first.tags["XResolution"].value == (600, 1)
    for suffix in ("png", "tif"):
        again = files.read(tmp_path / f"a.{suffix}")
        np.testing.assert_array_equal(again.pixels, pixels)
        assert again.dpi == pytest.approx((600, 300), abs=0.02)
        if alpha is not None:
            np.testing.assert_array_equal(again.alpha, alpha)


def test_many_strips(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "STRIP", 20_000)
    pixels = RNG.integers(0, 65536, (300, 401, 3), dtype=np.uint16)
    for suffix in ("png", "tif"):
        files.write(tmp_path / f"a.{suffix}", files.Photograph(pixels))
        np.testing.assert_array_equal(files.read(tmp_path / f"a.{suffix}").pixels, pixels)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), pixels)


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


def test_limit_is_checked_before_decoding(tmp_path):
    header = struct.pack(">IIBBBBB", 40000, 30000, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    (tmp_path / "a.png").write_bytes(data + chunk(b"IEND", b""))
    save(tmp_path / "b.png", np.zeros((200, 1000), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(files.FileError, match="1200 megapixels.* 500: .*--max-megapixels"):
            files.read(tmp_path / "a.png")
        with pytest.raises(files.FileError, match="1200 megapixels"):
            files.read_small(data, "a.png", 64)
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
        with pytest.raises(files.FileError, match=f"{name} .*{message}"):
            attempt(tmp_path / name)
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
@pytest.mark.parametrize("where", ["fsync", "link replace", "write_png"])
def test_nothing_half_written_is_left(tmp_path, monkeypatch, overwrite, error, where):
    path, module = tmp_path / "a.png", codec if where == "write_png" else os
    if overwrite:
        path.write_bytes(b"old")
    for name in where.split():
        monkeypatch.setattr(module, name, failing(error))
    expected = files.FileError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        files.write(path, files.Photograph(scene()), overwrite=overwrite)
    assert os.listdir(tmp_path) == (["a.png"] if overwrite else [])
    assert not overwrite or path.read_bytes() == b"old"


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


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp", "ppm"])
def test_full_disk(tmp_path, suffix):
    pixels = RNG.integers(0, 256, (200, 200, 3), dtype=np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, before[1]))
    try:
        with pytest.raises(files.FileError, match="could not be written: File too large"):
            files.write(tmp_path / f"a.{suffix}", files.Photograph(pixels))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


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
    command, folder = [sys.executable, "-c", code, str(tmp_path)], Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_list_images(tmp_path):
    for name in "b.JPG a.png sub/c.tiff .hidden.png .git/d.png notes.txt sub/e.WebP".split():
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
