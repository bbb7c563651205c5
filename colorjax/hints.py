"""Colours that a person gives at places of a photograph, spread by what the network sees.

Two Gaussian processes spread the residual, hint minus automatic colour, over the cells of the
network's output. The first ignores position: it carries the picture's cast, and the colour of
whatever looks alike. The second spreads what remains to places that are near and look alike, in
lightness and in the network's features. A last correction makes each hint exact at full resolution.

A hint lies at x, y in pixels of the upright photograph, (0, 0) its upper left pixel. Only the hue
and the chroma of a hint's colour count. The lightness is the photograph's own.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
_LOCAL_NOISE = 1e-3
_SUGGESTED_APART, _SUGGESTED_SMOOTHING = 20.0, 10.0  # in ab
_PIECE = 1024  # colours converted at a time
_MOST_PAIRS = 2_400_000  # of marks and cells; more marks are thinned


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
        numbers = {"x": -1e9, "y": -1e9, "radius": 0, "reach": 1e-3, "time": 0}  # with the least
        for name, least in numbers.items():
            value = getattr(self, name)
            if value is None and name in ("reach", "time"):
                continue
            is_real = isinstance(value, int | float | np.integer | np.floating)
            if not is_real or isinstance(value, bool) or not -1e9 < value < 1e9:
                raise HintError(f"{name} is {value!r}: it must be a number")
            if value < least:
                raise HintError(f"{name} is {value:g}: it must be {least:g} or more")


def ab_of(colors: Sequence[str]) -> np.ndarray:
    """Convert colours "#rrggbb" to their ab, `n 2`."""
    kinds, kind = np.unique(colors, return_inverse=True)
    rgb = np.array([[int(text[i : i + 2], 16) for i in (1, 3, 5)] for text in kinds])
    return _to_lab(rgb / 255)[kind, 1:]


def hex_of(lab: np.ndarray) -> list[str]:
    """Convert Lab `n 3` to "#rrggbb" of the same lightness, inside the gamut."""
    rgb = np.round(255 * _to_rgb(lab)).astype(int)
    return ["#{:02x}{:02x}{:02x}".format(*pixel) for pixel in rgb]


_lab_of_piece, _rgb_of_piece = jax.jit(color.rgb_to_lab), jax.jit(color.fit_gamut)


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    return color.in_pieces(_lab_of_piece, _PIECE, rgb.astype(np.float32))


def _to_rgb(lab: np.ndarray) -> np.ndarray:
    return color.in_pieces(_rgb_of_piece, _PIECE, lab.astype(np.float32))


def lightness_of(pixels: np.ndarray) -> np.ndarray:
    """Convert pixels `n` or `n 3`, uint8 or uint16, to L*, `n`."""
    rgb = np.broadcast_to(pixels.reshape(len(pixels), -1), (len(pixels), 3))
    return _to_lab(rgb / np.iinfo(pixels.dtype).max)[:, 0]


def within_gamut(
    ab: np.ndarray, lightness: np.ndarray, own: np.ndarray | None = None
) -> np.ndarray:
    """Pull the hints' ab, `n 2`, into the gamut at the lightness of a place.

    Args:
        ab: of the hints, `n 2`.
        lightness: L* of their cells, `n`.
        own: L* of their pixels, `n`. At a spot of black or white, where no colour is possible, what
            its cell allows serves as well, and says more of the rest.
    """

    def fitted(ab: np.ndarray, lightness: np.ndarray) -> np.ndarray:
        return _to_lab(_to_rgb(np.column_stack([lightness, ab])))[:, 1:]

    wide = fitted(ab, lightness)
    if own is None:
        return wide
    narrow = fitted(ab, own)
    same = np.linalg.norm(fitted(wide, own) - narrow, axis=1) < 1
    return np.where(same[:, None], wide, narrow)


def check_inside(hints: Sequence[Hint], height: int, width: int) -> None:
    """Raise HintError for the first hint outside a photograph of height × width pixels."""
    for number, hint in enumerate(hints, 1):
        if not (0 <= hint.x < width and 0 <= hint.y < height):
            raise HintError(
                f"hint {number} is at x = {hint.x:g}, y = {hint.y:g}: it must lie within the "
                f"photograph's {width} × {height} pixels"
            )


class Marks(NamedTuple):
    """Hints at the network's size: points, at most one a cell."""

    rows: np.ndarray  # n, in cells, where 0.5 is the middle of the first
    columns: np.ndarray  # n
    ab: np.ndarray  # n 2, the hint's
    reach: np.ndarray  # n

    def cells(self, height: int, width: int) -> np.ndarray:
        """Number their cells, row by row."""
        rows = np.clip(np.floor(self.rows), 0, height - 1)
        columns = np.clip(np.floor(self.columns), 0, width - 1)
        return (rows * width + columns).astype(int)


def to_marks(
    hints: Sequence[Hint],
    size: tuple[int, int],
    content: tuple[float, float],
    reach: float = 1.0,
) -> Marks:
    """Place hints at the network's size, averaged in each cell and thinned where they are many.

    Args:
        hints: at least one, all within the photograph.
        size: height and width of the photograph.
        content: height and width that the photograph fills of the network's output, in cells.
        reach: of hints without their own.
    """
    scale = np.divide(content, size)  # cells a pixel
    discs = [_disc(hint, scale, content) for hint in hints]
    middles = np.floor([(hint.y, hint.x) for hint in hints]) + 0.5  # of their pixels
    own = np.arange(len(hints))
    own = np.concatenate([own, np.repeat(own, [len(disc) for disc in discs])])
    reaches = np.array([reach if hint.reach is None else hint.reach for hint in hints])
    ab = ab_of([hint.color for hint in hints])
    places = np.concatenate([scale * middles, *discs])
    values = np.column_stack([places, ab[own], reaches[own]])
    cells = np.floor(places) @ [1_000_000, 1]
    _, cell, count = np.unique(cells, return_inverse=True, return_counts=True)
    values = np.stack([np.bincount(cell, column) for column in values.T], 1) / count[:, None]
    most = max(64, min(1000, int(_MOST_PAIRS / (content[0] * content[1]))))
    if len(values) > most:
        values = values[np.linspace(0, len(values) - 1, most).round().astype(int)]
    return Marks(values[:, 0], values[:, 1], values[:, 2:4], values[:, 4])


def _disc(hint: Hint, scale: np.ndarray, content: tuple[float, float]) -> np.ndarray:
    """Find the middles of the cells within a hint's radius: rows and columns, `n 2`."""
    if not hint.radius:
        return np.zeros((0, 2))
    middles = np.mgrid[0.5 : content[0], 0.5 : content[1]].reshape(2, -1).T
    across, down = (middles / scale - (hint.y + 0.5, hint.x + 0.5)).T
    return middles[np.hypot(across, down) <= hint.radius]


def bicubic(places: np.ndarray, pixel: float, length: int) -> np.ndarray:
    """Weigh each cell of a line at a place as Pillow does in scaling up: `n length`.

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


class Places(NamedTuple):
    """What the kernels compare: places of a picture, or marks on it."""

    row: np.ndarray  # n, in roots of the picture's area
    column: np.ndarray  # n
    lightness: np.ndarray  # n, in 0…1
    features: np.ndarray  # n C, of length 1
    unsure: np.ndarray  # n, root of the predicted distribution's spread: 1 is usual

    @classmethod
    def of_cells(
        cls, lightness: np.ndarray, features: np.ndarray, spread: np.ndarray | None
    ) -> "Places":
        """Describe the cells of a network's output; arguments as for `apply`."""
        height, width = features.shape[:2]
        rows, columns = np.mgrid[0:height, 0:width].reshape(2, -1) + 0.5
        unit = np.float32(height * width) ** -0.5
        folded = lightness.reshape(height, lightness.shape[0] // height, width, -1)
        vectors = features.reshape(height * width, -1).astype(np.float32)
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
        unsure = np.ones(height * width) if spread is None else spread.ravel() / _USUAL_SPREAD
        light = folded.mean((1, 3)).ravel() / 100
        return cls(unit * rows, unit * columns, light, vectors, np.sqrt(unsure))

    def at(self, cells: np.ndarray) -> "Places":
        """Select some cells by their numbers."""
        return Places(*(values[cells] for values in self))


def solve(marks: Places, residual: np.ndarray, reach: np.ndarray) -> Callable[[Places], np.ndarray]:
    """Solve both processes for residuals at marks: any places → what is added there, `n 2`.

    Args:
        marks: n of them.
        residual: `n 2`.
        reach: `n`, of the second process.
    """

    def kernels(places: Places) -> tuple[np.ndarray, np.ndarray]:
        """Compute both kernels between places and the marks, float32 `places marks`."""
        light = _squares(places.lightness, marks.lightness)
        features = np.maximum(2 - 2 * places.features @ marks.features.T, 0)
        apart = _squares(places.row, marks.row) + _squares(places.column, marks.column)
        alike = np.exp(light / (-2 * _CAST_LIGHTNESS**2) + features / (-2 * _CAST_FEATURES**2))
        unsure = np.float32(np.outer(places.unsure, marks.unsure))
        cast = (_CAST_SHARE + (1 - _CAST_SHARE) * alike) * unsure
        apart *= np.float32(1 / (-2 * (_PLACE * reach) ** 2))
        apart += light / (-2 * _PLACE_LIGHTNESS**2) + features / (-2 * _PLACE_FEATURES**2)
        return cast, np.exp(apart)

    cast, place = kernels(marks)
    residual = residual.astype(float)
    apart = _squares(marks.row, marks.row) + _squares(marks.column, marks.column)
    unlike = sum(_squares(part, part) for part in residual.T)
    crowd = np.exp(-apart / (2 * _STROKE**2) - unlike / (2 * _STROKE_AB**2)).sum(1)
    length = np.linalg.norm(residual, axis=1, keepdims=True)
    cut = residual * np.minimum(1, _CAST_LONGEST / np.maximum(length, 1e-9))
    first = np.linalg.solve(cast + np.diag(_CAST_NOISE * crowd / reach**2), cut)
    left = residual - cast @ first
    second = np.linalg.solve(place + _PLACE_NOISE * np.eye(len(left)), left)

    def added(places: Places) -> np.ndarray:
        cast, place = kernels(places)
        return cast @ np.float32(first) + place @ np.float32(second)

    return added


def _squares(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.square(np.subtract.outer(np.float32(one), np.float32(other)))


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
    """Add hints to the automatic colour of a photograph: ab `h w 2` → `h w 2`.

    Args:
        ab: automatic, saturation and corrections included.
        lightness: of the network's copy, `rows columns`, multiples of h and w, L* in 0…100.
        features: of a `model.Prediction`, `h w C`.
        spread: standard deviation of the predicted distribution in ab, `h w`; None for a network
            that predicts none.
        hints: one or more, within the image.
        image: the photograph, `H W` or `H W 3`, uint8 or uint16.
        content_fraction: fractions of ab's rows and columns that the photograph fills.
        reach: of hints without their own.

    Raises:
        HintError: a hint lies outside the image.
    """
    size, grid = image.shape[:2], ab.shape[:2]
    check_inside(hints, *size)
    content = content_fraction[0] * grid[0], content_fraction[1] * grid[1]
    marks = to_marks(hints, size, content, reach)
    pixel = content[0] / size[0], content[1] / size[1]
    seen = image[
        np.minimum(marks.rows / pixel[0], size[0] - 1).astype(int),
        np.minimum(marks.columns / pixel[1], size[1] - 1).astype(int),
    ]
    cells = Places.of_cells(lightness, features, spread)
    return spread_marks(ab, cells, marks, lightness_of(seen), pixel)


def spread_marks(
    ab: np.ndarray,
    cells: Places,
    marks: Marks,
    mark_lightness: np.ndarray | None = None,
    pixel: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Add marks at the network's size to the automatic colour, as `apply` does.

    Args:
        ab: as for `apply`.
        cells: as `Places.of_cells` gives them.
        marks: as `to_marks` gives them.
        mark_lightness: L* of the photograph at each, `n`; that of its cell unless given.
        pixel: height and width of one of the photograph's pixels, in cells.
    """
    height, width = ab.shape[:2]
    down = bicubic(marks.rows, pixel[0], height)
    across = bicubic(marks.columns, pixel[1], width)

    def sampled(field: np.ndarray) -> np.ndarray:
        """Sample a field `h w 2` at the marks, as scaling up shows it: `n 2`."""
        return np.stack([((down @ part) * across).sum(1) for part in np.moveaxis(field, 2, 0)], 1)

    places = cells.at(marks.cells(height, width))
    residual = within_gamut(marks.ab, 100 * places.lightness, mark_lightness) - sampled(ab)
    field = solve(places, residual, marks.reach)(cells).reshape(ab.shape)
    # What scaling up and noise have left, as the least change of cells that gives it.
    left = residual - sampled(field)
    gram = (down @ down.T) * (across @ across.T) + _LOCAL_NOISE * np.eye(len(left))
    weights = np.linalg.solve(gram, left)
    field += np.stack([(down * part[:, None]).T @ across for part in weights.T], axis=-1)
    return (ab + field).astype(np.float32)


def suggest(probabilities: np.ndarray, lightness: float, count: int = 5) -> list[str]:
    """Choose the likeliest colours that differ, at a lightness: "#rrggbb", likeliest first.

    Args:
        probabilities: of the bins, `261`.
        lightness: L* in 0…100.
        count: how many.
    """
    bins = palette.bins()
    squares = ((bins[:, None] - bins) ** 2).sum(-1)
    like = np.exp(squares / (-2 * _SUGGESTED_SMOOTHING**2))
    left, free, found = probabilities.astype(float), np.ones(len(bins), bool), []
    for _ in range(count):  # the colour that most of what is left of the distribution is like
        found.append(int(np.argmax(np.where(free, like @ left, -1))))
        left = left * (1 - like[found[-1]])
        free &= squares[found[-1]] >= _SUGGESTED_APART**2
    return hex_of(np.column_stack([np.full(count, lightness), bins[found]]))
