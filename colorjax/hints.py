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
from dataclasses import dataclass, fields, replace
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
_LOCAL_NOISE = 1e-3
_FILM_REACH = 3.0  # of a hint in a film, whose things move, times its reach in a photograph
_SUGGESTED_APART, _SUGGESTED_SMOOTHING = 20.0, 10.0  # in ab
_PIECE = 1024  # colours converted at a time
_MOST_PAIRS = 2_400_000  # of marks and cells; more marks are thinned


class HintError(ValueError):
    """A hint cannot be used; its message is one sentence."""


def _number(value: Any) -> float:
    """A real number as a float; inf for anything else, and for one that is too large."""
    usual = isinstance(value, float | int | np.number) and not isinstance(value, bool)
    try:
        return float(value) if usual else inf
    except (OverflowError, TypeError):
        return inf


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
            value = getattr(self, name)
            if value is None and name in ("reach", "time"):
                continue
            number = _number(value)
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

    def cells(self, height: int, width: int) -> np.ndarray:
        """Numbers of their cells, row by row."""
        rows = np.clip(np.floor(self.rows), 0, height - 1)
        columns = np.clip(np.floor(self.columns), 0, width - 1)
        return (rows * width + columns).astype(int)


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


def lightness_of(pixels: np.ndarray) -> np.ndarray:
    """Pixels `n` or `n 3`, uint8 or uint16 → L*, `n`."""
    rgb = np.broadcast_to(pixels.reshape(len(pixels), -1), (len(pixels), 3))
    return _in_pieces(_lab, rgb / np.iinfo(pixels.dtype).max)[:, 0]


@dataclass(frozen=True)
class Places:
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
        """The cells of a network's output; arguments as for `apply`."""
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
        """Those of some cells, by their numbers."""
        return Places(*(getattr(self, field.name)[cells] for field in fields(self)))

    def __add__(self, other: "Places") -> "Places":
        """Both, these first."""
        names = [field.name for field in fields(self)]
        return Places(*(np.concatenate([getattr(p, n) for p in (self, other)]) for n in names))


@dataclass(frozen=True)
class Solution:
    """Marks, and what each of them adds: from here colour spreads to any places."""

    marks: Places
    reach: np.ndarray  # n, of the second process
    cast: np.ndarray  # n 2, weights of the first process
    place: np.ndarray  # n 2, of the second

    @classmethod
    def of(cls, marks: Places, residual: np.ndarray, reach: np.ndarray) -> "Solution":
        """Solve both processes for the residuals `n 2` at the marks."""
        unsolved = cls(marks, reach, np.zeros(residual.shape), np.zeros(residual.shape))
        cast, place = unsolved.kernels(marks)
        apart = _squares(marks.row, marks.row) + _squares(marks.column, marks.column)
        unlike = sum(_squares(part, part) for part in residual.T)
        crowd = np.exp(-apart / (2 * _STROKE**2) - unlike / (2 * _STROKE_AB**2)).sum(1)
        length = np.linalg.norm(residual, axis=1, keepdims=True)
        cut = residual * np.minimum(1, _CAST_LONGEST / np.maximum(length, 1e-9))
        first = np.linalg.solve(cast + np.diag(_CAST_NOISE * crowd / reach**2), cut)
        left = residual - cast @ first
        second = np.linalg.solve(place + _PLACE_NOISE * np.eye(len(left)), left)
        return replace(unsolved, cast=first, place=second)

    def kernels(self, places: Places) -> tuple[np.ndarray, np.ndarray]:
        """Both kernels between places and the marks: two float32 `places marks`."""
        marks = self.marks
        light = _squares(places.lightness, marks.lightness)
        features = np.maximum(2 - 2 * places.features @ marks.features.T, 0)
        apart = _squares(places.row, marks.row) + _squares(places.column, marks.column)
        alike = np.exp(light / (-2 * _CAST_LIGHTNESS**2) + features / (-2 * _CAST_FEATURES**2))
        unsure = np.float32(np.outer(places.unsure, marks.unsure))
        cast = (_CAST_SHARE + (1 - _CAST_SHARE) * alike) * unsure
        apart *= np.float32(1 / (-2 * (_PLACE * self.reach) ** 2))
        apart += light / (-2 * _PLACE_LIGHTNESS**2) + features / (-2 * _PLACE_FEATURES**2)
        return cast, np.exp(apart)

    def at(self, places: Places) -> np.ndarray:
        """What the hints add to the colour of places: `places 2`."""
        cast, place = self.kernels(places)
        return cast @ np.float32(self.cast) + place @ np.float32(self.place)


def _squares(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.square(np.subtract.outer(np.float32(one), np.float32(other)))


def spread_marks(
    ab: np.ndarray,
    cells: Places,
    marks: Marks,
    mark_lightness: np.ndarray | None = None,
    pixel: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """As `apply`, of points at the network's size.

    Args:
        ab: as for `apply`.
        cells: as `Places.of_cells` gives them.
        marks: as `to_marks` gives them.
        mark_lightness: L* of the photograph at each, `n`; that of its cell unless given.
        pixel: height and width of one of the photograph's pixels, in cells.
    """
    height, width = ab.shape[:2]
    across, along = (
        bicubic(marks.rows, pixel[0], height),
        bicubic(marks.columns, pixel[1], width),
    )

    def sampled(field: np.ndarray) -> np.ndarray:
        """A field `h w 2` at the marks, as scaling up shows it: `n 2`."""
        return np.stack([((across @ part) * along).sum(1) for part in np.moveaxis(field, 2, 0)], 1)

    places = cells.at(marks.cells(height, width))
    residual = within_gamut(marks.ab, 100 * places.lightness, mark_lightness) - sampled(ab)
    field = Solution.of(places, residual, marks.reach).at(cells).reshape(ab.shape)
    # What scaling up and noise have left, as the least change of cells that gives it.
    left = residual - sampled(field)
    gram = (across @ across.T) * (along @ along.T) + _LOCAL_NOISE * np.eye(len(left))
    weights = np.linalg.solve(gram, left)
    field += np.stack([(across * part[:, None]).T @ along for part in weights.T], axis=-1)
    return (ab + field).astype(np.float32)


class FilmHints:
    """Hints of a film: each holds from its time to the next cut, carried by what the network sees.

    Its place in the picture counts for less than in a photograph, since things move.
    """

    def __init__(self, hints: Sequence[Hint], reach: float = 1.0):
        """Begin before the first frame; a hint without a time holds from the first on."""
        self.waiting = sorted(hints, key=lambda hint: hint.time or 0)
        self.reach = reach
        self.solution: Solution | None = None
        self._residual, self._reach = np.zeros((0, 2)), np.zeros(0)

    def __call__(
        self,
        ab: np.ndarray,
        lightness: np.ndarray,
        features: np.ndarray,
        spread: np.ndarray | None,
        size: tuple[int, int],
        content_fraction: tuple[float, float],
        until: float,
        is_cut: bool,
    ) -> np.ndarray:
        """The colour of the next frame: ab `h w 2` → `h w 2`.

        Args:
            ab: automatic.
            lightness: as for `apply`, as are features, spread and content_fraction.
            features: of the decoder.
            spread: of the predicted distribution.
            size: height and width of the frame.
            content_fraction: of ab, that the frame fills.
            until: the time in seconds at which the next frame takes its place.
            is_cut: whether another scene begins.
        """
        if is_cut:
            self.solution, self._residual, self._reach = None, np.zeros((0, 2)), np.zeros(0)
        new = [hint for hint in self.waiting if (hint.time or 0) < until]
        if not new and self.solution is None:
            return ab
        cells = Places.of_cells(lightness, features, spread)
        if new:
            self.waiting = self.waiting[len(new) :]
            height, width = ab.shape[:2]
            content = content_fraction[0] * height, content_fraction[1] * width
            marks = to_marks(new, size, content, self.reach)
            at = marks.cells(height, width)
            places = cells.at(at)
            residual = within_gamut(marks.ab, 100 * places.lightness) - ab.reshape(-1, 2)[at]
            if self.solution:
                places = self.solution.marks + places
            self._residual = np.concatenate([self._residual, residual])
            self._reach = np.concatenate([self._reach, _FILM_REACH * marks.reach])
            self.solution = Solution.of(places, self._residual, self._reach)
        assert self.solution is not None
        return ab + self.solution.at(cells).reshape(ab.shape)


def within_gamut(
    ab: np.ndarray, lightness: np.ndarray, own: np.ndarray | None = None
) -> np.ndarray:
    """The hints' ab, `n 2`, as far as the gamut allows at the lightness of a place.

    Args:
        ab: of the hints, `n 2`.
        lightness: L* of their cells, `n`.
        own: L* of their pixels, `n`. At a spot of black or white, where no colour is possible, what
            its cell allows serves as well, and says more of the rest.
    """

    def fitted(ab: np.ndarray, lightness: np.ndarray) -> np.ndarray:
        return _in_pieces(_lab, _in_pieces(_fitted, np.column_stack([lightness, ab])))[:, 1:]

    wide = fitted(ab, lightness)
    if own is None:
        return wide
    narrow = fitted(ab, own)
    same = np.linalg.norm(fitted(wide, own) - narrow, axis=1) < 1
    return np.where(same[:, None], wide, narrow)


def suggest(probabilities: np.ndarray, lightness: float, count: int = 5) -> list[str]:
    """The likeliest colours that differ, at a lightness: "#rrggbb", likeliest first.

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
