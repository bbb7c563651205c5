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

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from colorjax import Colorizer, color, config, device, hints, metrics
from colorjax.colorizer import DEFAULT_WEIGHTS, Analysis
from colorjax.media import files

COUNTS = (0, 1, 2, 3, 5, 10, 20, 30, 50, 100)
ZHANG = {1: 0.94, 2: 1.77, 5: 2.96, 10: 3.99, 20: 4.91, 50: 5.99, 100: 6.70}  # dB
_PANEL, _GAP = 410, 10  # pixels: a panel's width in a picture, between two
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


def neutral_highlights(photographs: Photographs) -> dict[str, float]:
    """What corrections of the whole picture are worth: PSNR of each."""
    from colorjax.colorizer import neutral

    automatic, truth = photographs.automatic, photographs.truth
    shifted = np.stack([neutral(analysis) for analysis in photographs.analyses])
    shift = (truth - automatic).mean((1, 2), keepdims=True)
    return {
        "automatic": photographs.psnr(automatic),
        "highlights neutral": photographs.psnr(shifted),
        "true warmth and tint": photographs.psnr(automatic + shift),
    }


def milliseconds(colorizer: Colorizer) -> dict[str, float]:
    """Least time of thirty to solve for 10 and 100 hints, and for a stroke of 10,000 pixels."""
    random, found = np.random.default_rng(0), {}
    image = random.integers(0, 256, (400, 400), np.uint8)
    analysis = colorizer.analyze(image)
    for name, count, side in (("10 hints", 10, 400), ("100 hints", 100, 400), ("stroke", 0, 100)):
        places = (
            random.integers(0, side, (count, 2)) if count else np.argwhere(np.ones((side,) * 2))
        )
        given = [hints.Hint(float(x), float(y), "#804040") for y, x in places.tolist()]
        taken = []
        for _ in range(30):
            start = time.perf_counter()
            analysis.with_hints(image, analysis.ab, given)
            taken.append(1000 * (time.perf_counter() - start))
        found[name] = min(taken)
    return found


def table(gains: dict[str, dict[int, float]]) -> str:
    """Gains in dB as Markdown, a row a method."""
    counts = [count for count in COUNTS if count]
    lines = ["| hints | " + " | ".join(map(str, counts)) + " |", "|---" * (len(counts) + 1) + "|"]
    for name, row in gains.items():
        cells = [f"{row[count]:+.2f}" if count in row else "" for count in counts]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(colorizer: Colorizer, source: str, points: list[str], target: str) -> None:
    """A photograph, and beside it its colour: automatic, after one hint, after all of them."""
    image = files.read(source).pixels
    given = []
    for point in points:
        x, y, name = point.split(",")
        given.append(hints.Hint(float(x), float(y), name))
    analysis = colorizer.analyze(image)
    panels = []
    for count in (0, 1, len(given)):
        rgb = colorizer(image, given[:count], analysis=analysis)
        panel = Image.fromarray(rgb)
        for hint in given[:count]:
            _pin(panel, hint)
        panels.append(panel.resize((_PANEL, round(_PANEL * panel.height / panel.width))))
    whole = Image.new("RGB", (3 * _PANEL + 2 * _GAP, panels[0].height), "white")
    for index, panel in enumerate(panels):
        whole.paste(panel, ((_PANEL + _GAP) * index, 0))
    whole.save(target, quality=85)
    print(f"wrote {target} ({whole.width} × {whole.height}, {Path(target).stat().st_size:,} bytes)")


def _pin(panel: Image.Image, hint: hints.Hint) -> None:
    """Draw a hint: a disc of its colour, ringed in white and black."""
    from PIL import ImageDraw

    draw, size = ImageDraw.Draw(panel), panel.width / 50
    for more, fill in ((1.5, "black"), (1.3, "white"), (1.0, hint.color)):
        around = more * size
        box = (hint.x - around, hint.y - around, hint.x + around, hint.y + around)
        draw.ellipse(box, fill=fill)


def main(argv: list[str] | None = None) -> int:
    """Measure, or make a picture; the exit status."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--data", metavar="DIR", help="colour photographs")
    parser.add_argument("--weights", metavar="FILE", help="(default: those in the package)")
    parser.add_argument("--count", type=int, default=70, help="photographs (default: 70)")
    parser.add_argument("--out", default="experiments/results/hints.json", metavar="FILE")
    parser.add_argument("--picture", metavar="PHOTOGRAPH", help="make a picture of this one")
    parser.add_argument("--hint", action="append", default=[], metavar="X,Y,#RRGGBB")
    parser.add_argument("--to", default="docs/hints.jpg", metavar="FILE", help="of the picture")
    options = parser.parse_args(argv)
    device.use_compilation_cache()
    colorizer = Colorizer.load(options.weights)
    if options.picture:
        picture(colorizer, options.picture, options.hint, options.to)
        return 0
    if not options.data:
        parser.error("--data or --picture is needed")
    weights = Path(options.weights or DEFAULT_WEIGHTS)
    photographs = Photographs(colorizer, options.data, options.count)
    ours = partial(by_network, photographs)
    few = tuple(count for count in COUNTS if count <= 20)
    levin_alone = partial(by_levin, photographs, True)
    levin_residual = partial(by_levin, photographs, False)
    psnr = {
        "random places": at_random(photographs, ours, COUNTS),
        "Levin, on the automatic colour": at_random(photographs, levin_residual, COUNTS),
        "Levin, alone": at_random(photographs, levin_alone, COUNTS),
        "worst places": at_worst(photographs, ours, COUNTS),
        "Levin, on the automatic colour, worst places": at_worst(photographs, levin_residual, few),
    }
    base = psnr["random places"][0]
    gains = {
        name: {count: value - base for count, value in row.items()} for name, row in psnr.items()
    }
    gains["Zhang 2017, a network trained for hints, on its own photographs"] = dict(ZHANG)
    result = {
        "command": "python experiments/hints.py --data DIR",
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "photographs": len(photographs.images),
        "psnr": psnr,
        "gains": gains,
        "whole picture": neutral_highlights(photographs),
        "milliseconds": milliseconds(colorizer),
        "device": jax.devices()[0].device_kind,
    }
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
    print(table(gains))
    print(json.dumps({key: result[key] for key in ("weights", "whole picture", "milliseconds")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
