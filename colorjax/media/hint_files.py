"""Files of hints: JSON, CSV, a copy of the photograph with marks, a layer of strokes.

The content says which of them a file is. A copy is marked where it differs from the photograph, as
Levin, Lischinski and Weiss had it ("Colorization using Optimization", 2004): what JPEG adds to a
copy is no mark. A layer, as painting programs save it, is marked where it is not transparent.
"""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageFilter

from colorjax import color
from colorjax.hints import Hint, HintError, check_inside
from colorjax.media import files

_MOST = 10_000  # marks that are kept of a picture
_FINEST = 256  # marks across a picture: finer ones would fall into one cell of the network
_KEYS = tuple(field.name for field in fields(Hint))
# A copy's marks: their least difference in ab, and in lightness where they are grey.
_LEAST_AB, _LEAST_LIGHTNESS = 8.0, 15.0
_JPEG_BLOCK = 16  # pixels across which JPEG smears colour


def read(path: str | Path, image: np.ndarray, max_megapixels: float = 500) -> list[Hint]:
    """Read a file of hints, at least one.

    Args:
        path: of a file of any of the four kinds.
        image: the upright photograph that they belong to, `H W` or `H W 3`, uint8 or uint16.
        max_megapixels: of a picture of marks.

    Raises:
        HintError: the file is missing, empty or none of the four; a hint in it is wrong or lies
            outside the photograph; a picture has another size or no marks. The sentence names the
            file.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise HintError(f"{path} cannot be read: {error.strerror}") from None
    if not data.strip():
        raise HintError(f"{path} is empty: it must hold hints")
    try:
        text = "" if re.match(rb"P[1-6]\s", data) else data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = ""
    try:
        if not text or "\0" in text:
            return _of_picture(path, image, max_megapixels)
        found = (_of_json if text.lstrip()[:1] in ("{", "[") else _of_csv)(text)
        check_inside(found, *image.shape[:2])
    except files.FileError as error:
        raise HintError(str(error)) from None
    except HintError as error:
        raise HintError(f"{path}: {error}") from None
    return found


def _of_json(text: str) -> list[Hint]:
    """Read hints of `{"points": [{"x": …, "y": …, "color": "#rrggbb"}, …]}`."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HintError(f"it is no JSON: {error}") from None
    return of_points(content.get("points") if isinstance(content, dict) else content)


def of_points(points: Any) -> list[Hint]:
    """Make hints of `[{"x": …, "y": …, "color": "#rrggbb"}, …]`, at least one.

    Raises:
        HintError: it is no such list; the sentence names the hint that is wrong.
    """
    if not isinstance(points, list) or not points:
        raise HintError('it must hold a list of hints, {"points": [{"x": …, "y": …, "color": …}]}')
    found = []
    for number, point in enumerate(points, 1):
        if not isinstance(point, dict):
            raise HintError(f"hint {number} is {point!r}: it must be an object with x, y, color")
        missing = [key for key in _KEYS[:3] if key not in point]
        if missing or set(point) - set(_KEYS):
            wrong = f"lacks {missing[0]}" if missing else f"has {min(set(point) - set(_KEYS))!r}"
            raise HintError(f"hint {number} {wrong}: its keys are {', '.join(_KEYS)}")
        found.append(_hint(f"hint {number}", **point))
    return found


def _of_csv(text: str) -> list[Hint]:
    """Read hints of lines `x,y,#rrggbb`, below a header or none."""
    found: list[Hint] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = [word.strip().strip('"') for word in re.split("[,;\t]", line)]
        if not any(words) or (not found and [word.lower() for word in words[:2]] == ["x", "y"]):
            continue
        try:
            x, y, name = float(words[0]), float(words[1]), words[2]
            if any(words[3:]):
                raise ValueError
        except (ValueError, IndexError):
            raise HintError(f"line {number} is {line[:60]!r}: it must be x,y,#rrggbb") from None
        found.append(_hint(f"line {number}", x=x, y=y, color=name))
    if not found:
        raise HintError("it holds no hints: its lines must be x,y,#rrggbb")
    return found


def _hint(where: str, **values: Any) -> Hint:
    try:
        return Hint(**values)
    except HintError as error:
        raise HintError(f"{where}: {error}") from None


def _of_picture(path: str | Path, image: np.ndarray, max_megapixels: float) -> list[Hint]:
    """Find hints in a marked copy of the photograph, or in a layer of strokes."""
    marked = files.read(path, max_megapixels)
    if marked.pixels.shape[:2] != image.shape[:2]:
        sizes = [f"{pixels.shape[1]} × {pixels.shape[0]}" for pixels in (marked.pixels, image)]
        raise HintError(f"it has {sizes[0]} pixels: it must have the photograph's, {sizes[1]}")
    pixels = _eight(marked.pixels)
    if marked.alpha is None:
        strength = _difference(pixels, _eight(image))
    else:
        alpha = marked.alpha.astype(np.float32)
        strength = np.where(alpha > alpha.max() / 2, alpha, 0)
    found = _thinned(strength)
    if not len(found):
        raise HintError("it has no marks: it does not differ from the photograph")
    colors = pixels[found[:, 0], found[:, 1]]
    return [
        Hint(float(column), float(row), "#{:02x}{:02x}{:02x}".format(*rgb))
        for (row, column), rgb in zip(found.tolist(), colors.tolist(), strict=True)
    ]


def _eight(pixels: np.ndarray) -> np.ndarray:
    """Convert pixels of 8 or 16 bits, grey or in colour, to uint8 `H W 3`."""
    pixels = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    return np.broadcast_to(pixels.reshape(*pixels.shape[:2], -1), (*pixels.shape[:2], 3))


def _difference(marked: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Measure how far each pixel of a copy is a mark, 0 for none: two uint8 `H W 3` → `H W`."""
    lab = [_lab(pixels) for pixels in (marked, image)]
    apart = lab[0] - lab[1]
    chroma = np.hypot(apart[..., 1], apart[..., 2])
    # Beside a mark JPEG leaves some of its colour, and in a photograph of its own colour noise.
    bounded = Image.fromarray(np.minimum(chroma, 255).astype(np.uint8))
    near = np.asarray(bounded.filter(ImageFilter.MaxFilter(5)))
    least = np.maximum(max(_LEAST_AB, 10 * float(np.median(chroma))), 0.75 * near)
    least = np.maximum(least, 0.25 * _around(chroma))
    colored = np.where(chroma >= least, chroma, 0)
    # A grey mark on a grey photograph differs in lightness alone, as JPEG's noise does: but for
    # its edges, and where no colour is near.
    grey = Image.fromarray(np.uint8(255) * (np.abs(apart[..., 0]) > _LEAST_LIGHTNESS))
    solid = np.asarray(grey.filter(ImageFilter.MinFilter(3))) > 0
    return np.where(solid & (_around(colored) == 0), 1, colored)


@jax.jit
def _lab_of_piece(pixels: jax.Array) -> jax.Array:
    return color.rgb_to_lab(pixels / 255.0)


def _lab(pixels: np.ndarray) -> np.ndarray:
    """Convert uint8 `H W 3` to Lab."""
    return color.in_pieces(_lab_of_piece, 1 << 16, pixels.reshape(-1, 3)).reshape(pixels.shape)


def _around(values: np.ndarray) -> np.ndarray:
    """Find the largest of `H W` in each pixel's own block of JPEG and in those beside it."""
    height, width = values.shape
    padded = np.pad(values, ((0, -height % _JPEG_BLOCK), (0, -width % _JPEG_BLOCK)))
    rows, columns = (side // _JPEG_BLOCK for side in padded.shape)
    blocks = padded.reshape(rows, _JPEG_BLOCK, columns, _JPEG_BLOCK).max((1, 3))
    wide = np.pad(blocks, 1)
    largest = np.max([wide[y : y + rows, x : x + columns] for y in range(3) for x in range(3)], 0)
    return np.kron(largest, np.ones((_JPEG_BLOCK,) * 2, values.dtype))[:height, :width]


def _thinned(strength: np.ndarray) -> np.ndarray:
    """Choose the strongest marked pixel of each block, rows and columns, at most 10,000: `n 2`."""
    rows, columns = np.nonzero(strength)
    order = np.argsort(-strength[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    block = max(1, round(strength.size**0.5 / _FINEST))
    _, first = np.unique(rows // block * strength.shape[1] + columns // block, return_index=True)
    if len(first) > _MOST:
        first = first[np.linspace(0, len(first) - 1, _MOST).round().astype(int)]
    return np.stack([rows[first], columns[first]], axis=1)
