"""How much the colour of a film flickers, and what the filter over time costs.

Films in colour are the truth. Each is coloured from its lightness alone, frame by frame, with the
filter over time and without, and compared with its own colours:

- PSNR in RGB at the film's own size, mean over frames;
- still: mean change of the predicted ab from one frame to the next, over the pixels whose L*
  changes by less than 1, before anything is rounded to 8 bits;
- CDC (Liu et al. 2021, arXiv:2110.04562): Jensen-Shannon divergence, in nats, between the
  histograms of R, G and B of frames 1, 2 and 4 apart, mean, times 1000. Lightness is in it too: the
  row `one colour`, which cannot flicker, shows how much.

`--min-blend` and `--motion-scale` take several values, to choose from (see
colorjax/media/temporal.py). Last comes what a cut is told from, `temporal.histogram_distance`: its
maximum from frame to frame within a film, the same with brightness that flickers by 20 % at random,
and its minimum between every tenth frame of two films.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from colorjax import checkpoint, color, config, device
from colorjax.colorizer import Colorizer
from colorjax.media import demux, temporal
from colorjax.media.film import BATCH, FilmError

COLUMNS = ("psnr", "still", "cdc")
_lab = jax.jit(lambda images: color.rgb_to_lab(images / 255.0))


def decode(path: Path, limit: int) -> np.ndarray:
    """The film's first frames, uint8 `N H W 3`."""
    with closing(demux.frames(path, demux.Outcome())) as found:
        pixels = [frame.pixels for frame in itertools.islice(found, limit)]
    if all(picture.ndim == 2 for picture in pixels):
        raise config.ConfigError(f"{path}: a film in colour is needed, to compare with")
    if len(pixels) < 5:
        raise config.ConfigError(f"{path}: a film of 5 frames or more is needed")
    return np.stack([p if p.ndim == 3 else np.repeat(p[..., None], 3, 2) for p in pixels])


def predict(colorizer: Colorizer, film: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
    """The small copies' lightness `N rows columns`, ab `N h w 2`, and their content's fraction."""
    small = [colorizer.to_network_input(frame) for frame in film]
    lightness = np.stack([light for light, _ in small])
    batches = (lightness[i : i + BATCH] for i in range(0, len(film), BATCH))
    ab = [
        colorizer.predict(np.resize(batch, (BATCH, *batch.shape[1:])))[: len(batch)]
        for batch in batches
    ]
    return lightness, np.concatenate(ab), small[0][1]


def divergence(histograms: np.ndarray, apart: int) -> float:
    """Mean Jensen-Shannon divergence of histograms `N 3 256` that many frames apart."""
    p, q = histograms[apart:], histograms[:-apart]
    middle = (p + q) / 2

    def relative(share: np.ndarray) -> np.ndarray:
        quotient = np.divide(share, middle, out=np.ones_like(share), where=share > 0)
        return (share * np.log(quotient)).sum(-1)

    return float((relative(p) + relative(q)).mean() / 2)


def measure(
    colorizer: Colorizer, film: np.ndarray, ab: np.ndarray, content_fraction: tuple
) -> dict:
    """The columns of one row, for the film with these colours."""
    height, width = film.shape[1:3]
    error, still, histograms, before = [], [], [], None
    for frame, small in zip(film, ab, strict=True):
        box = (0, 0, content_fraction[1] * ab.shape[2], content_fraction[0] * ab.shape[1])
        planes = (Image.fromarray(np.ascontiguousarray(small[..., i])) for i in range(2))
        full = np.stack(
            [
                np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC, box))
                for plane in planes
            ],
            axis=-1,
        )
        coloured = colorizer.merge(frame, small, content_fraction)
        lightness = np.asarray(_lab(frame))[..., 0]
        error.append(np.mean((coloured / 255.0 - frame / 255.0) ** 2))
        histograms.append([np.bincount(coloured[..., i].ravel(), minlength=256) for i in range(3)])
        if before is not None:
            unchanged = np.abs(lightness - before[0]) < 1
            if unchanged.any():
                still.append(np.linalg.norm(full - before[1], axis=-1)[unchanged].mean())
        before = lightness, full
    shares = np.array(histograms) / (height * width)
    return {
        "psnr": float(-10 * np.log10(np.maximum(error, 1e-10)).mean()),
        "still": float(np.mean(still)) if still else None,
        "cdc": 1000 * float(np.mean([divergence(shares, apart) for apart in (1, 2, 4)])),
    }


def cuts(films: dict[str, np.ndarray]) -> dict:
    """Histogram distances within films and between them, from their small copies' lightness."""
    random, found = np.random.default_rng(0), {}
    for name, lightness in films.items():
        shaken = lightness * random.uniform(0.8, 1.2, (len(lightness), 1, 1))
        found[name] = {
            key: round(max(map(temporal.histogram_distance, values, values[1:])), 3)
            for key, values in (("within", lightness), ("within, flickering", shaken))
        }
    for (one, a), (other, b) in itertools.combinations(films.items(), 2):
        least = min(temporal.histogram_distance(x, y) for x in a[::10] for y in b[::10])
        found[f"{one} / {other}"] = {"between": round(least, 3)}
    return found


def rows(
    colorizer: Colorizer,
    film: np.ndarray,
    small: tuple,
    min_blends: list[float],
    motion_scales: list[float],
) -> Iterator[tuple[str, dict]]:
    """Name and columns of each row of a film's table; `small` is what `predict` gives."""
    lightness, ab, content_fraction = small
    one = np.broadcast_to(ab.mean((0, 1, 2)), ab.shape)
    yield "one colour", measure(colorizer, film, one, content_fraction)
    yield "each frame alone", measure(colorizer, film, ab, content_fraction)
    for a in min_blends:
        for b in motion_scales:
            filtered = np.stack(list(map(temporal.TemporalFilter(a, b), lightness, ab)))
            yield f"filtered ({a:g}, {b:g})", measure(colorizer, film, filtered, content_fraction)


def run(argv: list[str] | None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("films", nargs="+", type=Path, metavar="FILM", help="in colour")
    parser.add_argument("--weights", metavar="FILE", help="(default: those in the package)")
    parser.add_argument(
        "--min-blend",
        type=float,
        nargs="+",
        default=[temporal.MIN_BLEND],
        help=f"weight of the new colour where nothing moves (default: {temporal.MIN_BLEND})",
    )
    parser.add_argument(
        "--motion-scale",
        type=float,
        nargs="+",
        default=[temporal.MOTION_SCALE],
        help=f"change of L* that gives most weight (default: {temporal.MOTION_SCALE})",
    )
    parser.add_argument("--frames", type=int, default=300, help="at most (default: 300)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    options = parser.parse_args(argv)
    if options.frames < 5:
        raise config.ConfigError(f"--frames {options.frames}: it must be 5 or more")
    if options.json and not options.json.parent.is_dir():
        raise config.ConfigError(f"--json {options.json}: there is no folder {options.json.parent}")
    device.use_compilation_cache()
    colorizer, report, copies = Colorizer.load(options.weights), {}, {}
    print(f"{'':44}" + " ".join(f"{name:>8}" for name in COLUMNS))
    for path in options.films:
        film = decode(path, options.frames)
        report[path.name] = {"frames": len(film), "size": f"{film.shape[2]} × {film.shape[1]}"}
        small = predict(colorizer, film)
        copies[path.name] = small[0]
        for name, row in rows(colorizer, film, small, options.min_blend, options.motion_scale):
            report[path.name][name] = row
            values = (
                f"{row[key]:8.3f}" if row[key] is not None else f"{'-':>8}" for key in COLUMNS
            )
            print(f"{path.name:20}{name:24}" + " ".join(values), flush=True)
    report["cuts"] = cuts(copies)
    for name, row in report["cuts"].items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    try:
        return run(argv)
    except (config.ConfigError, FilmError, checkpoint.WeightsError, OSError) as error:
        print(f"flicker.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
