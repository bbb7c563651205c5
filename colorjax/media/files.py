"""Still images in and out, with what they carry: depth, alpha, EXIF, resolution, orientation.

Pixels are `H W` (grey) or `H W 3` (sRGB), uint8 or uint16 over their whole range; `samples` are
`H W C`, with alpha last where C is 2 or 4. Content decides how a file is read, its suffix how it
is written, and whatever is wrong with either is a `FileError`.
"""

import io
import logging
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from colorjax.media import codec

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
_RAW = (
    ".dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .raf .orf .rw2 .rwl .pef .srw .x3f .mrw .3fr "
    ".iiq .erf .kdc .dcr .mef .mos .fff .raw"
)
# Suffix -> kind of the pictures that are not read.
OTHER_KINDS = dict.fromkeys(_RAW.split(), "raw") | {
    ".psd": "Photoshop",
    ".psb": "Photoshop",
    ".xcf": "GIMP",
    ".kra": "Krita",
    ".ora": "OpenRaster",
    ".ai": "Illustrator",
    ".pdf": "PDF",
    ".eps": "EPS",
    ".svg": "SVG",
    ".svgz": "SVG",
    ".djvu": "DjVu",
    ".jxl": "JPEG XL",
    ".jxr": "JPEG XR",
    ".wdp": "JPEG XR",
    ".exr": "OpenEXR",
    ".hdr": "Radiance HDR",
    ".pfm": "PFM",
    ".pam": "PAM",
    ".tga": "Targa",
    ".pcx": "PCX",
    ".ico": "icon",
    ".qoi": "QOI",
    ".mng": "MNG",
    ".dcm": "DICOM",
    ".fits": "FITS",
    ".wmf": "Windows metafile",
    ".emf": "Windows metafile",
}
_ORIENTATION = 274
# Of a TIFF's tags those about the picture, not the file: description, make, model, software, date,
# artist, copyright, EXIF's own, GPS.
_ABOUT_PICTURE = {_ORIENTATION, 34665, 34853, 270, 271, 272, 305, 306, 315, 33432}

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
    exif: bytes | None = None  # its orientation applied and reset, without a thumbnail
    dpi: tuple[float, float] | None = None  # across, down
    notes: tuple[str, ...] = ()  # what could not be kept, one line each
    partial: bool = (
        False  # the file is cut short: part of the pixels is missing, and a note says so
    )


@contextmanager
def _decoding(name: str | Path) -> Iterator[None]:
    """Foreign bytes are decoded within: whatever decoders raise becomes a sentence."""
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
        elif isinstance(error, Image.UnidentifiedImageError) or "decoder object" in text:
            why = f"is no picture ({' '.join(SUFFIXES)}), or it is truncated or damaged"
        elif any(sign in text.lower() for sign in ("truncated", "eof", "not enough", "smaller")):
            why = "is truncated: copy or download it again"
        else:
            why = f"is damaged or of a kind not supported: {text}"
        raise FileError(f"{name} {why}") from error


def _open(file: BinaryIO, name: str | Path, max_megapixels: float, remedy: str) -> Any:
    image = Image.open(file, formats=codec.READABLE)
    megapixels = image.width * image.height / 1e6
    if megapixels > max_megapixels:
        limit = f"the limit is {max_megapixels:g}: {remedy}"
        raise FileError(f"{name} has {megapixels:.4g} megapixels and {limit}")
    tags = getattr(image, "tag_v2", {})
    planes = tags.get(284) == 2 and max(tags.get(258, (8,))) > 8  # which Pillow mixes up
    if planes or image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise FileError(f"{name} has rare samples: save it with 8 or 16 interleaved bits each")
    return image


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
        image = _open(file, path, max_megapixels, "scale it down or raise --max-megapixels")
        if getattr(image, "is_animated", False):
            notes.append("only its first frame or page is used")
        samples = codec.samples_of(image, file, notes)
        exif, orientation = None, 1
        with suppress(Exception):  # foreign bytes again, but the picture is whole without them
            tags = image.getexif()
            orientation = tags.get(_ORIENTATION, 1)
            for tag in set(tags) - _ABOUT_PICTURE if image.format == "TIFF" else ():
                del tags[tag]
            if _ORIENTATION in tags:
                tags[_ORIENTATION] = 1
            exif = tags.tobytes() if len(tags) else None
        if len(image.info.get("exif") or b"") > 22 and not exif:  # 22 bytes hold nothing
            notes.append("its EXIF is damaged and was not kept")
        samples = _upright(samples, orientation)
        dpi = [float(value) for value in image.info.get("dpi", ())]
    if orientation in (5, 6, 7, 8):
        dpi.reverse()
    channels = samples.shape[2]
    alpha = samples[..., -1] if channels in (2, 4) else None
    if alpha is not None and alpha.min() == np.iinfo(alpha.dtype).max:
        alpha = None
    return Photograph(
        pixels=samples[..., :3] if channels > 2 else samples[..., 0],
        alpha=alpha,
        exif=exif,
        dpi=(dpi[0], dpi[1]) if len(dpi) == 2 and all(0 < value < 1e6 for value in dpi) else None,
        notes=tuple(notes),
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
        image = _open(file, name, 500, "scale it down")
        if short_side > 2 * min(image.size):
            has = f"{image.width} × {image.height} pixels"
            raise TooSmallError(f"{name} has {has}, too few for {short_side} on its short side")
        to_srgb, _ = codec.to_srgb_by(image, [])
        image.draft("RGB", (short_side, short_side))  # JPEG can be decoded at 1/2, 1/4 or 1/8
        plain = image.mode in ("L", "RGB", "CMYK")  # else palettes, transparency, 16 bits
        if plain:
            source = image
        else:
            samples = codec.samples_of(image, file, [])
            source = codec.eight(samples[..., :3] if samples.shape[2] > 2 else samples[..., :1])
        left, top = ((side - min(source.size)) / 2 for side in source.size)
        box = (left, top, source.width - left, source.height - top)
        small = source.resize((short_side, short_side), Image.Resampling.LANCZOS, box, 3)
        small = to_srgb(small) if plain else small
        orientation = image.getexif().get(_ORIENTATION, 1)
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
        (path.suffix.lower() not in suffixes, f"ends in none of {' '.join(suffixes)}"),
        (not os.path.isdir(path.parent), "lies in no existing folder: create that first"),
        (not os.access(path.parent, os.W_OK | os.X_OK), "lies in a folder that is read-only"),
        (os.path.isdir(path), "is a folder: name a file"),
        (os.path.lexists(path) and not overwrite, "exists: name another or give --overwrite"),
    ):
        if wrong:
            raise FileError(f"{path} {why}")


def publish(temporary: Path, path: Path, overwrite: bool) -> None:
    """Give a finished file its name; FileError if there is one that is not to be replaced."""
    try:
        if not overwrite:
            return os.link(temporary, path)  # which refuses what is there, at any moment
    except FileExistsError:
        raise FileError(f"{path} exists: name another or give --overwrite") from None
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise FileError(f"{path} exists: name another or give --overwrite") from None
    os.replace(temporary, path)


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
    samples = photograph.pixels.reshape(*photograph.pixels.shape[:2], -1)
    if max(samples.shape) > (longest := {"JPEG": 65500, "WebP": 16383}.get(kind, 2**31)):
        raise FileError(f"{path}: {kind} holds {longest} pixels a side: write PNG or TIFF")
    exif, dpi = photograph.exif, photograph.dpi
    if photograph.alpha is not None and kind in ("JPEG", "BMP", "PPM"):
        notes.append(f"{kind} holds no transparency: all of it is opaque")
    elif photograph.alpha is not None:
        samples = np.dstack([samples, photograph.alpha])
    if samples.dtype == np.uint16 and kind not in ("PNG", "TIFF"):
        notes.append(f"{kind} holds 8 bits a sample: 16 were rounded")
    if exif and (kind in ("BMP", "PPM") or (kind == "JPEG" and len(exif) > 65533)):
        notes.append(f"{kind} holds no such EXIF: date, camera and place are not kept")
        exif = None
    if dpi and kind in ("WebP", "PPM"):
        notes.append(f"{kind} holds no resolution: {dpi[0]:g} × {dpi[1]:g} dpi is not kept")
    srgb = codec.srgb_profile() if samples.shape[2] > 2 else None
    common = {"exif": exif or b"", "icc_profile": srgb}
    options: dict[str, dict[str, Any]] = {
        "JPEG": {**common, "quality": quality, "subsampling": 0, "dpi": dpi or (0, 0)},
        "WebP": {**common, "lossless": True, "exact": True},  # exact: where nothing shows, too
        "BMP": {"dpi": dpi or (0, 0)},
    }
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if kind in ("PNG", "TIFF"):
                (codec.write_png if kind == "PNG" else codec.write_tiff)(file, samples, exif, dpi)
            else:
                codec.eight(samples).save(file, kind, **options.get(kind, {}))
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


def list_images(folder: str | Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """The images in a folder and its subfolders by their suffixes, sorted, without hidden ones.

    Links are followed, but no folder is entered twice.
    """
    found, entered = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        known = here in entered
        entered.add(here)
        folders[:] = [] if known else sorted(name for name in folders if name[0] != ".")
        paths = [] if known else [Path(place, name) for name in names if name[0] != "."]
        found += [path for path in paths if path.suffix.lower() in suffixes]
    return sorted(path for path in found if os.path.isfile(path))
