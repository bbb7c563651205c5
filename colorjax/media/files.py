"""Still images in and out, with what they carry: depth, alpha, EXIF, resolution, orientation.

Pixels are `H W` (grey) or `H W 3` (sRGB), uint8 or uint16 over their whole range; `samples` are
`H W C`, with alpha last where C is 2 or 4. Content decides how a file is read, its suffix how it
is written, and whatever is wrong with either is a `FileError`.
"""

import errno
import io
import logging
import os
import secrets
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from colorjax.media import codec, metadata, tiff
from colorjax.media.kinds import OTHER_KINDS, kind_of

_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WebP",
    ".bmp": "BMP",
    ".ppm": "PPM",
}
OUTPUT_SUFFIXES = tuple(_FORMATS)
SUFFIXES = (*OUTPUT_SUFFIXES, ".gif", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k")
SUFFIXES += (".heic", ".heif")  # by the extra `heic`

# Pillow refuses from 179 megapixels on, which scans exceed; `_open` has a limit of its own.
Image.MAX_IMAGE_PIXELS = None
# What Pillow warns of is said by `read` or of no use. Once for all: `warnings.catch_warnings` is
# not safe in the threads that call `read_small`.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class FileError(ValueError):
    """What is wrong with a file, as one sentence that names it and the remedy."""


class TooSmallError(FileError):
    """A photograph has too few pixels to learn from."""


@dataclass(frozen=True)
class Photograph:
    """A still image: what is seen, and what its file carries beside that."""

    pixels: np.ndarray  # uint8 or uint16; H W (grey) or H W 3 (sRGB)
    alpha: np.ndarray | None = None  # H W, of the pixels' dtype; None where all is opaque
    exif: bytes | None = None  # from its TIFF header on; orientation is 1, without a thumbnail
    dpi: tuple[float, float] | None = None  # across, down
    xmp: bytes | None = None
    iptc: bytes | None = None  # Photoshop's image resources, of which IPTC is one
    comments: tuple[bytes, ...] = ()  # of a JPEG or GIF
    text: tuple[tuple[bytes, bytes], ...] = ()  # of a PNG: kind and data of each chunk
    notes: tuple[str, ...] = ()  # what could not be kept, one line each
    partial: bool = False  # part of the pixels is missing, for the file is cut short


@contextmanager
def _decoding(name: str | Path) -> Iterator[None]:
    """Turn whatever decoders of foreign bytes raise within into a sentence."""
    try:
        yield
    except FileError:
        raise
    except Exception as error:  # nearly anything: KeyError, SyntaxError, struct.error, zlib.error
        text = str(error) or repr(error)
        if isinstance(error, OSError) and error.strerror:
            why = f"cannot be read: {error.strerror}"
        elif isinstance(error, MemoryError):
            why = "does not fit into memory: scale it down"
        elif isinstance(error, Image.UnidentifiedImageError) and (
            kind := OTHER_KINDS.get(Path(name).suffix.lower())
        ):
            raise _unread(name, kind) from error
        elif isinstance(error, Image.UnidentifiedImageError) or "decoder object" in text:
            why = "is no picture of a kind that is read, or it is truncated or damaged"
        elif any(sign in text.lower() for sign in ("truncated", "eof", "not enough", "smaller")):
            why = "is truncated: copy or download it again"
        else:
            why = f"is damaged or of a kind not supported: {text}"
        raise FileError(f"{name} {why}") from error


def _unread(name: str | Path, kind: str, what: str = "") -> FileError:
    if kind == "raw":
        what = what or Path(name).suffix[1:].upper()
        how = "a sensor's data: develop it into a TIFF (darktable, RawTherapee)"
        return FileError(f"{name} is raw ({what}), {how}")
    how = "save it as TIFF, PNG or JPEG"
    return FileError(f"{name} is of the kind {kind}, which is not read: {how}")


def _heif_opener(name: str | Path) -> None:
    """Have Pillow read HEIC by the extra that knows it."""
    try:
        import pillow_heif
    except ImportError:
        how = "pip install 'colorjax[heic]', or save it as JPEG or TIFF"
        raise FileError(f"{name} is HEIC, which needs an extra: {how}") from None
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener()


def _open(file: BinaryIO, name: str | Path, max_megapixels: float, remedy: str) -> tuple[Any, Any]:
    """Open a file: the image by Pillow, or None; the page of a TIFF, there if that is None."""
    page, image, formats, kind = None, None, codec.READABLE, kind_of(file, name)
    if kind == "TIFF":
        try:
            page = tiff.open_tiff(file)
        except tiff.RawError as error:
            raise _unread(name, "raw", str(error)) from None
    elif kind == "HEIC":
        _heif_opener(name)
        formats = ("HEIF",)
    elif kind:
        raise _unread(name, kind)
    if page and page.is_known:
        size = page.size
    else:
        file.seek(0)
        try:
            image: Any = Image.open(tiff.for_pillow(page) if page else file, formats=formats)
        except (Image.UnidentifiedImageError, KeyError):  # the latter of compressions
            if not page:
                raise
            how = "save it with 8 or 16 bits a sample, uncompressed"
            raise FileError(f"{name} is a TIFF of a layout that is not read: {how}") from None
        size = image.size
        if icc := codec.profile_of(image, file):
            image.info["icc_profile"] = icc
    megapixels = size[0] * size[1] / 1e6
    if megapixels > max_megapixels:
        limit = f"the limit is {max_megapixels:g}: {remedy}"
        raise FileError(f"{name} has {megapixels:.4g} megapixels and {limit}")
    planes = page and page.number(284) == 2 and page.number(258, 8) > 8  # which Pillow mixes up
    if image and (planes or image.mode == "F" or (image.mode == "I" and image.format != "PPM")):
        raise FileError(f"{name} has rare samples: save it with 8 or 16 bits each")
    return image, page


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    across = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(samples[::down, ::across])


def read(path: str | Path, max_megapixels: float = 500) -> Photograph:
    """Read a photograph of any common kind, turned upright and converted to sRGB.

    Args:
        path: of the file; of several frames or pages the first is read.
        max_megapixels: larger ones are refused before they are decoded.

    Raises:
        FileError: it is missing, no picture, truncated, damaged or too large.
    """
    path, notes = Path(path), []
    if os.path.exists(path) and not (os.path.isfile(path) and os.path.getsize(path)):
        raise FileError(f"{path} is empty, a folder or a device: name a picture")
    with _decoding(path), open(path, "rb") as file:
        image, page = _open(file, path, max_megapixels, "scale it down or raise --max-megapixels")
        if page.several if page else getattr(image, "is_animated", False):
            notes.append("only its first frame or page is used")
        try:
            samples, partial = codec.samples_of(image, page, file, notes), False
        except MemoryError:
            raise
        except Exception:
            if image is None or not (found := codec.mended(image, file, notes)):
                raise
            samples, partial = found
        carried = metadata.of(image, page, file)
        samples = _upright(samples, carried.orientation)
        said = (page.dpi or ()) if page else image.info.get("dpi", ())
        dpi = [float(value) for value in said]
        if carried.orientation > 4:
            dpi.reverse()
        is_jpeg = not page and image.format in ("JPEG", "MPO")
        if carried.exif and is_jpeg and not image.info.get("jfif_unit"):
            dpi = list(metadata.resolution_of(carried.exif) or ())  # Pillow takes one for both
    channels = samples.shape[2]
    alpha = samples[..., -1] if channels in (2, 4) else None
    if alpha is not None and alpha.min() == np.iinfo(alpha.dtype).max:
        alpha = None
    return Photograph(
        pixels=samples[..., :3] if channels > 2 else samples[..., 0],
        alpha=alpha,
        exif=carried.exif,
        dpi=(dpi[0], dpi[1]) if len(dpi) == 2 and all(1 < value < 1e6 for value in dpi) else None,
        xmp=carried.xmp,
        iptc=carried.iptc,
        comments=carried.comments,
        text=carried.text,
        notes=(*notes, *carried.notes),
        partial=partial,
    )


def read_small(data: bytes, name: str | Path, short_side: int) -> np.ndarray:
    """Decode a photograph for training: its centre square, upright, `S S 3` uint8 sRGB.

    Args:
        data: the file's content.
        name: for errors.
        short_side: S, at most twice what the photograph has.

    Raises:
        FileError: it is no picture, truncated, damaged, too large or too small.
    """
    with _decoding(name), io.BytesIO(data) as file:
        image, page = _open(file, name, 500, "scale it down")
        size = (image or page).size
        if short_side > 2 * min(size):
            has = f"{size[0]} × {size[1]} pixels"
            raise TooSmallError(f"{name} has {has}, too few for {short_side} on its short side")
        to_srgb = None
        if image:
            to_srgb, _ = codec.to_srgb_by(image, [])
            image.draft("RGB", (short_side, short_side))  # JPEG can be decoded at 1/2, 1/4 or 1/8
        if image and image.mode in ("L", "RGB", "CMYK"):
            source = image
        else:  # a TIFF, palettes, transparency, 16 bits
            samples, to_srgb = codec.samples_of(image, page, file, []), None
            source = codec.eight(samples[..., :3] if samples.shape[2] > 2 else samples[..., :1])
        left, top = ((side - min(source.size)) / 2 for side in source.size)
        box = (left, top, source.width - left, source.height - top)
        small = source.resize((short_side, short_side), Image.Resampling.LANCZOS, box, 3)
        small = to_srgb(small) if to_srgb else small
        orientation = metadata.of(image, page, file).orientation
        return _upright(np.asarray(small.convert("RGB")), orientation)


def check_output(
    path: str | Path, overwrite: bool = False, suffixes: tuple[str, ...] = OUTPUT_SUFFIXES
) -> None:
    """Find out before any work whether a file could be written there.

    Raises:
        FileError: it ends in none of the suffixes, its folder is missing or read-only, or it
            exists.
    """
    path = Path(path)
    for wrong, why in (
        (os.path.isdir(path), "is a folder: name a file in it"),
        (path.suffix.lower() not in suffixes, f"ends in none of {' '.join(suffixes)}"),
        (not os.path.isdir(path.parent), "lies in no existing folder: create that first"),
        (not os.access(path.parent, os.W_OK | os.X_OK), "lies in a folder that is read-only"),
        (os.path.lexists(path) and not overwrite, "exists: name another or give --overwrite"),
    ):
        if wrong:
            raise FileError(f"{path} {why}")


def publish(temporary: Path, path: Path, overwrite: bool) -> None:
    """Give a finished file its name; FileError if there is one that is not to be replaced."""
    try:
        if not overwrite:
            return os.link(temporary, path)  # which refuses what is there, at any moment
    except OSError as error:  # without that, a file system has no links
        if isinstance(error, FileExistsError) or os.path.lexists(path):
            raise FileError(f"{path} exists: name another or give --overwrite") from None
    os.replace(temporary, path)


def _that_fits(photograph: Photograph, kind: str, notes: list[str]) -> Photograph:
    """Keep what this kind of file can carry; notes say what it cannot."""
    alpha, exif, dpi, xmp = photograph.alpha, photograph.exif, photograph.dpi, photograph.xmp
    iptc, comments, text = photograph.iptc, photograph.comments, photograph.text
    if alpha is not None and kind in ("JPEG", "BMP", "PPM"):
        notes.append(f"{kind} holds no transparency: all of it is opaque")
        alpha = None
    if photograph.pixels.dtype == np.uint16 and kind not in ("PNG", "TIFF"):
        notes.append(f"{kind} holds 8 bits a sample: 16 were rounded")
    if exif and (kind in ("BMP", "PPM") or (kind == "JPEG" and len(exif) > 65527)):
        notes.append(f"{kind} holds no such EXIF: date, camera and place are not kept")
        exif = None
    if exif and kind == "TIFF" and (names := metadata.not_for_tiff(exif)):
        notes.append(f"TIFF holds no EXIF of a JPEG's encoding: not kept ({', '.join(names)})")
    if dpi and (kind == "PPM" or (kind == "WebP" and not (exif and metadata.resolution_of(exif)))):
        notes.append(f"{kind} holds no resolution: {dpi[0]:g} × {dpi[1]:g} dpi is not kept")
    if xmp and (kind in ("BMP", "PPM") or (kind == "JPEG" and len(xmp) > 65504)):
        notes.append(f"{kind} holds no such XMP: title, keywords and rights in it are not kept")
        xmp = None
    if iptc and kind not in ("JPEG", "TIFF"):
        notes.append(f"{kind} holds no IPTC: caption and keywords in it are not kept")
        iptc = None
    if kind == "JPEG":
        comments += tuple(filter(None, (metadata.comment_of(*chunk) for chunk in text)))
        text = tuple(chunk for chunk in text if metadata.comment_of(*chunk) is None)
        if any(len(comment) > 65533 for comment in comments):
            notes.append("JPEG holds no such long comment: it is not kept")
            comments = tuple(comment for comment in comments if len(comment) <= 65533)
    if text and kind != "PNG":
        names = ", ".join(dict.fromkeys(data.split(b"\0")[0].decode("latin-1") for _, data in text))
        notes.append(f"{kind} holds no text of a PNG: not kept ({names})")
    if comments and kind not in ("JPEG", "PNG"):
        notes.append(f"{kind} holds no comment: that of the file is not kept")
    kept = {"alpha": alpha, "exif": exif, "xmp": xmp, "iptc": iptc}
    return replace(photograph, **kept, comments=comments, text=text)


def _encode(file: BinaryIO, kind: str, photograph: Photograph, quality: int) -> None:
    exif, xmp, iptc, dpi = photograph.exif, photograph.xmp, photograph.iptc, photograph.dpi
    samples = photograph.pixels.reshape(*photograph.pixels.shape[:2], -1)
    if photograph.alpha is not None:
        samples = np.dstack([samples, photograph.alpha])
    srgb = codec.srgb_profile() if samples.shape[2] > 2 else None
    if kind == "PNG":
        text = metadata.text_chunks(xmp, photograph.comments, photograph.text)
        return codec.write_png(file, samples, exif, dpi, text)
    if kind == "TIFF":
        return tiff.write(file, samples, srgb, dpi, exif, xmp, iptc)
    options: dict[str, Any] = {"dpi": dpi or (0, 0)} if kind in ("JPEG", "BMP") else {}
    if kind == "JPEG":
        extra = metadata.segments(exif, xmp, iptc, photograph.comments)
        options |= {"quality": quality, "subsampling": 0, "extra": extra, "icc_profile": srgb}
    if kind == "WebP":
        exact = {"lossless": True, "exact": True}  # exact: where nothing shows, too
        options = {**exact, "exif": exif or b"", "xmp": xmp or b"", "icc_profile": srgb}
    codec.eight(samples).save(file, kind, **options)


def write(
    path: str | Path, photograph: Photograph, quality: int = 95, overwrite: bool = False
) -> list[str]:
    """Write a photograph whole or not at all, tagged as sRGB, in the format its suffix names.

    PNG, TIFF, WebP (lossless), BMP and PPM hold exactly these pixels; JPEG is without chroma
    subsampling.

    Args:
        path: of the file.
        photograph: what to write; its notes are not used.
        quality: of JPEG, 1 to 100.
        overwrite: replace an existing file.

    Returns:
        What could not be kept, one line each.

    Raises:
        FileError: as by `check_output`, or the disk is full or the photograph too large for it.
    """
    path, notes = Path(path), []
    check_output(path, overwrite)
    kind = _FORMATS[path.suffix.lower()]
    if max(photograph.pixels.shape) > (longest := {"JPEG": 65500, "WebP": 16383}.get(kind, 2**31)):
        raise FileError(f"{path}: {kind} holds {longest} pixels a side: write PNG or TIFF")
    photograph = _that_fits(photograph, kind, notes)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            _encode(file, kind, photograph, quality)
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path, overwrite)
    except FileError:
        raise
    except Exception as error:  # of the disk or the encoder
        why = getattr(error, "strerror", None) or str(error) or repr(error)
        raise FileError(f"{path} could not be written: {why}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return notes


def list_images(
    folder: str | Path,
    suffixes: tuple[str, ...] = SUFFIXES,
    failed: Callable[[OSError], None] = lambda error: None,
) -> list[Path]:
    """List the images in a folder and its subfolders by suffix, sorted, without hidden ones.

    Links are followed, but no folder is entered twice. `failed` is called with the error of each
    folder that cannot be opened and each image that is not there, as where a link leads nowhere.
    """
    found, entered = [], set()
    for place, folders, names in os.walk(folder, onerror=failed, followlinks=True):
        here = os.path.realpath(place)
        known = here in entered
        entered.add(here)
        folders[:] = [] if known else sorted(name for name in folders if name[0] != ".")
        paths = [] if known else [Path(place, name) for name in names if name[0] != "."]
        for path in paths:
            if path.suffix.lower() not in suffixes:
                continue
            if os.path.isfile(path):
                found.append(path)
            else:
                failed(
                    FileNotFoundError(errno.ENOENT, "No such file, or no regular one", str(path))
                )
    return sorted(found)
