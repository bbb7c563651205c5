import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, TiffImagePlugin
from pictures import *

from colorjax.media import codec, files


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
