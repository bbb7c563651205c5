"""Still images in and out, with what they carry.

Pixels are uint8 or uint16, grey `H W` or sRGB `H W 3`. Colour profiles are converted to sRGB and
EXIF orientation is applied before anything else; whatever cannot be kept is said in `notes`.
"""

import contextlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

SUFFIXES = frozenset(".png .jpg .jpeg .tif .tiff .webp .bmp .gif .pgm .ppm".split())
OUTPUT_SUFFIXES = frozenset(".png .jpg .jpeg .tif .tiff .webp .bmp .ppm".split())

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF",
            ".webp": "WEBP", ".bmp": "BMP", ".ppm": "PPM"}  # fmt: skip
_DEEP = ("PNG", "TIFF")  # hold 16 bits
_CLEAR = ("PNG", "TIFF", "WEBP")  # hold transparency
_TAGGED = ("PNG", "JPEG", "TIFF", "WEBP")  # hold EXIF and a profile

# Pillow's own limit is a guess at what a computer holds; `max_megapixels` is this module's.
Image.MAX_IMAGE_PIXELS = None


class FileError(ValueError):
    """What is wrong with a file, as one sentence that names it."""


@dataclass(frozen=True)
class Photograph:
    """A still image and what came with it."""

    pixels: np.ndarray  # H W or H W 3, uint8 or uint16
    alpha: np.ndarray | None = None  # H W, of the pixels' type
    exif: bytes | None = None  # its orientation is 1
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()  # what could not be kept, a line each


@contextlib.contextmanager
def _sentences(name: str | Path) -> Iterator[None]:
    """Turn whatever a decoder raises on foreign bytes into one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # decoders' remarks on broken metadata
            yield
    except FileError:
        raise
    except FileNotFoundError:
        raise FileError(f"{name} does not exist") from None
    except IsADirectoryError:
        raise FileError(f"{name} is a folder: name a photograph") from None
    except PermissionError:
        raise FileError(f"{name} may not be read: permission denied") from None
    except Image.UnidentifiedImageError:
        raise FileError(f"{name} is not a picture of a known format") from None
    except MemoryError:
        raise FileError(f"{name} does not fit into memory") from None
    except Exception as error:  # decoders raise a dozen kinds; all mean the same here
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileError(f"{name} cannot be decoded, is it cut off or damaged? ({text})") from None


def _to_srgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """Convert an 8-bit image of any colour space to L or RGB in sRGB."""
    profile = image.info.get("icc_profile")
    target = "L" if image.mode in ("1", "L") else "RGB"
    if image.mode not in ("1", "L", "RGB", "CMYK"):
        image = image.convert("RGB")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = source.profile.xcolor_space.strip()
            if (space == "GRAY") == (image.mode in ("1", "L")) or space != "GRAY":
                if image.mode == "1" or (image.mode == "L" and space != "GRAY"):
                    image = image.convert("RGB" if space == "RGB" else "L")
                srgb = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
                if converted is not None:
                    return converted.getchannel(0) if target == "L" else converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            notes.append("its colour profile is damaged and was ignored")
    elif image.mode == "CMYK":
        notes.append("CMYK without a profile: converted by the simple formula")
    return image.convert(target)


def _bits(image: Image.Image) -> int:
    if image.mode.startswith("I"):
        return 16
    samples = getattr(image, "tag_v2", {}).get(258, 8)  # TIFF's BitsPerSample
    raw = str(image.tile[0][3]) if getattr(image, "tile", None) else ""
    return 16 if samples in (16, (16,) * 3, (16,) * 4) or ";16" in raw else 8


def _deep_tiff(path: Path) -> np.ndarray:
    import tifffile

    pixels = tifffile.imread(path, key=0)
    if pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise FileError(f"{path} holds {pixels.dtype} samples of shape {pixels.shape}: convert it "
                        "to 8 or 16 bits, grey or RGB")  # fmt: skip
    return pixels


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def read(path: str | Path, max_megapixels: float = 500) -> Photograph:
    """Read a photograph: PNG, JPEG, TIFF, WebP, BMP, GIF, PGM, PPM; its content says which.

    Args:
        path: of the file.
        max_megapixels: a larger picture is refused before it is decoded.

    Raises:
        FileError: it cannot be read, or is cut off, or too large.
    """
    path = Path(path)
    with _sentences(path):
        if path.is_file() and not path.stat().st_size:
            raise FileError(f"{path} is empty")
        with Image.open(path) as image:
            width, height = image.size
            if width * height > max_megapixels * 1e6:
                raise FileError(
                    f"{path} has {width * height / 1e6:.4g} megapixels, above the limit of "
                    f"{max_megapixels:g}: raise it by --max-megapixels"
                )
            notes, bits, deep = [], _bits(image), None
            if getattr(image, "n_frames", 1) > 1:
                notes.append("only its first picture is used")
            if bits == 16 and not image.mode.startswith("I"):
                if image.format == "TIFF":
                    deep = _deep_tiff(path)
                else:
                    notes.append("16-bit colour in a PNG is read at 8 bits")
            exif, orientation = image.getexif(), 1
            orientation = exif.get(0x0112, 1)
            exif[0x0112] = 1
            image.load()
            alpha = None
            if deep is not None:
                pixels = deep[..., :3]
                alpha = deep[..., 3] if deep.shape[2] == 4 else None
            elif image.mode.startswith("I"):
                pixels = np.asarray(image)
                if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65535:
                    raise FileError(f"{path} holds values beyond 16 bits: convert it to 16 bits")
                pixels = pixels.astype(np.uint16)
            elif image.mode == "F":
                raise FileError(f"{path} holds floating-point values: convert it to 8 or 16 bits")
            else:
                if image.has_transparency_data:
                    grey = image.mode in ("1", "L", "LA")
                    image_alpha = image.convert("RGBA")
                    alpha = np.asarray(image_alpha.getchannel("A"))
                    profile = image.info.get("icc_profile")
                    image = image.convert("L") if grey else image_alpha.convert("RGB")
                    image.info["icc_profile"] = profile
                pixels = np.asarray(_to_srgb(image, notes))
            if bits == 16 and image.info.get("icc_profile") and pixels.dtype == np.uint16:
                notes.append("the colour profile of a 16-bit picture is taken as sRGB")
            turn = _TURNS.get(orientation, _TURNS[1])
            kept = exif.tobytes() if len(exif) > 1 else None
            return Photograph(turn(pixels), None if alpha is None else turn(alpha), kept,
                              _dpi(image), tuple(notes))  # fmt: skip


# EXIF 2.32, tag 0x0112: what brings the stored picture upright.
_TURNS = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1), 6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2), 8: lambda a: np.rot90(a, 1),
}  # fmt: skip


def read_small(content: bytes, name: str, side: int) -> np.ndarray:
    """Decode a photograph for training: its centre square, scaled, `side side 3` uint8 sRGB.

    Args:
        content: of the file.
        name: of the file, for messages.
        side: in pixels; at most twice what the photograph has.

    Raises:
        FileError: it cannot be decoded, or is too small.
    """
    with _sentences(name):
        if not content:
            raise FileError(f"{name} is empty")
        with Image.open(io.BytesIO(content)) as image:
            image.draft("RGB", (2 * side, 2 * side))  # JPEG: decoded at a half, quarter or eighth
            image = ImageOps.exif_transpose(_to_srgb(_eight_bits(image), []))
            width, height = image.size
            square = min(width, height)
            if 2 * square < side:
                raise FileError(f"{name} is too small: {width} × {height}")
            left, top = (width - square) / 2, (height - square) / 2
            image = image.convert("RGB").resize(
                (side, side), Image.Resampling.BICUBIC,
                (left, top, left + square, top + square), reducing_gap=3,
            )  # fmt: skip
            return np.asarray(image)


def _eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))


def list_images(folder: str | Path) -> list[Path]:
    """Every file of a known suffix below a folder, sorted; hidden files and folders left out."""
    found, seen = [], set()
    for directory, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = (Path(directory, name) for name in names if not name.startswith("."))
        found += [path for path in shown if path.suffix.lower() in SUFFIXES]
    return sorted(found)


def check_output(path: str | Path, overwrite: bool = False) -> None:
    """What can be known to be wrong with an output before any work.

    Raises:
        FileError: an unknown ending, a missing or unwritable folder, or a file that is there.
    """
    path = Path(path)
    if path.suffix.lower() not in OUTPUT_SUFFIXES:
        known = " ".join(sorted(OUTPUT_SUFFIXES))
        raise FileError(f"{path}: the ending {path.suffix or '(none)'} is not one of {known}")
    if not path.parent.is_dir():
        raise FileError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise FileError(f"{path} is a folder: name a file")
    if not os.access(path.parent, os.W_OK):
        raise FileError(f"{path}: the folder {path.parent} may not be written to")
    if path.exists() and not overwrite:
        raise FileError(f"{path} exists already: --overwrite replaces it")


def write(
    path: str | Path, photograph: Photograph, quality: int = 95, overwrite: bool = False
) -> list[str]:
    """Write a photograph whole or not at all; the path's ending says the format.

    PNG, TIFF, BMP, PPM and WebP (lossless) hold exactly the pixels given; JPEG is written without
    chroma subsampling. The output is tagged sRGB.

    Args:
        path: of the file.
        photograph: `H W` or `H W 3`.
        quality: of JPEG, 1…100.
        overwrite: replace a file that is there.

    Returns:
        What the format could not hold, a line each.

    Raises:
        FileError: as `check_output`, or the disk would not take it.
    """
    path = Path(path)
    check_output(path, overwrite)
    kind, pixels, alpha, notes = _FORMATS[path.suffix.lower()], photograph.pixels, None, []
    if photograph.alpha is not None and kind in _CLEAR:
        alpha = photograph.alpha
    elif photograph.alpha is not None:
        notes.append(f"{kind} holds no transparency: it is left out")
    if pixels.dtype == np.uint16 and kind not in _DEEP:
        notes.append(f"{kind} holds 8 bits: 16 are rounded to them")
        pixels, alpha = (None if a is None else np.round(a / 257).astype(np.uint8)
                         for a in (pixels, alpha))  # fmt: skip
    if photograph.exif and kind not in _TAGGED:
        notes.append(f"{kind} holds no EXIF: it is left out")
    if pixels.ndim == 2 and (alpha is not None or pixels.dtype == np.uint16):
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    if alpha is not None:
        pixels = np.concatenate([pixels, alpha[..., None].astype(pixels.dtype)], axis=-1)

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if pixels.dtype == np.uint16:
            (_write_deep_png if kind == "PNG" else _write_deep_tiff)(temporary, pixels, photograph)
        else:
            options = {"JPEG": {"quality": quality, "subsampling": 0}, "WEBP": {"lossless": True},
                       "TIFF": {"compression": "tiff_adobe_deflate"}}.get(kind, {})  # fmt: skip
            if kind in _TAGGED:
                options["icc_profile"] = _SRGB
                if photograph.exif:
                    options["exif"] = photograph.exif
            if photograph.dpi:
                options["dpi"] = photograph.dpi
            Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, kind, **options)
        if overwrite:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # unlike a rename, never onto a file that has come since
    except FileExistsError:
        raise FileError(f"{path} exists already: --overwrite replaces it") from None
    except (OSError, ValueError, struct.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"{path} cannot be written: {reason}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return notes


_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _write_deep_png(path: Path, pixels: np.ndarray, photograph: Photograph) -> None:
    """16-bit RGB or RGBA as PNG (ISO/IEC 15948), which Pillow cuts to 8 bits in silence."""
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").view(np.uint8).reshape(height, -1)
    compress = zlib.compressobj(6)
    parts, above = [], np.zeros_like(rows[0])
    for row in rows:  # filter 2: each byte less the one above
        parts.append(compress.compress(b"\2" + (row - above).tobytes()))
        above = row

    with open(path, "wb") as file:

        def chunk(name: bytes, content: bytes) -> None:
            checksum = zlib.crc32(name + content)
            file.write(struct.pack(">I", len(content)) + name + content)
            file.write(struct.pack(">I", checksum))

        file.write(b"\x89PNG\r\n\x1a\n")
        kind = 6 if channels == 4 else 2
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
        chunk(b"sRGB", b"\0")
        if photograph.dpi:
            chunk(b"pHYs", struct.pack(">IIB", *(round(d / 0.0254) for d in photograph.dpi), 1))
        if photograph.exif:
            chunk(b"eXIf", photograph.exif.removeprefix(b"Exif\0\0"))
        chunk(b"IDAT", b"".join(parts) + compress.flush())
        chunk(b"IEND", b"")


def _write_deep_tiff(path: Path, pixels: np.ndarray, photograph: Photograph) -> None:
    import tifffile

    tifffile.imwrite(
        path, pixels, photometric="rgb", compression="deflate", iccprofile=_SRGB,
        extrasamples=["unassalpha"] if pixels.shape[2] == 4 else None,
        resolution=photograph.dpi, resolutionunit="INCH" if photograph.dpi else None,
    )  # fmt: skip
