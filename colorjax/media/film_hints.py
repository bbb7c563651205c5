"""Hints of a film: each holds from its time to the next cut, carried by what the network sees."""

from collections.abc import Callable, Sequence

import numpy as np

from colorjax.colorizer import Analysis
from colorjax.hints import Hint, Places, solve, to_marks, within_gamut

_REACH = 3.0  # of a hint in a film, whose things move, times its reach in a photograph


class FilmHints:
    """The hints that hold now and those to come; called once for each frame, in order."""

    def __init__(self, hints: Sequence[Hint], reach: float = 1.0):
        """Begin before the first frame; a hint without a time holds from the first on."""
        self.waiting = sorted(hints, key=lambda hint: hint.time or 0)
        self.reach = reach
        self._known: list[tuple[Places, np.ndarray, np.ndarray]] = []  # marks, residual, reach
        self._added: Callable[[Places], np.ndarray] | None = None

    def __call__(
        self, seen: Analysis, size: tuple[int, int], until: float, is_cut: bool
    ) -> np.ndarray:
        """Add the hints to the automatic colour of the next frame: ab `h w 2`.

        Args:
            seen: what the network says of the frame.
            size: height and width of the frame.
            until: the time in seconds at which the next frame takes its place.
            is_cut: whether another scene begins.
        """
        if is_cut:
            self._known, self._added = [], None
        ab = seen.ab
        new = [hint for hint in self.waiting if (hint.time or 0) < until]
        if not (new or self._added):
            return ab
        cells = Places.of_cells(seen.lightness, seen.features, seen.spread)
        if new:
            self.waiting = self.waiting[len(new) :]
            height, width = ab.shape[:2]
            content = seen.content_fraction[0] * height, seen.content_fraction[1] * width
            marks = to_marks(new, size, content, self.reach)
            numbers = marks.cells(height, width)
            places = cells.at(numbers)
            residual = within_gamut(marks.ab, 100 * places.lightness) - ab.reshape(-1, 2)[numbers]
            self._known.append((places, residual, _REACH * marks.reach))
            every, *others = zip(*self._known, strict=True)
            every = Places(*map(np.concatenate, zip(*every, strict=True)))
            self._added = solve(every, *map(np.concatenate, others))
        return ab + self._added(cells).reshape(ab.shape) if self._added else ab
