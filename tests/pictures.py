"""Pictures of many kinds, made by another hand than the package's, for tests and fuzzing."""

import io
import struct
import zlib

import numpy as np
import pillow_heif
import tifffile
from PIL import Image

from colorjax.media import codec, tiff

pillow_heif.register_heif_opener()

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
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)]
        passes += [(2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
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


def icc_of(tags, base):
    """An ICC profile of these tags, its header like that of another."""
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    return struct.pack(">I", 128 + len(table + body)) + bytes(base[4:128]) + table + body


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
    base[16:20] = space
    return icc_of(kept, base)


def to_srgb(linear):
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def exif_with_everything():
    exif = Image.Exif()
    exif[271], exif[306], exif[282] = "Maker", "1936:03:01 12:00:00", 300.0
    exif.get_ifd(34665).update({37500: b"maker's own\0\1\2", 33434: 0.01})
    exif.get_ifd(34853).update({1: "N", 2: (35.0, 2.0, 33.5)})
    return exif.tobytes()


def ifd(entries, order="<", at=0, following=0, big=False):
    """A directory to lie at that place, its values behind it: tag -> (type, count, data)."""
    head, row, word, room = ("Q", 20, "Q", 8) if big else ("H", 12, "I", 4)
    table = struct.pack(order + head, len(entries))
    values, place = b"", at + len(table) + row * len(entries) + room
    for tag, (kind, count, data) in sorted(entries.items()):
        if len(data) > room:
            values += bytes((place + len(values)) % 2)
            inline = struct.pack(order + word, place + len(values))
            values += data
        else:
            inline = data.ljust(room, b"\0")
        table += struct.pack(f"{order}HH{word}", tag, kind, count) + inline
    return table + struct.pack(order + word, following) + values


def tiff_of(rows, width, order="<", big=False, tags=None, before=b"", **changes):
    """A TIFF of one strip of bytes; `changes` are `t262=2`, `tags` as of `ifd`."""
    numbers = {256: width, 257: len(rows), 259: 1, 262: 1, 277: 1, 278: len(rows), 284: 1}
    numbers |= {int(name[1:]): value for name, value in changes.items()}
    data = before + b"".join(rows)
    start = 16 if big else 8
    numbers |= {273: start + len(before), 279: len(data) - len(before)}
    entries = dict(tags or {})
    for tag, value in numbers.items():
        values = value if isinstance(value, tuple) else (value,)
        kind, letter = ((16, "Q") if big else (4, "I")) if tag in (256, 257, 273, 279) else (3, "H")
        entries[tag] = (kind, len(values), struct.pack(f"{order}{len(values)}{letter}", *values))
    mark = b"II" if order == "<" else b"MM"
    if big:
        head = mark + struct.pack(order + "HHHQ", 43, 8, 0, start + len(data))
    else:
        head = mark + struct.pack(order + "HI", 42, start + len(data))
    return head + data + ifd(entries, order, start + len(data), big=big)


def packed(levels, bits):
    """Rows of whole numbers, `H W`, of so many bits each, as a TIFF has them."""
    if bits == 16:
        return [row.astype("<u2").tobytes() for row in levels]
    spread = (levels[..., None].astype(int) >> np.arange(bits)[::-1]) & 1
    return [np.packbits(row.ravel()).tobytes() for row in spread]


CAPTION = "Großmutter vor der Bäckerei, Köln 1936".encode()
COMMENT = b"UNICODE\0" + "»Für Élise«".encode("utf-16-be")


def camera_exif(order=">", orientation=1):
    """EXIF as cameras write it: a maker note that counts from the block's start, UNDEFINED values,
    interoperability, a thumbnail at its end; and where the maker note is."""

    def number(letter, *values):
        return struct.pack(f"{order}{len(values)}{letter}", *values)

    def at(entries, place):
        block = ifd(entries, order, place)
        return block, place + len(block) + len(block) % 2

    ratio = number("I", 300, 1)
    root = {
        270: (2, len(CAPTION) + 1, CAPTION + b"\0"),
        271: (2, 6, b"Maker\0"),
        274: (3, 1, number("H", orientation)),
        282: (5, 1, ratio),
        283: (5, 1, number("I", 400, 1)),
        296: (3, 1, number("H", 2)),
        531: (3, 1, number("H", 1)),
        34665: (4, 1, number("I", 0)),
        34853: (4, 1, number("I", 0)),
    }
    _, exif_at = at(root, 8)
    note = b"MAKER\0" + number("I", exif_at)
    inside = {
        33434: (5, 1, number("I", 1, 125)),
        36864: (7, 4, b"0232"),
        37121: (7, 4, b"\1\2\3\0"),
        37500: (7, len(note), note),
        37510: (7, len(COMMENT), COMMENT),
        40960: (7, 4, b"0100"),
        40961: (3, 1, number("H", 1)),
        40962: (4, 1, number("I", 52)),
        40963: (4, 1, number("I", 40)),
        40965: (4, 1, number("I", 0)),
    }
    _, gps_at = at(inside, exif_at)
    position = number("I", 50, 1, 54, 1, 0, 1)
    gps, interop_at = at({0: (1, 4, b"\2\3\0\0"), 1: (2, 2, b"N\0"), 2: (5, 3, position)}, gps_at)
    interop, small_at = at({1: (2, 4, b"R98\0"), 2: (7, 4, b"0100")}, interop_at)
    thumbnail = encoded("JPEG")
    small = {
        259: (3, 1, number("H", 6)),
        282: (5, 1, ratio),
        283: (5, 1, ratio),
        296: (3, 1, number("H", 2)),
        513: (4, 1, number("I", 0)),
        514: (4, 1, number("I", len(thumbnail))),
    }
    _, thumbnail_at = at(small, small_at)
    root[34665], root[34853] = (4, 1, number("I", exif_at)), (4, 1, number("I", gps_at))
    inside[40965], small[513] = (4, 1, number("I", interop_at)), (4, 1, number("I", thumbnail_at))
    block = (b"II*\0" if order == "<" else b"MM\0*") + number("I", 8)
    block += ifd(root, order, 8, small_at)
    for content, place in ((ifd(inside, order, exif_at), exif_at), (gps, gps_at)):
        block = block.ljust(place, b"\0") + content
    block = block.ljust(interop_at, b"\0") + interop
    return block.ljust(small_at, b"\0") + ifd(small, order, small_at) + thumbnail


def iptc(*values):
    """Photoshop's image resources with an IPTC record of these captions."""
    record = b"".join(b"\x1c\2\x78" + struct.pack(">H", len(v)) + v for v in values)
    return b"8BIM\4\4\0\0" + struct.pack(">I", len(record)) + record + bytes(len(record) % 2)


XMP = (
    b"<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x='adobe:ns:meta/'>"
    b"<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description "
    b"xmlns:tiff='http://ns.adobe.com/tiff/1.0/' tiff:Orientation=\"1\"/></rdf:RDF></x:xmpmeta>"
    b"<?xpacket end='w'?>"
)


def encoded(suffix, **options):
    stream = io.BytesIO()
    noisy = (scene(24, 30).astype(int) + RNG.integers(0, 9, (24, 30, 3))).clip(0, 255)
    Image.fromarray(noisy.astype(np.uint8)).save(stream, suffix, **options)
    return stream.getvalue()


def written(write, *args, **options):
    stream = io.BytesIO()
    write(stream, *args, **options)
    return stream.getvalue()


def preview_and_picture(pixels, photometric="rgb"):
    """A TIFF whose first directory is a small preview, the picture among its SubIFDs."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as tif:
        small = np.ascontiguousarray(pixels[::4, ::4])
        tif.write(small, subfiletype=1, subifds=1, metadata=None, photometric=photometric)
        tif.write(pixels, subfiletype=0, metadata=None, photometric=photometric)
    return stream.getvalue()


EXAMPLES = {
    "png": encoded("PNG", exif=exif_with_everything(), icc_profile=SRGB),
    "png16": png(RGB, 16, 2, interlaced=True),
    "png-text": png(GREY, 16, 0, *(chunk(*c) for c in [(b"tEXt", b"Title\0Mother")])),
    "jpeg": encoded("JPEG", exif=exif_with_everything(), icc_profile=SRGB),
    "jpeg-camera": encoded("JPEG", exif=b"Exif\0\0" + camera_exif(), xmp=XMP, comment=b"Album"),
    "progressive": encoded("JPEG", progressive=True),
    "tiff": encoded("TIFF", exif=exif_with_everything()),
    "tiff-lzw": encoded("TIFF", compression="tiff_lzw"),
    "tiff16": written(tiff.write, RGB, SRGB, (300, 300), camera_exif(), XMP, iptc(b"a")),
    "tiff-big": tiff_of(packed(GREY, 16), 21, big=True, t258=16),
    "tiff14": tiff_of(packed(GREY >> 2, 14), 21, t258=14),
    "tiff-lab": tiff_of(packed(RGB.reshape(13, -1), 16), 21, t258=(16,) * 3, t262=8, t277=3),
    "tiff-sub": preview_and_picture(RGB),
    "webp": encoded("WEBP", exif=exif_with_everything(), xmp=XMP),
    "webp-lossless": encoded("WEBP", lossless=True),
    "gif": encoded("GIF"),
    "bmp": encoded("BMP"),
    "ppm": encoded("PPM"),
    "ppm16": b"P6 21 13 65535\n" + RGB.astype(">u2").tobytes(),
    "jp2": encoded("JPEG2000"),
    "avif": encoded("AVIF", exif=exif_with_everything(), xmp=XMP),
    "heic": encoded("HEIF", exif=exif_with_everything()),
}
