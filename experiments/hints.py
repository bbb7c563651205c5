"""What hints are worth: PSNR with 0 to 100 of them, beside Levin's optimisation.

    python experiments/hints.py --data DIR

Protocol: of every fifth photograph of the folder, by name, the centre square at 256², those of an
absolute colourfulness below 15 left out, the first 70 that remain. A hint lies on a cell of the
network's output (4 × 4 pixels) and says the truth's mean ab there. Places are random, or each time
where the error is largest, where a person clicks (from 10 hints on several at a time). PSNR is the
mean per picture, in RGB, as in benchmarks/quality.py.

Levin, Lischinski and Weiss ("Colorization using Optimization", 2004) spread colour by lightness
alone. Here their optimisation is solved over the same cells: once alone, as they published it, and
once for the residual on the network's colour. Zhang et al. ("Real-Time User-Guided Image
Colorization with Learned Deep Priors", 2017) trained a network for hints; their gains are copied
from the paper, on its own photographs.

With --picture, it makes a picture of a photograph in colour, before and after hints, instead.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from colorjax import Colorizer, color, config, hints, metrics
from colorjax.colorizer import Analysis
from colorjax.media import files

COUNTS = (0, 1, 2, 3, 5, 10, 20, 30, 50, 100)
ZHANG = {1: 0.94, 2: 1.77, 5: 2.96, 10: 3.99, 20: 4.91, 50: 5.99, 100: 6.70}  # dB
SIZE, CELL = 256, 4  # pixels a side: of a photograph, of a cell
Spread = Callable[[int, np.ndarray, np.ndarray], np.ndarray]  # photograph, cells, ab there → ab


class Photographs:
    """Photographs, what the network says of them, and the truth."""

    def __init__(self, colorizer: Colorizer, folder: str, count: int, first: int = 0):
        """Read every fifth of a folder, from the first on, until there are enough."""
        paths = files.list_images(folder)
        if not paths:
            raise config.ConfigError(f"--data {folder}: it holds no photographs")
        images = []
        for path in paths[first::5]:
            image = files.read_small(path.read_bytes(), path, SIZE)
            if _colorfulness(image) >= 15 and len(images) < count:
                images.append(image)
        self.images = np.stack(images)
        self.analyses = [colorizer.analyze(image) for image in images]
        self.automatic = np.stack([analysis.ab for analysis in self.analyses])
        side = SIZE // CELL
        cells = np.asarray(_lab(self.images)).reshape(-1, side, CELL, side, CELL, 3)
        self.truth, self.lightness = cells.mean((2, 4))[..., 1:], cells.mean((2, 4))[..., 0]

    def psnr(self, ab: np.ndarray) -> float:
        """Mean over the photographs, of their colour `N h w 2`."""
        parts = zip(np.array_split(self.images, 7), np.array_split(ab, 7), strict=True)
        return float(np.concatenate([_psnr(*part) for part in parts]).mean())


_lab = jax.jit(lambda images: color.rgb_to_lab(images / 255.0))
_colorfulness = jax.jit(lambda image: color.colorfulness(image / 255.0, absolute=True))


@jax.jit
def _psnr(images: jax.Array, ab: jax.Array) -> jax.Array:
    up = jnp.asarray(hints.bicubic((np.arange(SIZE) + 0.5) / CELL, 0, SIZE // CELL), jnp.float32)
    ab = jnp.einsum("yh,nhwc,xw->nyxc", up, ab.astype(jnp.float32), up)
    lightness = color.lightness(images / 255.0)
    rgb = color.fit_gamut(jnp.concatenate([lightness[..., None], ab], axis=-1))
    return metrics.psnr(jnp.round(255 * rgb) / 255, images / 255.0)


def by_network(photographs: Photographs, number: int, cells: np.ndarray, ab: np.ndarray):
    """Two Gaussian processes, as they ship."""
    analysis: Analysis = photographs.analyses[number]
    rows, columns = cells.T + 0.5
    marks = hints.Marks(rows, columns, ab, np.ones(len(cells)))
    seen = analysis.lightness, analysis.features, analysis.spread
    return hints.spread_marks(analysis.ab, hints.Places.of_cells(*seen), marks)


def by_levin(
    photographs: Photographs, alone: bool, number: int, cells: np.ndarray, ab: np.ndarray
) -> np.ndarray:
    """Levin's optimisation, of colour alone or of the residual on the network's."""
    automatic = 0 * photographs.automatic[number] if alone else photographs.automatic[number]
    residual = ab - automatic[tuple(cells.T)]
    return automatic + levin(photographs.lightness[number] / 100, cells, residual)


def levin(lightness: np.ndarray, cells: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Each place the weighted mean of its eight neighbours, but where a value is given.

    Weights fall off with the difference of lightness, beside the variance around a place: the
    authors' formula and constants.

    Args:
        lightness: `h w`, in 0…1.
        cells: rows and columns, `n 2`.
        values: given there, `n c`.
    """
    from scipy.sparse import coo_array, eye_array
    from scipy.sparse.linalg import splu

    height, width = lightness.shape
    padded = np.pad(lightness, 1, constant_values=np.nan)
    places = np.pad(np.arange(height * width).reshape(height, width), 1, constant_values=-1)
    shifts = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    near = np.stack([padded[y : y + height, x : x + width] for y, x in shifts])
    places = np.stack([places[y : y + height, x : x + width] for y, x in shifts])
    squares = (near - lightness) ** 2
    variance = np.nanvar(np.concatenate([near, lightness[None]]), axis=0)
    least = -np.nanmin(squares, axis=0) / np.log(0.01)
    weights = np.exp(-squares / np.maximum(np.maximum(0.6 * variance, least), 2e-6))
    weights = np.nan_to_num(weights) / np.nansum(weights, axis=0)
    given = np.zeros((height, width), bool)
    given[tuple(cells.T)] = True
    rows = np.broadcast_to(np.arange(height * width).reshape(height, width), places.shape)
    linked = (places >= 0) & ~given
    shape = (height * width, height * width)
    means = coo_array((weights[linked], (rows[linked], places[linked])), shape=shape)
    system = (eye_array(height * width) - means).tocsc()
    wanted = np.zeros((height, width, values.shape[1]))
    wanted[tuple(cells.T)] = values
    solved = splu(system).solve(wanted.reshape(height * width, -1))
    return solved.reshape(wanted.shape)


def at_random(photographs: Photographs, spread: Spread, counts: tuple[int, ...], seed: int = 0):
    """PSNR at each count, hints at random places: the first ones stay as more come."""
    random, found = np.random.default_rng(seed), {}
    side = SIZE // CELL
    orders = [random.permutation(side * side)[: max(counts)] for _ in photographs.images]
    for count in counts:
        ab = photographs.automatic
        if count:
            cells = [np.stack(np.unravel_index(o[:count], (side, side)), 1) for o in orders]
            ab = np.stack(
                [
                    spread(number, cell, photographs.truth[number][tuple(cell.T)])
                    for number, cell in enumerate(cells)
                ]
            )
        found[count] = photographs.psnr(ab)
    return found


def at_worst(photographs: Photographs, spread: Spread, counts: tuple[int, ...]):
    """PSNR at each count, each hint where the error of 3 × 3 cells is largest."""
    found, ab = {}, photographs.automatic
    cells = [np.zeros((0, 2), int) for _ in ab]
    for count in range(max(counts) + 1):
        step = 1 if count <= 10 else 5 if count <= 20 else 10
        if count and count % step == 0:
            error = ((ab - photographs.truth) ** 2).sum(-1)
            cells = [
                np.concatenate([known, _peaks(field, known, step)])
                for known, field in zip(cells, error, strict=True)
            ]
            ab = np.stack(
                [
                    spread(number, cell, photographs.truth[number][tuple(cell.T)])
                    for number, cell in enumerate(cells)
                ]
            )
        if count in counts:
            found[count] = photographs.psnr(ab)
    return found


def _peaks(error: np.ndarray, known: np.ndarray, count: int) -> np.ndarray:
    """The worst places, `count 2`, apart from each other and from those known."""
    padded = np.pad(error, 1, mode="edge")
    side = len(error)
    near = [padded[y : y + side, x : x + side] for y in range(3) for x in range(3)]
    mean = np.mean(near, axis=0)
    mean[tuple(known.T)] = -1
    found = []
    for _ in range(count):
        row, column = np.unravel_index(mean.argmax(), mean.shape)
        found.append((row, column))
        mean[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4] -= 1e6
    return np.array(found)
