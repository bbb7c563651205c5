"""What a photograph carries beside its pixels, as bytes: EXIF, XMP, IPTC, comments, text.

EXIF is a TIFF header and directories of entries; nothing in it is interpreted but what the pixels
decide: orientation is applied and reset, the thumbnail left out. All else keeps its place, so that
maker notes, which count from the start of the block, stay whole. Sources: Exif 2.32, TIFF 6.0,
XMP Specification Part 3, PNG (third edition).
"""

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

# Bytes a value takes, by the type of an entry; 16 to 18 are BigTIFF's.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
_LETTERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_EXIF, _GPS, _INTEROPERABILITY, _MAKER_NOTE = 34665, 34853, 40965, 37500
_ORIENTATION, _XMP, _IPTC, _PHOTOSHOP, _LAYERS = 274, 700, 33723, 34377, 37724
# A TIFF's tags about how its pixels are stored and what colours they are.
STRUCTURE = {*range(254, 267), 273, *range(277, 282), 284, *range(288, 294), 301, 330, 332, 334}
STRUCTURE |= {*range(317, 329), *range(336, 348), *range(512, 533), 559, *range(32995, 32999)}
STRUCTURE |= {_XMP, _IPTC, _PHOTOSHOP, 34675, _LAYERS}
# Of EXIF what describes a JPEG's encoding and is not allowed in a TIFF (Exif 2.32, 4.6.8): order of
# components, bits a pixel, width, height, rules of interoperability; with names where it tells more
# than the pixels do.
_OF_JPEG = {37121: "", 37122: "CompressedBitsPerPixel", 40962: "", 40963: ""}
_OF_JPEG |= {_INTEROPERABILITY: "InteropIndex"}
# Of Photoshop's resources those about the old pixels: thumbnails, ICC profile.
_RESOURCES = frozenset({1033, 1036, 1039})
IPTC_RESOURCE = 1028
_XMP_KEYWORD = b"XML:com.adobe.xmp"


class Entry(NamedTuple):
    """One tag of a directory: type, number of values, their bytes in the file's order, place."""

    kind: int
    count: int
    data: bytes
    offset: int = 0


Directory = dict[int, Any]  # tag -> Entry, or a Directory of its own


@dataclass
class Carried:
    """What a file carries beside pixels, resolution and colour profile."""

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    comments: tuple[bytes, ...] = ()
    text: tuple[tuple[bytes, bytes], ...] = ()
    orientation: int = 1
    notes: list[str] = field(default_factory=list)


def header(file: BinaryIO) -> tuple[str, bool, int]:
    """Read byte order, whether it is BigTIFF, and the first directory's place, or ValueError."""
    file.seek(0)
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if not order or len(start) < 8:
        raise ValueError("no TIFF header")
    version = struct.unpack_from(order + "H", start, 2)[0]
    if version == 42:
        return order, False, struct.unpack_from(order + "I", start, 4)[0]
    if version == 43 and len(start) == 16:
        return order, True, struct.unpack_from(order + "Q", start, 8)[0]
    raise ValueError("no TIFF header")


def directory(
    file: BinaryIO, offset: int, order: str, big: bool = False, strict: bool = False
) -> tuple[Directory, int]:
    """Read a directory's entries, without damaged ones, and where the next directory is.

    Raises:
        ValueError: no directory is there; if `strict`, what says how pixels are stored is damaged.
    """
    end = file.seek(0, 2)
    file.seek(offset)
    head, width = ("Q", 20) if big else ("H", 12)
    word = "Q" if big else "I"
    inline = struct.calcsize(word)
    start = file.read(struct.calcsize(head))
    if not 0 < offset < end or len(start) < struct.calcsize(head):
        raise ValueError("a directory lies outside of the file")
    (count,) = struct.unpack(order + head, start)
    table = file.read(min(count, 65536) * width + inline)
    if strict and len(table) < count * width:
        raise ValueError("truncated: its directory is not whole")
    entries: Directory = {}
    read = 0
    for place in range(0, min(count * width, len(table) - width + 1), width):
        tag, kind, number = struct.unpack_from(f"{order}HH{word}", table, place)
        size = _SIZES.get(kind, 0) * number
        at = offset + len(start) + place + width - inline
        if size > inline:
            (at,) = struct.unpack_from(order + word, table, place + width - inline)
        if not size or at + size > end:
            if strict and size and tag in STRUCTURE:
                raise ValueError("truncated: its directory names what lies beyond its end")
            continue
        read += size
        if read > 2 * end:  # which values that lie over one another hardly reach
            raise ValueError("a directory that names more bytes than there are")
        file.seek(at)
        entries.setdefault(tag, Entry(kind, number, file.read(size), at))
    rest = table[count * width :]
    following = struct.unpack(order + word, rest)[0] if len(rest) == inline else 0
    return entries, following


def numbers(entry: Entry | None, order: str) -> tuple[int, ...]:
    """Unpack the whole numbers of an entry; none if it is missing or of another type."""
    letter = _LETTERS.get(entry.kind) if entry else None
    return struct.unpack(f"{order}{entry.count}{letter}", entry.data) if entry and letter else ()


def number(entries: Directory, tag: int, order: str, default: int = 0) -> int:
    """Unpack the first number of an entry; the default if there is none."""
    return next(iter(numbers(entries.get(tag), order)), default)


def tree(
    file: BinaryIO,
    offset: int,
    order: str,
    big: bool = False,
    inner: tuple[int, ...] = (_EXIF, _GPS),
) -> Directory:
    """Read a directory with those of EXIF, GPS, interoperability inside, in classic types."""
    found: Directory = {}
    for tag, entry in directory(file, offset, order, big)[0].items():
        if tag in inner:
            further = (_INTEROPERABILITY,) if tag == _EXIF else ()
            with suppress(ValueError, IndexError):
                if inside := tree(file, numbers(entry, order)[0], order, big, further):
                    found[tag] = inside
        elif entry.kind > 13:
            kind = 9 if entry.kind == 17 else 4
            with suppress(struct.error):  # beyond 32 bits
                values = numbers(entry, order)
                data = struct.pack(f"{order}{entry.count}{_LETTERS[kind]}", *values)
                found[tag] = Entry(kind, entry.count, data)
        else:
            found[tag] = entry
    return found


def pack(root: Directory, order: str) -> bytes:
    """Write directories as a classic TIFF block; a maker note keeps its place if near enough."""
    note = root.get(_EXIF, {}).get(_MAKER_NOTE, Entry(7, 0, b""))
    start, stop = note.offset, note.offset + len(note.data)
    if not 8 <= start < 60000:
        start = stop = 0
    block = bytearray((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8))

    def reserve(size: int) -> int:
        at = len(block) + len(block) % 2
        if at < stop and at + size > start:
            at = stop + stop % 2
        block.extend(bytes(at + size - len(block)))
        return at

    def place(entries: Directory) -> int:
        at = reserve(6 + 12 * len(entries))
        struct.pack_into(order + "H", block, at, len(entries))
        for row, (tag, entry) in enumerate(sorted(entries.items())):
            if isinstance(entry, dict):
                kind, count, data = 4, 1, struct.pack(order + "I", place(entry))
            else:
                kind, count, data = entry.kind, entry.count, entry.data
            if len(data) > 4:
                where = start if entry is note and start else reserve(len(data))
                block.extend(bytes(max(0, where + len(data) - len(block))))
                block[where : where + len(data)] = data
                data = struct.pack(order + "I", where)
            values = (tag, kind, count, data.ljust(4, b"\0"))
            struct.pack_into(order + "HHI4s", block, at + 2 + 12 * row, *values)
        return at

    struct.pack_into(order + "I", block, 4, place(root))
    return bytes(block)


def _extent(file: BinaryIO, offset: int, order: str, inner: tuple[int, ...] = (_EXIF, _GPS)) -> int:
    """Find where the last of the directories there and of their values ends."""
    entries, _ = directory(file, offset, order)
    ends = [offset + 6 + 12 * len(entries)]
    for tag, entry in entries.items():
        ends.append(entry.offset + len(entry.data))
        for place in numbers(entry, order)[:1] if tag in inner else ():
            with suppress(ValueError):
                ends.append(_extent(file, place, order, (_INTEROPERABILITY,) * (tag == _EXIF)))
    return max(ends)


def _entry_places(block: bytearray, offset: int, order: str) -> dict[int, int]:
    """Find where in the block each tag's entry of 12 bytes lies."""
    (count,) = struct.unpack_from(order + "H", block, offset)
    places = range(offset + 2, min(offset + 2 + 12 * count, len(block) - 11), 12)
    return {struct.unpack_from(order + "H", block, place)[0]: place for place in places}


def _swap(block: bytearray, places: dict[int, int], one: int, other: int) -> None:
    if one in places and other in places:
        first, second = (slice(places[tag] + 2, places[tag] + 12) for tag in (one, other))
        block[first], block[second] = block[second], block[first]


def upright(
    exif: bytes, orientation: int | None = None, otherwise: int = 1
) -> tuple[bytes | None, int | None]:
    """Make an EXIF block fit the upright picture; with the orientation that it had, or None.

    Only these bytes change: orientation becomes 1; resolutions and sizes across and down change
    places if the picture is turned by a quarter; the directory of the thumbnail is cut off.

    Args:
        exif: with or without the six bytes before its TIFF header.
        orientation: which holds in place of the block's own.
        otherwise: which holds where there is neither.

    Raises:
        ValueError: it is damaged.
    """
    block = bytearray(exif.removeprefix(b"Exif\0\0"))
    file = BytesIO(block)
    order, big, start = header(file)
    entries, thumbnail = directory(file, start, order)
    if big or (not entries and thumbnail == 0 and len(block) > 20):
        raise ValueError("no entries")
    if not entries:
        return None, None
    places = _entry_places(block, start, order)
    own = number(entries, _ORIENTATION, order)
    own = own if own in range(1, 9) else None
    orientation = orientation or own or otherwise
    if _ORIENTATION in places and _ORIENTATION in entries:
        value = struct.pack(order + "HHIHH", _ORIENTATION, 3, 1, 1, 0)
        block[places[_ORIENTATION] : places[_ORIENTATION] + 12] = value
    if orientation > 4:
        _swap(block, places, 282, 283)
        with suppress(struct.error, IndexError):
            if inside := number(entries, _EXIF, order):
                _swap(block, _entry_places(block, inside, order), 40962, 40963)
    if thumbnail:
        (count,) = struct.unpack_from(order + "H", block, start)
        struct.pack_into(order + "I", block, start + 2 + 12 * count, 0)
        with suppress(ValueError, struct.error, IndexError):
            small, _ = directory(file, thumbnail, order)
            data, size = (numbers(small.get(tag), order)[0] for tag in (513, 514))
            end = max(data + size, _extent(file, thumbnail, order))
            kept = _extent(file, start, order)
            # What nobody names may be a maker's, so the end is cut only if all of it is known.
            if kept <= min(thumbnail, data) and end + 4 >= len(block):
                del block[kept:]
    return bytes(block), own


def _of_tiff(page: Any) -> Carried:
    """Collect what a `tiff.Tiff` carries in the first directory of its file."""
    carried, root, order = Carried(), page.root, page.order
    xmp, iptc, blocks = (getattr(root.get(tag), "data", b"") for tag in (_XMP, _IPTC, _PHOTOSHOP))
    own = number(root, _ORIENTATION, order)
    carried.orientation = own if own in range(1, 9) else 1
    if xmp:
        carried.xmp, by_xmp = upright_xmp(xmp.rstrip(b"\0"))
        carried.orientation = carried.orientation if own else by_xmp or 1
    carried.iptc = resources(blocks, iptc[: _record_end(iptc)])
    if _LAYERS in root:
        carried.notes.append("its Photoshop layers are left out: what they show together is used")
    found = tree(page.file, header(page.file)[2], order, page.big)
    kept = {tag: entry for tag, entry in found.items() if tag not in STRUCTURE}
    if set(kept) - {_ORIENTATION, 282, 283, 296, 297}:
        # What the EXIF of a JPEG must hold, true of any that comes of this.
        one = Entry(3, 1, struct.pack(order + "H", 1))
        kept.setdefault(531, one)
        if 282 not in kept or 283 not in kept:
            ratio = Entry(5, 1, struct.pack(order + "2I", 1, 1))
            kept |= {282: ratio, 283: ratio, 296: one}
        kept.setdefault(296, one._replace(data=struct.pack(order + "H", 2)))
        if inside := kept.get(_EXIF):
            inside.setdefault(37121, Entry(7, 4, b"\1\2\3\0"))
            for tag, side in zip((40962, 40963), page.size, strict=True):
                inside.setdefault(tag, Entry(4, 1, struct.pack(order + "I", side)))
        carried.exif, _ = upright(pack(kept, order), carried.orientation)
    return carried


def for_tiff(exif: bytes) -> tuple[bytes, str, Directory]:
    """Prepare an EXIF block to begin a TIFF: block, byte order, entries of the first level.

    The block's own first directory is not used in place; the others are, by their places, after
    what is damaged or not allowed in a TIFF was taken out of them.
    """
    file, order, entries = _first(exif)
    block = bytearray(file.getvalue())
    for tag in {_EXIF, _GPS} & set(entries):
        try:
            inside = numbers(entries[tag], order)[0]
            kept = set(directory(file, inside, order)[0])
            kept -= set(_OF_JPEG) if tag == _EXIF else set()
            places = _entry_places(block, inside, order)
            rows = [bytes(block[at : at + 12]) for inner, at in places.items() if inner in kept]
            table = struct.pack(order + "H", len(rows)) + b"".join(rows) + bytes(4)
            block[inside : inside + len(table)] = table
        except (ValueError, IndexError, struct.error):
            del entries[tag]
    return bytes(block), order, {tag: e for tag, e in entries.items() if tag not in STRUCTURE}


def resolution(entries: Directory, order: str) -> tuple[float, float] | None:
    """Read pixels an inch, across and down, from a first directory; None if not there."""
    unit, found = {2: 1, 3: 2.54}.get(number(entries, 296, order, 2)), []
    for tag in (282, 283):
        entry = entries.get(tag)
        if not entry or entry.kind != 5 or not unit:
            return None
        above, below = struct.unpack(order + "2I", entry.data[:8])
        found.append(above / below * unit if below else 0.0)
    return (found[0], found[1]) if all(found) else None


def _first(exif: bytes) -> tuple[BytesIO, str, Directory]:
    """Open an EXIF block: as a file, its byte order, its first directory."""
    file = BytesIO(exif.removeprefix(b"Exif\0\0"))
    order, _, start = header(file)
    return file, order, directory(file, start, order)[0]


def resolution_of(exif: bytes) -> tuple[float, float] | None:
    """Read pixels an inch from an EXIF block."""
    _, order, entries = _first(exif)
    return resolution(entries, order)


def not_for_tiff(exif: bytes) -> list[str]:
    """Name the tags in an EXIF block that a TIFF may not hold."""
    file, order, root = _first(exif)
    with suppress(ValueError, IndexError):
        inside, _ = directory(file, numbers(root.get(_EXIF), order)[0], order)
        return [name for tag, name in _OF_JPEG.items() if name and tag in inside]
    return []


def _resources(blocks: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """List Photoshop's image resources that are whole: number, content, all of its bytes."""
    place = 0
    while blocks[place : place + 4] == b"8BIM" and place + 12 <= len(blocks):
        (number,) = struct.unpack_from(">H", blocks, place + 4)
        start = place + 10 + (blocks[place + 6] + 2) // 2 * 2  # behind its name and size
        end = start + int.from_bytes(blocks[start - 4 : start])
        if end > len(blocks):
            return
        following = end + (end - start) % 2
        yield number, blocks[start:end], blocks[place:following].ljust(following - place, b"\0")
        place = following


def resources(
    blocks: bytes, iptc: bytes = b"", without: frozenset[int] = _RESOURCES
) -> bytes | None:
    """Photoshop's image resources without those about the old pixels; with IPTC if they lack it."""
    kept = b"".join(block for number, _, block in _resources(blocks) if number not in without)
    if iptc and iptc_of(kept) is None:
        kept += b"8BIM\4\4\0\0" + struct.pack(">I", len(iptc)) + iptc + bytes(len(iptc) % 2)
    return kept or None


def iptc_of(blocks: bytes) -> bytes | None:
    """Find the IPTC record (IIM) among Photoshop's image resources."""
    found = (content for number, content, _ in _resources(blocks) if number == IPTC_RESOURCE)
    return next(found, None)


def _record_end(record: bytes) -> int:
    """Find the end of an IPTC record's last data set; a TIFF fills up to a multiple of 4."""
    place = 0
    while record[place : place + 1] == b"\x1c" and place + 5 <= len(record):
        place += 5 + int.from_bytes(record[place + 3 : place + 5])
    return min(place, len(record))


_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>\s*))([1-8])(?=\s*[\"'<])")


def upright_xmp(xmp: bytes) -> tuple[bytes, int | None]:
    """Make XMP fit the upright picture; with the orientation that it had."""
    found = _XMP_ORIENTATION.search(xmp)
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp), int(found[2]) if found else None


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """List the chunks of a PNG: kind, place and size of the data."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        place = file.tell()
        yield kind, place, size
        if kind == b"IEND":
            return
        file.seek(place + size + 4)


def _of_png(file: BinaryIO, carried: Carried) -> None:
    text = []
    for kind, place, size in png_chunks(file):
        if kind not in (b"tEXt", b"zTXt", b"iTXt") or size > 2**26:
            continue
        file.seek(place)
        data = file.read(size)
        keyword, _, value = data.partition(b"\0")
        if keyword == _XMP_KEYWORD and kind == b"iTXt":
            with suppress(zlib.error):
                packet = value[2:].split(b"\0", 2)[2] if value.count(b"\0", 2) >= 2 else b""
                carried.xmp = zlib.decompress(packet) if value[:1] == b"\1" else packet
        elif keyword in (b"Raw profile type exif", b"Raw profile type APP1"):
            with suppress(ValueError, zlib.error, IndexError):
                value = zlib.decompress(value[1:]) if kind == b"zTXt" else value
                raw = bytes.fromhex("".join(value.decode("latin-1").split("\n")[3:]))
                if raw.startswith(b"Exif\0\0"):
                    carried.exif = carried.exif or raw
        elif len(data) == size:
            text.append((kind, data))
    carried.text = tuple(text)


def _of_jpeg(image: Any, carried: Carried) -> None:
    blocks = b""
    for name, data in image.applist:
        if name == "APP13" and data.startswith(b"Photoshop 3.0\0"):
            blocks += data[14:]
        elif name == "COM":
            carried.comments += (data,)
        elif name == "APP1" and data.startswith(b"http://ns.adobe.com/xmp/extension/\0"):
            carried.notes.append("its XMP is in several parts, of which the first is kept")
        elif name == "APP11" and b"c2pa" in data[:99]:
            carried.notes.append("its content credentials hold for the original and are not kept")
    if blocks:
        carried.iptc = resources(blocks)
    carried.notes[:] = dict.fromkeys(carried.notes)


# The identifiers of boxes of JPEG 2000.
_JP2_EXIF = b"JpgTiffExif->JP2"
_JP2_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_JP2_IPTC = bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38")


def boxes(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """List the boxes of a JPEG 2000 file: kind and bounds of the content."""
    while start + 8 <= stop:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        content = start + 8
        if size == 1:
            size, content = int.from_bytes(file.read(8)), start + 16
        end = stop if size == 0 else start + size
        if not content <= end <= stop:
            return
        yield kind, content, end
        start = end


def _of_jp2(file: BinaryIO, carried: Carried) -> None:
    for kind, start, end in boxes(file, 0, file.seek(0, 2)):
        if kind == b"uuid":
            file.seek(start)
            name, data = file.read(16), file.read(end - start - 16)
            if name == _JP2_EXIF:
                carried.exif = data
            elif name == _JP2_XMP:
                carried.xmp = data
            elif name == _JP2_IPTC:
                carried.iptc = resources(b"", data)


def jp2_profile(file: BinaryIO) -> bytes | None:
    """Read the ICC profile of a JPEG 2000, which Pillow does not tell."""
    for kind, start, end in boxes(file, 0, file.seek(0, 2)):
        for inner, first, last in boxes(file, start, end) if kind == b"jp2h" else ():
            file.seek(first)
            if inner == b"colr" and file.read(3)[:1] == b"\2":
                return file.read(last - first - 3)
    return None


def of(image: Any, page: Any, file: BinaryIO) -> Carried:
    """Collect what an image of Pillow's or the page of a TIFF carries, to fit it upright."""
    try:
        return _of_tiff(page) if page else _of_image(image, file)
    except Exception:  # foreign bytes raise nearly anything, but the picture is whole without them
        return Carried(notes=["what it carries beside its pixels is damaged and was not kept"])


def _of_image(image: Any, file: BinaryIO) -> Carried:
    info, orientation = image.info, None
    comment = info.get("comment")
    carried = Carried(info.get("exif") or None, info.get("xmp") or info.get("XML:com.adobe.xmp"))
    if image.format in ("JPEG", "MPO"):
        _of_jpeg(image, carried)
    elif image.format == "PNG":
        _of_png(file, carried)
    elif image.format == "JPEG2000":
        _of_jp2(file, carried)
    elif image.format == "AVIF":  # whose own orientation holds; Pillow's EXIF is written anew
        carried.exif, orientation, carried.xmp = image._decoder.get_info()[4:7]
    elif image.format == "HEIF":
        orientation = 1  # applied by what decodes it
    elif isinstance(comment, bytes) and comment:
        carried.comments = (comment,)
    if isinstance(carried.xmp, str):
        carried.xmp = carried.xmp.encode()
    by_xmp = None
    if carried.xmp:
        carried.xmp, by_xmp = upright_xmp(carried.xmp.rstrip(b"\0"))
    if block := carried.exif:
        try:
            carried.exif, own = upright(block, orientation, by_xmp or 1)
            orientation = orientation or own
        except (ValueError, struct.error):
            if len(block) > 22:  # 22 bytes hold nothing
                carried.notes.append("its EXIF is damaged and was not kept")
            carried.exif = None
    carried.orientation = orientation or by_xmp or 1
    return carried


def text_chunks(
    xmp: bytes | None, comments: tuple[bytes, ...], text: tuple[tuple[bytes, bytes], ...]
) -> Iterator[tuple[bytes, bytes]]:
    """Make the chunks in which a PNG carries XMP, comments and text: kind and data."""
    if xmp:
        yield b"iTXt", _XMP_KEYWORD + bytes(5) + xmp
    for comment in comments:
        comment, latin = comment.rstrip(b"\0").replace(b"\0", b" "), False
        try:
            comment.decode("utf-8")
        except UnicodeDecodeError:
            latin = True
        if latin or comment.isascii():
            yield b"tEXt", b"Comment\0" + comment
        else:
            yield b"iTXt", b"Comment" + bytes(5) + comment
    yield from text


def comment_of(kind: bytes, data: bytes) -> bytes | None:
    """Read a PNG's text chunk, if it is a comment, which a JPEG can carry."""
    keyword, _, value = data.partition(b"\0")
    if keyword != b"Comment" or kind == b"zTXt":
        return None
    return value if kind == b"tEXt" else value[2:].split(b"\0", 2)[-1]


def segments(
    exif: bytes | None, xmp: bytes | None, iptc: bytes | None, comments: tuple[bytes, ...]
) -> bytes:
    """Write EXIF, XMP, IPTC and comments as a JPEG's segments of at most 65,533 bytes each."""
    found = [(0xE1, b"Exif\0\0" + exif.removeprefix(b"Exif\0\0"))] if exif else []
    found += [(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)] if xmp else []
    blocks = iptc or b""
    for place in range(0, len(blocks), 65000):
        found.append((0xED, b"Photoshop 3.0\0" + blocks[place : place + 65000]))
    found.extend((0xFE, comment) for comment in comments)
    return b"".join(struct.pack(">BBH", 255, kind, len(data) + 2) + data for kind, data in found)
