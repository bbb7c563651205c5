"""Colours that a person gives at places of a photograph, spread by what the network sees.

Two Gaussian processes carry the residual "hint − automatic colour" over the cells of the network's
output. The first has no place in it: what a hint says of the whole picture (its cast) and of all
that looks alike. The second carries what remains to what is near, alike in lightness and in the
network's features. What still remains goes into the cells beneath the hint, so that the colour
that was asked for is met at full resolution.

A hint lies at x, y in pixels of the upright photograph, (0, 0) its upper left pixel. Only the hue
and the chroma of a hint's colour count. The lightness is the photograph's own.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import jax
import numpy as np

from colorjax import color, palette

# Kernels: lengths in lightness (0…1), in features (of length 1), in place (the root of the
# picture's area is 1), and noise in units of a kernel's variance.
_CAST_SHARE, _CAST_LIGHTNESS, _CAST_FEATURES, _CAST_NOISE = 0.3, 0.3, 0.6, 0.3
_PLACE, _PLACE_LIGHTNESS, _PLACE_FEATURES, _PLACE_NOISE = 0.33, 0.2, 0.6, 0.05
# A residual as long as a dress's colour says little of the light: the first process sees it cut.
_CAST_LONGEST = 15.0
_USUAL_SPREAD = 12.0  # of the predicted distribution, in ab
# Marks of one colour next to each other are one stroke, and count as one in the first process.
_STROKE, _STROKE_AB = 0.05, 10.0
_LOCAL_NOISE = 0.02
_SUGGESTED_APART, _SUGGESTED_SMOOTHING = 20.0, 8.0  # in ab
_PIECE = 1024  # colours converted at a time
_MOST_PAIRS = 3_000_000  # of marks and cells; more marks are thinned


class HintError(ValueError):
    """A hint cannot be used; its message is one sentence."""


@dataclass(frozen=True)
class Hint:
    """The colour of a place, as a person gives it."""

    x: float  # in pixels of the upright photograph, from its left
    y: float  # from its top
    color: str  # "#rrggbb", whose hue and chroma count; a grey protects what is grey
    radius: float = 0.0  # in pixels; the colour holds for a disc
    reach: float | None = None  # how far it carries, times what is usual
    time: float | None = None  # in seconds, of a film: it holds from there to the next cut

    def __post_init__(self) -> None:
        """Check the values: HintError names the one that is wrong."""
        if not (isinstance(self.color, str) and re.fullmatch("#[0-9a-fA-F]{6}", self.color)):
            raise HintError(f"color is {self.color!r}: it must be like '#3a5f9a'")
        for name, low in (("x", -inf), ("y", -inf), ("radius", 0), ("reach", 1e-3), ("time", 0)):
            value: Any = getattr(self, name)
            if value is None and name in ("reach", "time"):
                continue
            try:
                number = inf if isinstance(value, bool | str) else float(value)
            except (TypeError, OverflowError):
                number = inf
            if not isfinite(number):
                raise HintError(f"{name} is {value!r}: it must be a number")
            if number < low:
                raise HintError(f"{name} is {value:g}: it must be {low:g} or more")


@dataclass(frozen=True)
class Marks:
    """Hints at the network's size: points, at most one a cell."""

    rows: np.ndarray  # n, in cells, where 0.5 is the middle of the first
    columns: np.ndarray  # n
    ab: np.ndarray  # n 2, the hint's
    reach: np.ndarray  # n


def ab_of(colors: Sequence[str]) -> np.ndarray:
    """Colours "#rrggbb" → their ab, `n 2`."""
    kinds, kind = np.unique(colors, return_inverse=True)
    rgb = np.array([[int(text[i : i + 2], 16) for i in (1, 3, 5)] for text in kinds])
    return _in_pieces(_lab, rgb / 255)[kind, 1:]


def hex_of(lab: np.ndarray) -> list[str]:
    """Lab `n 3` → "#rrggbb" of the same lightness, inside the gamut."""
    rgb = np.round(255 * _in_pieces(_fitted, lab)).astype(int)
    return ["#{:02x}{:02x}{:02x}".format(*pixel) for pixel in rgb]


_lab, _fitted = jax.jit(color.rgb_to_lab), jax.jit(color.fit_gamut)


def _in_pieces(function: Callable[[np.ndarray], jax.Array], values: np.ndarray) -> np.ndarray:
    """A function of `n 3`, on pieces of one length: compiled but once."""
    padded = np.zeros((-(-len(values) // _PIECE), _PIECE, 3), np.float32)
    padded.reshape(-1, 3)[: len(values)] = values
    return np.concatenate([np.asarray(function(piece)) for piece in padded])[: len(values)]


def check_inside(hints: Sequence[Hint], height: int, width: int) -> None:
    """HintError names the first hint that lies outside a photograph of height × width pixels."""
    for number, hint in enumerate(hints, 1):
        if not (0 <= hint.x < width and 0 <= hint.y < height):
            raise HintError(
                f"hint {number} is at x = {hint.x:g}, y = {hint.y:g}: it must lie within the "
                f"photograph's {width} × {height} pixels"
            )


def to_marks(
    hints: Sequence[Hint],
    size: tuple[int, int],
    content: tuple[float, float],
    reach: float = 1.0,
) -> Marks:
    """Hints → points at the network's size, averaged in each cell and thinned where they are many.

    Args:
        hints: at least one, all within the photograph.
        size: height and width of the photograph.
        content: height and width that the photograph fills of the network's output, in cells.
        reach: of hints without their own.
    """
    scale = content[0] / size[0], content[1] / size[1]  # cells a pixel
    rows = scale[0] * (np.array([hint.y for hint in hints]) + 0.5)
    columns = scale[1] * (np.array([hint.x for hint in hints]) + 0.5)
    own = np.arange(len(hints))
    discs = [_disc(hint, scale, content) for hint in hints]
    rows = np.concatenate([rows, *(disc[0] for disc in discs)])
    columns = np.concatenate([columns, *(disc[1] for disc in discs)])
    own = np.concatenate([own, np.repeat(own, [len(disc[0]) for disc in discs])])
    reaches = np.array([reach if hint.reach is None else hint.reach for hint in hints])
    ab = ab_of([hint.color for hint in hints])
    values = np.column_stack([rows, columns, ab[own], reaches[own]])
    cells = np.floor(rows) * 1_000_000 + np.floor(columns)
    _, cell, count = np.unique(cells, return_inverse=True, return_counts=True)
    values = np.stack([np.bincount(cell, column) for column in values.T], 1) / count[:, None]
    most = max(64, min(1000, int(_MOST_PAIRS / (content[0] * content[1]))))
    if len(values) > most:
        values = values[np.linspace(0, len(values) - 1, most).round().astype(int)]
    return Marks(values[:, 0], values[:, 1], values[:, 2:4], values[:, 4])


def _disc(hint: Hint, scale: tuple[float, float], content: tuple[float, float]) -> np.ndarray:
    """The middles of the cells that lie within a hint's radius: `2 n`, rows and columns."""
    if not hint.radius:
        return np.zeros((2, 0))
    row, column = np.mgrid[0.5 : content[0], 0.5 : content[1]].reshape(2, -1)
    across = np.hypot(row / scale[0] - hint.y - 0.5, column / scale[1] - hint.x - 0.5)
    inside = across <= hint.radius
    return np.stack([row[inside], column[inside]])


def bicubic(places: np.ndarray, pixel: float, length: int) -> np.ndarray:
    """What each cell of a line counts for at a place, where Pillow scales it up: `n length`.

    Args:
        places: `n`, in cells.
        pixel: length of a pixel in cells.
        length: how many cells there are.
    """
    stretch = max(1.0, pixel)
    x = np.abs(np.arange(length) + 0.5 - places[:, None]) / stretch
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


def apply(
    ab: np.ndarray,
    lightness: np.ndarray,
    features: np.ndarray,
    spread: np.ndarray | None,
    hints: Sequence[Hint],
    image: np.ndarray,
    content_fraction: tuple[float, float] = (1.0, 1.0),
    reach: float = 1.0,
) -> np.ndarray:
    """The colour of a photograph with hints: automatic ab `h w 2` → `h w 2`.

    Args:
        ab: automatic, saturation and corrections included.
        lightness: of the network's copy, `rows columns`, multiples of h and w, L* in 0…100.
        features: as `model.predict_with_features` gives them, `h w C`.
        spread: standard deviation of the predicted distribution in ab, `h w`; None for a network
            that predicts none.
        hints: any number, within the image.
        image: the photograph, `H W` or `H W 3`, uint8 or uint16.
        content_fraction: shares of rows and columns of ab that the photograph fills.
        reach: of hints without their own.

    Raises:
        HintError: a hint lies outside the image.
    """
    if not hints:
        return ab
    size, cells = image.shape[:2], ab.shape[:2]
    check_inside(hints, *size)
    content = content_fraction[0] * cells[0], content_fraction[1] * cells[1]
    marks = to_marks(hints, size, content, reach)
    pixel = content[0] / size[0], content[1] / size[1]
    seen = image[
        np.minimum(marks.rows / pixel[0], size[0] - 1).astype(int),
        np.minimum(marks.columns / pixel[1], size[1] - 1).astype(int),
    ]
    own = lightness_of(seen)
    return spread_marks(ab, lightness, features, spread, marks, own, pixel)


def lightness_of(pixels: np.ndarray) -> np.ndarray:
    """Pixels `n` or `n 3`, uint8 or uint16 → L*, `n`."""
    rgb = np.broadcast_to(pixels.reshape(len(pixels), -1), (len(pixels), 3))
    return _in_pieces(_lab, rgb / np.iinfo(pixels.dtype).max)[:, 0]


def spread_marks(
    ab: np.ndarray,
    lightness: np.ndarray,
    features: np.ndarray,
    spread: np.ndarray | None,
    marks: Marks,
    mark_lightness: np.ndarray | None = None,
    pixel: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """As `apply`, of points at the network's size.

    Args:
        ab: as for `apply`.
        lightness: likewise, or `h w`.
        features: likewise.
        spread: likewise.
        marks: as `to_marks` gives them.
        mark_lightness: L* of the photograph at each, `n`; that of its cell unless given.
        pixel: height and width of one of the photograph's pixels, in cells.
    """
    height, width = ab.shape[:2]
    row, column = np.floor(marks.rows).astype(int), np.floor(marks.columns).astype(int)
    at = np.minimum(row, height - 1) * width + np.minimum(column, width - 1)
    light = lightness.reshape(height, lightness.shape[0] // height, width, -1).mean((1, 3)).ravel()
    vector = features.reshape(height * width, -1).astype(np.float32)
    vector = vector / np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), 1e-6)
    sure = np.ones(height * width) if spread is None else np.sqrt(spread.ravel() / _USUAL_SPREAD)
    across, along = (
        bicubic(marks.rows, pixel[0], height),
        bicubic(marks.columns, pixel[1], width),
    )

    def sampled(field: np.ndarray) -> np.ndarray:
        """A field `h w 2` at the marks, as scaling up shows it: `n 2`."""
        return np.einsum("nh,nhc->nc", across, np.tensordot(along, field, (1, 1)), optimize=True)

    target = _within_gamut(marks.ab, light[at], mark_lightness)
    light = light.astype(np.float32) / 100
    apart_light = (light[:, None] - light[at]) ** 2
    apart_features = np.maximum(2 - 2 * vector @ vector[at].T, 0)
    unit = np.sqrt(height * width)
    y, x = (np.mgrid[0:height, 0:width].reshape(2, -1).astype(np.float32) + 0.5) / unit
    y_marks, x_marks = marks.rows / unit, marks.columns / unit
    apart = (y[:, None] - y_marks.astype(np.float32)) ** 2
    apart += (x[:, None] - x_marks.astype(np.float32)) ** 2

    residual = target - sampled(ab)
    # 1. Cast and kind.
    between = (y_marks[:, None] - y_marks) ** 2 + (x_marks[:, None] - x_marks) ** 2
    unlike = ((residual[:, None] - residual) ** 2).sum(-1)
    crowd = np.exp(-between / (2 * _STROKE**2) - unlike / (2 * _STROKE_AB**2)).sum(1)
    length = np.linalg.norm(residual, axis=1, keepdims=True)
    cut = residual * np.minimum(1, _CAST_LONGEST / np.maximum(length, 1e-9))
    alike = np.exp(
        apart_light * (-0.5 / _CAST_LIGHTNESS**2) + apart_features * (-0.5 / _CAST_FEATURES**2)
    )
    kernel = (_CAST_SHARE + (1 - _CAST_SHARE) * alike) * (sure[:, None] * sure[at])
    noise = _CAST_NOISE * crowd / marks.reach**2
    field = kernel @ np.linalg.solve(kernel[at] + np.diag(noise), cut)
    # 2. Place.
    kernel = np.exp(
        apart * (-0.5 / (_PLACE * marks.reach) ** 2).astype(np.float32)
        + apart_light * (-0.5 / _PLACE_LIGHTNESS**2)
        + apart_features * (-0.5 / _PLACE_FEATURES**2)
    )
    left = residual - sampled(field.reshape(ab.shape))
    noise = _PLACE_NOISE * np.eye(len(left))
    field = (field + kernel @ np.linalg.solve(kernel[at] + noise, left)).reshape(ab.shape)
    # 3. What scaling up and noise have left, the least change of cells that gives it.
    left = residual - sampled(field)
    gram = (across @ across.T) * (along @ along.T) + _LOCAL_NOISE * np.eye(len(left))
    beta = np.linalg.solve(gram, left)
    field = field + np.stack([(across * part[:, None]).T @ along for part in beta.T], axis=-1)
    return (ab + field).astype(np.float32)


def _within_gamut(ab: np.ndarray, *lightness: np.ndarray | None) -> np.ndarray:
    """The hints' ab, inside the gamut at the one of these lightnesses that leaves most of it."""
    fitted = []
    for values in lightness:
        if values is not None:
            rgb = _in_pieces(_fitted, np.column_stack([values, ab]))
            fitted.append(_in_pieces(_lab, rgb)[:, 1:])
    chroma = np.linalg.norm(fitted, axis=-1)
    return np.asarray(fitted)[chroma.argmax(0), np.arange(len(ab))]


def suggest(probabilities: np.ndarray, lightness: float, count: int = 5) -> list[str]:
    """The likeliest colours that differ, at a lightness: "#rrggbb", likeliest first.

    Args:
        probabilities: of the bins, `261`.
        lightness: L* in 0…100.
        count: how many.
    """
    bins = palette.bins()
    squares = ((bins[:, None] - bins) ** 2).sum(-1)
    density = np.exp(-squares / (2 * _SUGGESTED_SMOOTHING**2)) @ probabilities
    neighbours = np.where(squares <= 2 * palette.SPACING**2, density, 0)
    modes = density >= neighbours.max(1)
    found: list[int] = []
    for candidates in (modes, ~modes):  # what is no mode fills up the rest
        for index in np.argsort(-density):
            if len(found) < count and candidates[index]:
                if (squares[index, found] >= _SUGGESTED_APART**2).all():
                    found.append(int(index))
    return hex_of(np.column_stack([np.full(len(found), lightness), bins[found]]))
