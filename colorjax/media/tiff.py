"""TIFF: which picture of a file is meant, its samples at their own depth, and writing it.

Read here are BigTIFF, grey of 1 to 16 bits, RGB, CMYK and CIELab, with further channels, in strips
or tiles, interleaved or in planes. The rest (JPEG, fax, palettes) is left to Pillow. TIFF 6.0.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from colorjax.media import metadata
from colorjax.media.metadata import Directory, Entry

STRIP = 2**20  # pixels handled at a time
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DEFLATE, _BY_LIBTIFF = (8, 32946), (5, 32773, 34925, 50000)  # LZW, PackBits, LZMA, Zstandard
# Photometric interpretation -> colour space, its channels.
_SPACES = {0: ("L", 1), 1: ("L", 1), 2: ("RGB", 3), 5: ("CMYK", 4), 8: ("LAB", 3), 9: ("ICCLAB", 3)}
_RAW = (32803, 34892)  # photometric interpretations: a sensor's mosaic, linear light of one


@dataclass
class Tiff:
    """An open file and the directory of the picture that is meant."""

    file: BinaryIO
    order: str
    big: bool
    root: Directory
    page: Directory
    place: int  # of the page's directory
    several: bool  # whether other pages of full size follow

    def number(self, tag: int, default: int = 0) -> int:
        """Read the first value of a tag of the page."""
        return metadata.number(self.page, tag, self.order, default)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.number(256), self.number(257)

    @property
    def is_known(self) -> bool:
        """Whether `samples` reads it."""
        number = self.number
        bits = metadata.numbers(self.page.get(258), self.order) or (1,)
        formats = set(metadata.numbers(self.page.get(339), self.order) or (1,))
        space, needed = _SPACES.get(number(262, -1), ("", 99))
        return (
            number(259, 1) in (1, *_DEFLATE, *_BY_LIBTIFF)
            and needed <= number(277, 1) <= 64
            and len(set(bits)) == 1
            and (1 <= bits[0] <= 16 if space in ("L", "RGB") else bits[0] in (8, 16))
            and formats <= ({1, 2, 4} if space == "LAB" else {1, 4})
            and number(317, 1) in ((1, 2) if bits[0] in (8, 16) else (1,))
            and number(284, 1) in (1, 2)
            and (space != "CMYK" or number(332, 1) == 1)
            and min(self.size) > 0
        )

    @property
    def white(self) -> np.ndarray | None:
        """X Y Z of the white that is said; None where it is not."""
        entry = self.page.get(318)
        if not entry or entry.kind != 5 or entry.count != 2:
            return None
        x, over_x, y, over_y = struct.unpack(self.order + "4I", entry.data)
        if not (x and y and over_x and over_y):
            return None
        x, y = x / over_x, y / over_y
        return np.array([x / y, 1, (1 - x - y) / y]) if x + y < 1 else None

    @property
    def dpi(self) -> tuple[float, float] | None:
        """Pixels an inch, across and down; None where it is not said."""
        return metadata.resolution(self.root | self.page, self.order)


class RawError(ValueError):
    """A TIFF that holds what a camera's or scanner's sensor saw, not yet a picture."""


def open_tiff(file: BinaryIO) -> Tiff:
    """Find the picture that is meant: the first page, or the largest where that is a preview.

    Raises:
        RawError: it is raw, as DNG is.
        ValueError: it has no directory.
    """
    order, big, start = metadata.header(file)
    root, following = metadata.directory(file, start, order, big, strict=True)
    if 50706 in root:
        raise RawError("DNG")

    def number(page: Directory, tag: int) -> int:
        return metadata.number(page, tag, order)

    def reduced(page: Directory) -> bool:
        return bool(number(page, 254) & 5) or number(page, 255) == 2

    def area(page: Directory) -> int:
        return number(page, 256) * number(page, 257)

    def page_at(place: int) -> tuple[Directory, int] | None:
        """The directory there and the place of the next; None if damaged, unless it matters."""
        try:
            return metadata.directory(file, place, order, big, strict=True)
        except ValueError:
            if reduced(root):
                raise
            return None

    def later() -> Iterator[tuple[Directory, int]]:
        place, seen = following, {start}
        while place and place not in seen and len(seen) < 1000 and (found := page_at(place)):
            seen.add(place)
            yield found[0], place
            place = found[1]

    def inner(page: Directory) -> Iterator[tuple[Directory, int]]:
        for place in metadata.numbers(page.get(330), order)[:100]:
            if found := page_at(place):
                yield found[0], place

    pages = [(root, start), *inner(root)]
    if reduced(root):
        for page in later():
            pages += [page, *inner(page[0])]
    if any(number(page, 262) in _RAW for page, _ in pages):
        raise RawError("TIFF")
    full = [page for page in pages if not reduced(page[0])] or pages[:1]
    page, place = max(full, key=lambda page: area(page[0]))  # the first among equals
    several = any(not reduced(other) and area(other) for other, at in later() if at != place)
    return Tiff(file, order, big, root, page, place, several)


def for_pillow(tiff: Tiff) -> BinaryIO:
    """Give the file as Pillow shall see it: the picture meant is its first directory."""
    first = metadata.header(tiff.file)[2]
    tiff.file.seek(0)
    if tiff.place == first:
        return tiff.file
    data = bytearray(tiff.file.read())
    struct.pack_into(
        tiff.order + ("Q" if tiff.big else "I"), data, 8 if tiff.big else 4, tiff.place
    )
    return io.BytesIO(data)


def _by_libtiff(data: bytes, compression: int, fill: int, width: int, height: int) -> bytes:
    """Decompress a strip by libtiff, as a picture of bytes."""
    tags = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 266: fill, 277: 1}
    tags |= {273: 8 + 2 + 12 * 10 + 4, 278: height, 279: len(data)}
    head = struct.pack("<4sIH", b"II*\0", 8, len(tags))
    for tag in sorted(tags):
        head += struct.pack("<HHII", tag, 4, 1, tags[tag])
    with Image.open(io.BytesIO(head + bytes(4) + data), formats=["TIFF"]) as image:
        return image.tobytes()


def _unpacked(
    raw: bytes, order: str, bits: int, rows: int, width: int, channels: int
) -> np.ndarray:
    """Unpack bytes, each row from a whole byte on: `rows width channels`, uint16 above 8 bits."""
    if bits in (8, 16):
        values = np.frombuffer(raw, "u1" if bits == 8 else order + "u2")
        return values.astype(values.dtype.newbyteorder("="), copy=False).reshape(
            rows, width, channels
        )
    octets = np.frombuffer(raw, np.uint8).reshape(rows, -1)
    values = np.empty((rows, width * channels), np.uint16)
    step = max(1, STRIP // (width * channels))
    for top in range(0, rows, step):
        part = np.unpackbits(octets[top : top + step], axis=1)[:, : width * channels * bits]
        part = part.reshape(len(part), -1, bits)
        total = np.zeros(part.shape[:2], np.uint16)
        for bit in range(bits):  # the first is the highest
            total = total << 1 | part[..., bit]
        values[top : top + step] = total
    return values.reshape(rows, width, channels)


def _blocks(tiff: Tiff) -> np.ndarray:
    """Read all channels as the file has them, `H W C`."""
    number, (width, height), bits = tiff.number, tiff.size, tiff.number(258, 1)
    channels, compression, predictor = number(277, 1), number(259, 1), number(317, 1)
    tiled = 322 in tiff.page
    across, down = (
        (number(322), number(323)) if tiled else (width, min(number(278, height), height))
    )
    if across < 1 or down < 1 or across * down > 4 * width * height + 2**22:
        raise ValueError(f"tiles of {across} × {down}")
    offsets, sizes = (
        metadata.numbers(tiff.page.get(tag), tiff.order)
        for tag in ((324, 325) if tiled else (273, 279))
    )
    planes, each = (channels, 1) if number(284, 1) == 2 else (1, channels)
    columns, lines = -(-width // across), -(-height // down)
    if len(offsets) < columns * lines * planes:
        raise ValueError("truncated: its list of strips is short")
    row = (across * each * bits + 7) // 8
    found = np.zeros((height, width, channels), np.uint8 if bits <= 8 else np.uint16)
    for index in range(columns * lines * planes):
        plane, rest = divmod(index, columns * lines)
        top, left = rest // columns * down, rest % columns * across
        rows = down if tiled else min(down, height - top)
        tiff.file.seek(offsets[index])
        plain = compression == 1
        size = rows * row if plain or index >= len(sizes) else sizes[index]
        raw = tiff.file.read(size)
        if compression in _DEFLATE:
            raw = zlib.decompressobj().decompress(raw, rows * row)
        elif not plain and raw:
            raw = _by_libtiff(raw, compression, number(266, 1), row, rows)
        elif number(266, 1) == 2:  # bits of each byte in the other order
            octets = np.unpackbits(np.frombuffer(raw, np.uint8)[:, None], axis=1)
            raw = np.packbits(octets, axis=1, bitorder="little").tobytes()
        if len(raw) < rows * row:
            raise ValueError("truncated: a strip ends early")
        part = _unpacked(raw[: rows * row], tiff.order, bits, rows, across, each)
        if predictor == 2:
            part = np.cumsum(part, axis=1, dtype=part.dtype)
        target = found[top : top + down, left : left + across, plane : plane + each]
        target[...] = part[: target.shape[0], : target.shape[1]]
    return found


def samples(tiff: Tiff, notes: list[str]) -> tuple[np.ndarray, str]:
    """Read the samples of a picture that `is_known`, 8 or 16 bits over their whole range.

    They are `H W C`, alpha last, of the colour space that the second names.

    Raises:
        ValueError: it is truncated or damaged.
    """
    values, bits = _blocks(tiff), tiff.number(258, 1)
    kind = tiff.number(262)
    space, needed = _SPACES[kind]
    top = 255 if bits <= 8 else 65535
    if bits not in (8, 16):
        table = np.round(np.arange(2**bits) * (top / (2**bits - 1))).astype(values.dtype)
        values = table[values]
    extra = metadata.numbers(tiff.page.get(338), tiff.order)
    place = next((k for k, what in enumerate(extra) if what in (1, 2)), None)
    further = values.shape[2] - needed
    if place is not None and place >= further:
        place = None
    if further == 1 and not extra:
        channel = values[..., needed]
        clear, opaque = np.count_nonzero(channel == 0), np.count_nonzero(channel == top)
        what = "its last channel is not said to be transparency"
        if opaque and clear + opaque >= channel.size / 2:
            place = 0
            notes.append(f"{what}, but looks it and is taken for that")
        else:
            notes.append(f"{what}, and is left out (infrared?)")
    elif further > (place is not None):
        notes.append("its channels that are neither colour nor transparency are left out")
    if place is None:
        values = values[..., :needed]
    else:
        alpha = values[..., needed + place, None]
        colors = values[..., :needed]
        if extra and extra[place] == 1:  # colours are multiplied by it
            whole = np.minimum(colors, alpha).astype(np.float32) * top
            colors = np.rint(whole / np.maximum(alpha, 1)).astype(values.dtype)
        values = np.concatenate([colors, alpha], 2)
    if kind == 0:  # white is zero
        values = np.concatenate([~values[..., :1], values[..., 1:]], 2)
    return np.ascontiguousarray(values), space


def _lzw(data: np.ndarray) -> bytes:
    """Compress rows of bytes by libtiff."""
    file = io.BytesIO()
    Image.fromarray(data).save(file, "TIFF", compression="tiff_lzw", tiffinfo={278: len(data)})
    tags, _ = metadata.directory(file, metadata.header(file)[2], "<")
    (offset,), (size,) = (metadata.numbers(tags[tag], "<") for tag in (273, 279))
    return file.getvalue()[offset : offset + size]


def write(
    file: BinaryIO,
    samples: np.ndarray,
    profile: bytes | None = None,
    dpi: Any = None,
    exif: bytes | None = None,
    xmp: bytes | None = None,
    iptc: bytes | None = None,
) -> None:
    """Write grey or RGB, alpha last, of 8 bits (LZW) or 16 (which LZW would enlarge).

    The file begins with the EXIF block, so that all places within that still hold; a new first
    directory follows it.
    """
    height, width, channels = samples.shape
    block, order, tags = metadata.for_tiff(exif) if exif else (b"II*\0\0\0\0\0", "<", {})
    file.write(block + bytes(len(block) % 2))
    deep = samples.itemsize == 2
    rows, offsets, sizes = max(1, STRIP // width), [], []
    for top in range(0, height, rows):
        part = samples[top : top + rows]
        if deep:
            data = part.astype(order + "u2").tobytes()
        else:
            part = part.copy()
            part[:, 1:] -= part[:, :-1].copy()
            data = _lzw(part.reshape(len(part), -1))
        offsets.append(file.tell())
        sizes.append(len(data))
        file.write(data + bytes(len(data) % 2))

    def short(*values: int) -> Entry:
        return Entry(3, len(values), struct.pack(f"{order}{len(values)}H", *values))

    def long(*values: int) -> Entry:
        return Entry(4, len(values), struct.pack(f"{order}{len(values)}I", *values))

    def ratio(value: float) -> Entry:
        whole = float(value).is_integer()
        parts = (int(value), 1) if whole else (min(round(value * 10000), 2**32 - 1), 10000)
        return Entry(5, 1, struct.pack(order + "2I", *parts))

    fresh = {256: long(width), 257: long(height), 258: short(*[8 << deep] * channels)}
    fresh |= {259: short(1 if deep else 5), 262: short(2 if channels > 2 else 1)}
    fresh |= {273: long(*offsets), 277: short(channels), 278: long(rows), 279: long(*sizes)}
    fresh |= {284: short(1)}
    fresh |= {} if deep else {317: short(2)}
    fresh |= {338: short(2)} if channels in (2, 4) else {}
    fresh |= {34675: Entry(7, len(profile), profile)} if profile else {}
    if dpi or 282 not in tags or 283 not in tags:
        across, down = dpi or (1, 1)
        fresh |= {282: ratio(across), 283: ratio(down), 296: short(2 if dpi else 1)}
    if xmp:
        fresh[700] = Entry(1, len(xmp), xmp)
    record = (metadata.iptc_of(iptc) if iptc else None) or b""
    if record := record + bytes(-len(record) % 4):
        fresh[33723] = Entry(4, len(record) // 4, record)
    if rest := metadata.resources(iptc or b"", without=frozenset({metadata.IPTC_RESOURCE})):
        fresh[34377] = Entry(1, len(rest), rest)
    table = b""
    for tag, entry in sorted((tags | fresh).items()):
        data = entry.data
        if len(data) > 4:
            if tag in fresh:
                place = file.tell()
                file.write(data + bytes(len(data) % 2))
            else:
                place = entry.offset
            data = struct.pack(order + "I", place)
        table += struct.pack(order + "HHI4s", tag, entry.kind, entry.count, data.ljust(4, b"\0"))
    start = file.tell()
    file.write(struct.pack(order + "H", len(tags | fresh)) + table + bytes(4))
    if file.tell() >= 2**32:
        raise ValueError("more than 4 GiB: write PNG")
    file.seek(4)
    file.write(struct.pack(order + "I", start))
    file.seek(0, 2)
