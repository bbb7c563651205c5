import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from pictures import (
    CAPTION,
    COMMENT,
    GREY,
    RGB,
    XMP,
    camera_exif,
    chunk,
    eight,
    encoded,
    exif_with_everything,
    ifd,
    iptc,
    packed,
    png,
    save,
    scene,
    tiff_of,
)
from PIL import Image

from colorjax.media import files, metadata

HELD = ("jpg", "png", "tif", "webp")  # kinds that hold EXIF and XMP


def stored(path):
    """The EXIF block of a file by another reader, from its TIFF header on."""
    return Image.open(path).info["exif"].removeprefix(b"Exif\0\0")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", HELD)
def test_orientation_is_applied_once(tmp_path, orientation, suffix):
    upright = np.dstack([scene(), scene()[..., 0]]) if suffix != "jpg" else scene()
    way = Image.Transpose
    undone = {
        2: way.FLIP_LEFT_RIGHT,
        3: way.ROTATE_180,
        4: way.FLIP_TOP_BOTTOM,
        5: way.TRANSPOSE,
        6: way.ROTATE_90,
        7: way.TRANSVERSE,
        8: way.ROTATE_270,
    }
    stored = Image.fromarray(upright)
    stored = stored.transpose(undone[orientation]) if orientation > 1 else stored
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


@pytest.mark.parametrize("target", HELD)
@pytest.mark.parametrize("source", HELD)
def test_exif_and_resolution_are_carried(tmp_path, source, target):
    path = save(tmp_path / f"in.{source}", scene(), exif=exif_with_everything(), dpi=(300, 300))
    photograph = files.read(path)
    assert photograph.notes == ()
    # PNG counts in whole pixels per metre; WebP has no resolution but in EXIF
    assert source == "webp" or photograph.dpi == pytest.approx((300, 300), abs=0.02)
    files.write(tmp_path / f"out.{target}", photograph)
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


@pytest.mark.parametrize("density", [(0, 0), (1, 1), (float("nan"), 72)])
def test_senseless_resolution_is_none(tmp_path, density, monkeypatch):
    image = Image.open(save(tmp_path / "a.png", scene()))
    image.info["dpi"] = density
    monkeypatch.setattr(Image, "open", lambda *args, **options: image)
    assert files.read(tmp_path / "a.png").dpi is None


@pytest.mark.parametrize(
    ("suffix", "lost"),
    [
        ("jpg", ["transparency", "8 bits"]),
        ("webp", ["8 bits", "resolution"]),
        ("bmp", ["transparency", "8 bits", "EXIF"]),
        ("ppm", ["transparency", "8 bits", "EXIF", "resolution"]),
        ("png", []),
        ("tif", []),
    ],
)
def test_what_cannot_be_kept_is_said(tmp_path, suffix, lost):
    photograph = files.Photograph(RGB, GREY, exif_with_everything(), (300, 300))
    notes = files.write(tmp_path / f"a.{suffix}", photograph)
    assert len(notes) == len(lost)
    for note, word in zip(notes, lost, strict=True):
        assert word in note and "\n" not in note
    if suffix in ("bmp", "ppm", "webp"):
        np.testing.assert_array_equal(files.read(tmp_path / f"a.{suffix}").pixels, eight(RGB))


# EXIF byte for byte


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("source", ["jpg", "png", "webp"])
@pytest.mark.parametrize("target", ["jpg", "png", "webp"])
def test_exif_is_the_same_bytes_but_for_the_thumbnail(tmp_path, order, source, target):
    exif = camera_exif(order)
    save(tmp_path / f"in.{source}", scene(), exif=b"Exif\0\0" + exif)
    photograph = files.read(tmp_path / f"in.{source}")
    assert photograph.notes == ()
    assert files.write(tmp_path / f"out.{target}", photograph) == []
    found = stored(tmp_path / f"out.{target}")
    count = struct.unpack_from(order + "H", exif, 8)[0]
    link = slice(10 + 12 * count, 14 + 12 * count)
    expected = exif[: link.start] + bytes(4) + exif[link.stop :]
    assert found == expected[: len(found)] and CAPTION in found and COMMENT in found
    assert b"\xff\xd8" not in found and b"R98" in found  # no thumbnail, but interoperability


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_quarter_turn_changes_orientation_and_what_is_across_and_down(tmp_path, order):
    save(tmp_path / "in.jpg", scene(), exif=b"Exif\0\0" + camera_exif(order, 6))
    photograph = files.read(tmp_path / "in.jpg")
    assert photograph.pixels.shape == (52, 40, 3) and photograph.dpi == (400, 300)
    tags = Image.Exif()
    tags.load(photograph.exif or b"")
    inside = tags.get_ifd(34665)
    assert (tags[274], tags[282], tags[283]) == (1, 400, 300)
    assert (inside[40962], inside[40963]) == (40, 52)
    same = camera_exif(order)
    assert sum(a != b for a, b in zip(photograph.exif or b"", same, strict=False)) < 12


def test_exif_with_bytes_that_nobody_names_is_not_cut(tmp_path):
    exif = camera_exif() + b"a preview of the maker's own" * 9
    photograph = files.read(save(tmp_path / "a.jpg", scene(), exif=b"Exif\0\0" + exif))
    assert photograph.exif is not None and len(photograph.exif) == len(exif)
    tags = Image.Exif()
    tags.load(photograph.exif)
    assert tags.get_ifd(1) == {}  # no thumbnail


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_of_a_camera_becomes_directories_of_a_tiff(tmp_path, order):
    source = camera_exif(order)
    save(tmp_path / "in.jpg", scene(), exif=b"Exif\0\0" + source)
    notes = files.write(tmp_path / "out.tif", files.read(tmp_path / "in.jpg"))
    assert notes == ["TIFF holds no EXIF of a JPEG's encoding: not kept (InteropIndex)"]
    data = (tmp_path / "out.tif").read_bytes()
    file = io.BytesIO(data)
    found_order, _, start = metadata.header(file)
    root, following = metadata.directory(file, start, found_order)
    inside, _ = metadata.directory(file, metadata.numbers(root[34665], order)[0], order)
    position, _ = metadata.directory(file, metadata.numbers(root[34853], order)[0], order)
    assert found_order == order and following == 0
    assert (root[270].kind, root[270].data) == (2, CAPTION + b"\0")
    assert (inside[37510].kind, inside[37510].data) == (7, COMMENT)
    assert inside[36864].kind == inside[37500].kind == 7 and position[2].kind == 5
    # The maker note counts from the start of the block, and is where it was.
    assert inside[37500].offset == source.index(b"MAKER\0")
    assert not {37121, 40962, 40963, 40965} & set(inside)  # of JPEGs alone (Exif 2.32)
    with tifffile.TiffFile(tmp_path / "out.tif") as tif:
        assert tif.pages.first.tags["ExifTag"].value["UserComment"]


@pytest.mark.parametrize("target", HELD)
def test_maker_notes_of_a_tiff_keep_their_place(tmp_path, target):
    save(tmp_path / "in.jpg", scene(), exif=b"Exif\0\0" + camera_exif())
    files.write(tmp_path / "in.tif", files.read(tmp_path / "in.jpg"))
    photograph = files.read(tmp_path / "in.tif")
    place = camera_exif().index(b"MAKER\0")
    assert photograph.exif is not None and photograph.exif.index(b"MAKER\0") == place
    files.write(tmp_path / f"out.{target}", photograph)
    tags = Image.open(tmp_path / f"out.{target}").getexif()
    assert tags.get_ifd(34665)[37500].startswith(b"MAKER\0")
    assert tags.get_ifd(34665)[37510] == COMMENT


NAMES = {
    269: (2, 5, b"1936\0"),
    270: (2, len(CAPTION) + 1, CAPTION + b"\0"),
    285: (2, 8, b"Sheet 3\0"),
    316: (2, 8, b"Scan PC\0"),
    40091: (1, 8, "Köln".encode("utf-16-le")),
}


@pytest.mark.parametrize("target", HELD)
def test_names_of_a_tiff_are_carried(tmp_path, target):
    (tmp_path / "in.tif").write_bytes(tiff_of(packed(GREY, 16), 21, tags=NAMES, t258=16))
    photograph = files.read(tmp_path / "in.tif")
    files.write(tmp_path / f"out.{target}", photograph)
    path = tmp_path / f"out.{target}"
    file = io.BytesIO(path.read_bytes() if target == "tif" else stored(path))
    order, _, start = metadata.header(file)
    found, _ = metadata.directory(file, start, order)
    assert {tag: found[tag][:3] for tag in NAMES} == NAMES
    assert 258 not in found or target == "tif"  # how pixels are stored is no EXIF


def test_layers_that_are_left_out_are_said(tmp_path):
    layers = {37724: (7, 8, b"Adobe Ph")}
    (tmp_path / "a.tif").write_bytes(tiff_of(packed(GREY, 16), 21, tags=layers, t258=16))
    photograph = files.read(tmp_path / "a.tif")
    assert photograph.exif is None and "Photoshop layers are left out" in photograph.notes[0]


# XMP, IPTC, comments, text


def xmp_of(path):
    info = Image.open(path).info
    return info.get("xmp") or info.get("XML:com.adobe.xmp", "").encode()


@pytest.mark.parametrize("source", HELD)
@pytest.mark.parametrize("target", HELD)
def test_xmp_is_carried(tmp_path, source, target):
    files.write(tmp_path / f"in.{source}", files.Photograph(scene(), xmp=XMP))
    assert xmp_of(tmp_path / f"in.{source}") == XMP
    photograph = files.read(tmp_path / f"in.{source}")
    assert photograph.xmp == XMP and photograph.notes == ()
    assert files.write(tmp_path / f"out.{target}", photograph) == []
    assert xmp_of(tmp_path / f"out.{target}") == XMP


def test_compressed_xmp_of_a_png(tmp_path):
    data = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)
    (tmp_path / "a.png").write_bytes(png(GREY, 16, 0, chunk(b"iTXt", data)))
    photograph = files.read(tmp_path / "a.png")
    assert photograph.xmp == XMP and photograph.text == ()


@pytest.mark.parametrize(
    "said", [b'tiff:Orientation="6"', b"<tiff:Orientation>6</tiff:Orientation>"]
)
@pytest.mark.parametrize(
    ("suffix", "by_exif"),
    [(suffix, True) for suffix in HELD] + [(suffix, False) for suffix in ("jpg", "png", "webp")],
)  # a TIFF always says its own
def test_orientation_in_xmp_does_not_turn_twice(tmp_path, said, by_exif, suffix):
    xmp = XMP.replace(b'tiff:Orientation="1"', said)
    exif = camera_exif(orientation=6) if by_exif else None
    files.write(tmp_path / f"in.{suffix}", files.Photograph(scene(), exif=exif, xmp=xmp))
    photograph = files.read(tmp_path / f"in.{suffix}")
    assert photograph.pixels.shape == (52, 40, 3)
    assert photograph.xmp == xmp.replace(b"6", b"1")
    files.write(tmp_path / "out.png", photograph)
    assert files.read(tmp_path / "out.png").pixels.shape == (52, 40, 3)
    small = files.read_small((tmp_path / f"in.{suffix}").read_bytes(), "a", 20)
    whole = Image.fromarray(photograph.pixels[6:46]).resize((20, 20))
    assert np.abs(small.astype(int) - np.asarray(whole)).max() < 12


@pytest.mark.parametrize("source", ["jpg", "tif"])
@pytest.mark.parametrize("target", HELD)
def test_iptc_is_carried_or_its_loss_said(tmp_path, source, target):
    blocks = iptc(CAPTION, b"odd")
    files.write(tmp_path / f"in.{source}", files.Photograph(scene(), iptc=blocks))
    photograph = files.read(tmp_path / f"in.{source}")
    assert photograph.iptc == blocks
    notes = files.write(tmp_path / f"out.{target}", photograph)
    if target == "jpg":
        assert Image.open(tmp_path / "out.jpg").info["photoshop"][1028] == metadata.iptc_of(blocks)
        assert notes == []
    elif target == "tif":
        with tifffile.TiffFile(tmp_path / "out.tif") as tif:
            tag = tif.pages.first.tags[33723]
            assert tag.dtype == 4 and tag.value  # LONG, as readers expect
        assert files.read(tmp_path / "out.tif").iptc == blocks and notes == []
    else:
        assert len(notes) == 1 and "holds no IPTC: caption and keywords" in notes[0]


def test_old_thumbnails_among_photoshops_resources_are_left_out():
    def resource(number, data):
        return b"8BIM" + struct.pack(">HHI", number, 0, len(data)) + data + bytes(len(data) % 2)

    blocks = resource(1036, b"thumbnail") + resource(1034, b"\1") + iptc(b"a")
    assert metadata.resources(blocks) == resource(1034, b"\1") + iptc(b"a")
    assert metadata.resources(b"8BIM\4\4") is None


COMMENTS = [b"Album 7, Blatt 3", CAPTION, "Köln".encode("latin-1")]


@pytest.mark.parametrize("comment", COMMENTS)
def test_comments_of_a_jpeg(tmp_path, comment):
    save(tmp_path / "in.jpg", scene(), comment=comment)
    photograph = files.read(tmp_path / "in.jpg")
    assert files.write(tmp_path / "out.jpg", photograph) == []
    assert Image.open(tmp_path / "out.jpg").info["comment"] == comment
    assert files.write(tmp_path / "out.png", photograph) == []
    text: dict[str, str] = Image.open(tmp_path / "out.png").info
    assert text["Comment"] == comment.decode("latin-1" if comment == COMMENTS[2] else "utf-8")
    assert files.write(tmp_path / "back.jpg", files.read(tmp_path / "out.png")) == []
    assert Image.open(tmp_path / "back.jpg").info["comment"] == comment
    for suffix in ("tif", "webp"):
        assert "holds no comment" in files.write(tmp_path / f"a.{suffix}", photograph)[0]
    save(tmp_path / "in.gif", scene(), comment=comment)
    assert files.read(tmp_path / "in.gif").comments == (comment,)


def test_text_of_a_png_is_carried_or_its_loss_said(tmp_path):
    chunks = [
        (b"tEXt", b"Title\0Mother"),
        (b"zTXt", b"Author\0\0" + zlib.compress(b"Archive")),
        (b"iTXt", b"Description\0\0\0de\0Beschreibung\0" + CAPTION),
    ]
    (tmp_path / "in.png").write_bytes(png(GREY, 16, 0, *(chunk(*each) for each in chunks)))
    photograph = files.read(tmp_path / "in.png")
    assert photograph.text == tuple(chunks)
    assert files.write(tmp_path / "out.png", photograph) == []
    assert files.read(tmp_path / "out.png").text == tuple(chunks)
    info = Image.open(tmp_path / "out.png").info
    assert info["Title"] == "Mother" and info["Description"] == CAPTION.decode()
    for suffix in ("jpg", "tif", "webp"):
        notes = files.write(tmp_path / f"a.{suffix}", photograph)
        assert any("not kept (Title, Author, Description)" in note for note in notes)


def test_exif_in_the_text_of_a_png(tmp_path):
    """As ImageMagick wrote it before PNG had a place for it."""
    block = b"Exif\0\0" + camera_exif(orientation=3)
    text = b"\nexif\n%8d\n" % len(block) + block.hex().encode() + b"\n"
    raw = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
    (tmp_path / "a.png").write_bytes(png(GREY, 16, 0, raw))
    photograph = files.read(tmp_path / "a.png")
    np.testing.assert_array_equal(photograph.pixels, GREY[::-1, ::-1])
    assert photograph.exif and CAPTION in photograph.exif and photograph.text == ()


def test_metadata_of_a_jpeg_2000(tmp_path):
    def box(kind, data):
        return struct.pack(">I", len(data) + 8) + kind + data

    data = encoded("JPEG2000")
    boxes = box(b"uuid", b"JpgTiffExif->JP2" + camera_exif(orientation=6))
    boxes += box(b"uuid", bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + XMP)
    place = data.index(b"jp2c") - 4
    (tmp_path / "a.jp2").write_bytes(data[:place] + boxes + data[place:])
    photograph = files.read(tmp_path / "a.jp2")
    assert photograph.pixels.shape == (30, 24, 3) and photograph.xmp == XMP
    assert photograph.exif is not None and CAPTION in photograph.exif


@pytest.mark.parametrize("suffix", ["avif", "heic"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_metadata_of_telephones(tmp_path, suffix, orientation):
    exif = b"Exif\0\0" + camera_exif(orientation=orientation)
    save(tmp_path / f"in.{suffix}", scene(), exif=exif, xmp=XMP, quality=95)
    photograph = files.read(tmp_path / f"in.{suffix}")
    assert photograph.pixels.shape == ((40, 52, 3) if orientation == 1 else (52, 40, 3))
    assert photograph.exif is not None and photograph.xmp == XMP
    if suffix == "heic":  # what writes AVIF here changes EXIF itself
        assert CAPTION in photograph.exif and COMMENT in photograph.exif
    tags = Image.Exif()
    tags.load(photograph.exif)
    assert tags.get(274, 1) == 1


@pytest.mark.parametrize("place", range(0, 220, 12))
def test_damaged_exif_never_stops_a_photograph(tmp_path, place):
    exif = bytearray(camera_exif())
    exif[place : place + 4] = b"\xff\xff\xff\xf0"
    save(tmp_path / "a.jpg", scene(), exif=b"Exif\0\0" + bytes(exif))
    photograph = files.read(tmp_path / "a.jpg")
    for suffix in ("jpg", "tif"):
        files.write(tmp_path / f"b.{suffix}", photograph)
        assert files.read(tmp_path / f"b.{suffix}").pixels.shape[2] == 3


def test_places_outside_of_exif_do_not_become_places_in_pixels(tmp_path):
    exif = bytearray(camera_exif())
    comment = exif.index(struct.pack(">HHI", 37510, 7, len(COMMENT)))
    gps = exif.index(struct.pack(">HHI", 34853, 4, 1))
    for place in (comment, gps):
        exif[place + 8 : place + 12] = struct.pack(">I", 5000)
    save(tmp_path / "a.jpg", scene(), exif=b"Exif\0\0" + bytes(exif))
    files.write(tmp_path / "b.tif", files.read(tmp_path / "a.jpg"))
    tags = Image.open(tmp_path / "b.tif").getexif()
    assert 34853 not in tags and 37510 not in tags.get_ifd(34665)
    assert tags.get_ifd(34665)[37500].startswith(b"MAKER")


def test_directories_inside_themselves_come_to_an_end(tmp_path):
    exif = bytearray(camera_exif(orientation=6))
    place = exif.index(struct.pack(">HHI", 40965, 4, 1))
    inside = exif.index(struct.pack(">HHI", 34665, 4, 1))
    exif[place : place + 12] = exif[inside : inside + 12]  # EXIF in EXIF
    save(tmp_path / "a.jpg", scene(), exif=b"Exif\0\0" + bytes(exif))
    photograph = files.read(tmp_path / "a.jpg")
    assert photograph.pixels.shape == (52, 40, 3) and photograph.notes == ()
    assert files.write(tmp_path / "a.tif", photograph) == []


def test_a_directory_that_names_the_whole_file_many_times_is_refused():
    entries = {tag: (7, 5000, bytes(5000)) for tag in range(1000, 1100)}
    data = bytearray(b"II*\0\x08\0\0\0" + ifd(entries, at=8))
    for row in range(100):
        struct.pack_into("<I", data, 10 + 12 * row + 4, len(data) - 2000)
        struct.pack_into("<I", data, 10 + 12 * row + 8, 1000)
    with pytest.raises(ValueError, match="more bytes than there are"):
        metadata.directory(io.BytesIO(data), 8, "<")


def test_too_large_for_a_segment_of_jpeg(tmp_path):
    exif = Image.Exif()
    exif[305] = "x" * 70000
    large = {"exif": exif.tobytes(), "xmp": XMP + b" " * 70000, "comments": (b"x" * 70000,)}
    photograph = files.Photograph(scene(), **large)
    notes = files.write(tmp_path / "a.jpg", photograph)
    for note, what in zip(notes, ("EXIF", "XMP", "long comment"), strict=True):
        assert f"holds no such {what}" in note
    assert files.write(tmp_path / "a.png", photograph) == []
    assert files.read(tmp_path / "a.png").exif is not None
    blocks = iptc(b"x" * 60000, b"y" * 60000)
    assert files.write(tmp_path / "b.jpg", files.Photograph(scene(), iptc=blocks)) == []
    assert files.read(tmp_path / "b.jpg").iptc == blocks
