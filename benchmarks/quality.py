"""How faithful the colours are: networks on photographs they never saw, beside their baselines.

Protocol: the centre square of each photograph at 256² (`--size`), coloured with the truth's own
lightness and rounded to 8 bits. PSNR is the mean per picture in RGB, photographs with an absolute
colourfulness below 15 left out of it; pooled PSNR is over all pixels of all pictures. Colourfulness
(CF) is Hasler and Süsstrunk's, "abs" in the variant of this literature. AuC is the area under the
share of pixels within an ab distance of 0…150, plain and weighted by the rarity of the true colour
in this set. "explained" is the share of ab's variance over all pixels that a prediction accounts
for: 1 for the truth, 0 for the best constant, below 0 for what errs more. Always beside the
networks: grey; one constant ab, this set's mean; and the oracle, the true ab at a quarter of the
size scaled back. Each network as `colorize.py` uses it; one with bins also at given temperatures
and powers of its rarity weights, with saturation 1, unless that is how it is used; and each with
its chroma scaled so that its mean CF reaches shares of the truth's, since PSNR falls as
colourfulness rises.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (0, 1)]

import measures
import timing

from colorjax import checkpoint, color, config, metrics, palette, report, step
from colorjax.colorizer import DEFAULT_WEIGHTS, Colorizer
from colorjax.media import files

BATCH = 16
COLUMNS = (
    "psnr",
    "psnr_pooled",
    "ssim",
    "ciede2000",
    "cf",
    "cf_signed",
    "delta_cf",
    "delta_cf_each",
    "auc",
    "auc_rare",
    "histogram",
    "explained",
)
Answer = Callable[[np.ndarray], np.ndarray]  # uint8 N S S 3 → uint8 N S S 3


def names(paths: list[str]) -> list[tuple[str | None, str]]:
    """Each file of weights with a name for its rows: folder and name, more where those are alike.

    Raises:
        ConfigError: a file is named twice.
    """
    if not paths:
        return [(None, "default weights")]
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise config.ConfigError("--weights: a file is named twice")
    parts = [Path(path).absolute().with_suffix("").parts for path in paths]
    length = next(
        n
        for n in range(2, 1 + max(map(len, parts)))
        if len({part[-n:] for part in parts}) == len(parts)
    )
    return [(path, "/".join(part[-length:])) for path, part in zip(paths, parts, strict=True)]


def load(folder: str, size: int) -> np.ndarray:
    """The folder's photographs, uint8 `N size size 3`; unreadable ones are named and left out."""
    if not Path(folder).is_dir():
        raise config.ConfigError(f"--data {folder}: there is no such folder")
    found = []
    for path in files.list_images(folder):
        try:
            found.append(files.read_small(path.read_bytes(), str(path), size))
        except (files.FileError, OSError) as error:
            print(f"left out: {error}", file=sys.stderr)
    if not found:
        raise config.ConfigError(f"--data {folder}: it holds no photographs of {size // 2} pixels")
    return np.stack(found)


def rounded(rgb: jax.Array) -> np.ndarray:
    """In 0…1 → uint8."""
    return np.asarray(jnp.round(255 * rgb).astype(jnp.uint8))


_lab = jax.jit(lambda images: color.rgb_to_lab(images / 255.0))
_absolute = jax.jit(lambda images: color.colorfulness(images / 255.0, absolute=True))
_signed = jax.jit(lambda images: color.colorfulness(images / 255.0))


@jax.jit
def _scaled(truth: jax.Array, prediction: jax.Array, factor: jax.Array) -> jax.Array:
    """Lightness of the truth, ab of the prediction times a factor."""
    ab = factor * color.rgb_to_lab(prediction / 255.0)[..., 1:]
    lightness = color.lightness(truth / 255.0)
    return color.fit_gamut(jnp.concatenate([lightness[..., None], ab], axis=-1))


def constant(ab: np.ndarray) -> Answer:
    """The same ab everywhere."""

    def answer(images: np.ndarray) -> np.ndarray:
        everywhere = jnp.broadcast_to(jnp.asarray(ab, jnp.float32), (len(images), 1, 1, 2))
        return rounded(step.colour_up(color.lightness(images / np.float32(255)), everywhere))

    return answer


def oracle(images: np.ndarray) -> np.ndarray:
    """The truth's ab at a quarter of the size."""
    lab = _lab(images)
    count, side = lab.shape[:2]
    ab = lab[..., 1:].reshape(count, side // 4, 4, side // 4, 4, 2).mean((2, 4))
    return rounded(step.colour_up(lab[..., 0], ab))


def network(colorizer: Colorizer) -> Answer:
    """A network, through the same door as `colorize.py`."""
    return lambda images: np.stack([colorizer(image) for image in images])


def scaled(predictions: np.ndarray, images: np.ndarray, factor: float) -> np.ndarray:
    """Predictions with their chroma times a factor, at the truth's lightness."""
    parts = range(0, len(images), BATCH)
    return np.concatenate(
        [rounded(_scaled(images[i : i + BATCH], predictions[i : i + BATCH], factor)) for i in parts]
    )


def factor_for(predictions: np.ndarray, images: np.ndarray, wanted: float) -> float:
    """The chroma factor that brings the mean absolute CF to the wanted one, by bisection.

    On a grid of some 64² pixels of each picture, which changes CF little and takes a 16th at 256².
    """
    apart = max(1, images.shape[1] // 64)
    few, truth = predictions[:, ::apart, ::apart], images[:, ::apart, ::apart]
    low, high = 0.0, 16.0
    for _ in range(12):
        middle = (low + high) / 2
        cf = float(_absolute(scaled(few, truth, middle)).mean())
        low, high = (middle, high) if cf < wanted else (low, middle)
    return (low + high) / 2


@jax.jit
def _compare(
    images: jax.Array, predictions: jax.Array, truth_histogram: jax.Array, mean_ab: jax.Array
) -> dict:
    truth, prediction = images / 255.0, predictions / 255.0
    lab, lab_predicted = color.rgb_to_lab(truth), color.rgb_to_lab(prediction)
    ab, ab_predicted = lab[..., 1:], lab_predicted[..., 1:]
    rarity = measures.rarity(ab, truth_histogram)
    return {
        "error": metrics.mean_squared_error(prediction, truth),
        "ssim": measures.ssim(prediction, truth),
        "ciede2000": measures.ciede2000(lab_predicted, lab).mean((1, 2)),
        "cf": color.colorfulness(prediction, absolute=True),
        "cf_signed": color.colorfulness(prediction),
        "cf_truth": color.colorfulness(truth, absolute=True),
        "distances": metrics.distance_histogram(ab_predicted, ab)[None],
        "distances_rare": metrics.distance_histogram(ab_predicted, ab, rarity)[None],
        "bins": palette.histogram(ab_predicted)[None],
        "ab_error": ((ab_predicted - ab) ** 2).mean((1, 2, 3)),
        "ab_spread": ((ab - mean_ab) ** 2).mean((1, 2, 3)),
    }


def measure(
    images: np.ndarray, predictions: np.ndarray, truth_histogram: np.ndarray, mean_ab: np.ndarray
) -> dict:
    """Every column of the table for one set of predictions."""
    parts = [
        jax.device_get(
            _compare(images[i : i + BATCH], predictions[i : i + BATCH], truth_histogram, mean_ab)
        )
        for i in range(0, len(images), BATCH)
    ]
    all_of = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    error = np.maximum(all_of["error"].astype(np.float64), 1e-10)  # the truth itself: 100 dB
    colourful, spread = all_of["cf_truth"] >= 15, all_of["ab_spread"].mean()
    difference = all_of["cf"] - all_of["cf_truth"]
    return {
        "psnr": float(-10 * np.log10(error[colourful]).mean()) if colourful.any() else None,
        "psnr_pooled": float(-10 * np.log10(error.mean())),
        "ssim": float(all_of["ssim"].mean()),
        "ciede2000": float(all_of["ciede2000"].mean()),
        "cf": float(all_of["cf"].mean()),
        "cf_signed": float(all_of["cf_signed"].mean()),
        "delta_cf": float(abs(difference.mean())),
        "delta_cf_each": float(np.abs(difference).mean()),
        "auc": float(metrics.auc(all_of["distances"].astype(np.float64).sum(0))),
        "auc_rare": float(metrics.auc(all_of["distances_rare"].astype(np.float64).sum(0))),
        "histogram": float(measures.histogram_distance(all_of["bins"].sum(0), truth_histogram)),
        "explained": float(1 - all_of["ab_error"].mean() / spread) if spread else None,
    }


def gallery(path: Path, images: np.ndarray, predictions: list[np.ndarray]) -> None:
    """The four best, median and worst photographs of the first network by PSNR.

    Grey, a column for each network's prediction, truth.
    """
    error = [
        ((a / 255.0 - b / 255.0) ** 2).mean() for a, b in zip(images, predictions[0], strict=True)
    ]
    order = np.argsort(error)
    middle = max(0, len(order) // 2 - 2)
    chosen = np.concatenate([order[:4], order[middle : middle + 4], order[-4:]])
    truth = images[chosen] / np.float32(255)
    columns = [each[chosen] / 255 for each in predictions]
    report.write_columns(path, [report.grey(truth), *columns, truth])


def run(argv: list[str] | None) -> int:
    """Measure and print; the exit status."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--data", required=True, metavar="DIR", help="photographs never trained on")
    parser.add_argument(
        "--weights",
        nargs="*",
        default=[],
        metavar="FILE",
        help="networks to measure (default: the one that comes along)",
    )
    parser.add_argument("--size", type=int, default=256, help="of the pictures (default: 256)")
    parser.add_argument(
        "--working-size",
        type=int,
        nargs="*",
        default=[],
        metavar="PIXELS",
        help="that the networks see, one or several (default: theirs)",
    )
    parser.add_argument(
        "--shares",
        type=float,
        nargs="*",
        default=[0.4, 0.6, 0.8, 1.0],
        help="of the truth's CF to scale to (default: 0.4 0.6 0.8 1)",
    )
    parser.add_argument(
        "--temperatures",
        type=float,
        nargs="*",
        default=[1.0, 0.38],
        help="to measure networks with bins at, too (default: 1 and Zhang's 0.38)",
    )
    parser.add_argument(
        "--rarities",
        type=float,
        nargs="*",
        default=[0.0],
        help="powers of the rarity weights, at each temperature (default: 0)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument(
        "--gallery",
        type=Path,
        metavar="FILE",
        help="a picture of the first network's best, median and worst, all networks side by side",
    )
    options = parser.parse_args(argv)
    if options.size % 4 or not 16 <= options.size <= 2048:
        raise config.ConfigError(f"--size {options.size}: it must be a multiple of 4, 16 to 2048")
    if not all(0.01 <= temperature <= 100 for temperature in options.temperatures):
        raise config.ConfigError(f"--temperatures {options.temperatures}: from 0.01 to 100")
    if not all(-4 <= rarity <= 4 for rarity in options.rarities):
        raise config.ConfigError(f"--rarities {options.rarities}: from -4 to 4")
    if not all(0 < share <= 1.5 for share in options.shares):
        raise config.ConfigError(f"--shares {options.shares}: they must be above 0, at most 1.5")
    if options.gallery:
        files.check_output(options.gallery, overwrite=True)
    if options.json:
        files.check_output(options.json, overwrite=True, suffixes=(".json",))
    config.use_compilation_cache()
    networks, used = {}, {}
    for path, name in names(options.weights):
        for size in options.working_size or [None]:
            named = f"{name} at {size}" if len(options.working_size) > 1 else name
            loaded = Colorizer.load(path, size)
            decoding = loaded.decoding
            rarity = decoding.rarity_power
            bins = loaded.network.head == "bins"
            networks[named] = {named: loaded} | {
                f"{named}, T {t:g}" + (f", rarity {r:g}" if r else ""): Colorizer.load(
                    path, size, t, 1, r
                )
                for t in options.temperatures
                for r in options.rarities
                if bins and (t, 1, r) != (decoding.temperature, decoding.saturation, rarity)
            }
            content = Path(path or DEFAULT_WEIGHTS).read_bytes()
            used[named] = {
                "sha256": hashlib.sha256(content).hexdigest(),
                "working_size": decoding.working_size,
                "temperature": decoding.temperature if bins else None,
                "saturation": decoding.saturation,
                "rarity": rarity,
            }
    images = load(options.data, options.size)
    batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    histogram = np.sum([palette.histogram(_lab(batch)[..., 1:]) for batch in batches], axis=0)
    mean_ab = np.mean([np.mean(_lab(image)[..., 1:], (0, 1)) for image in images], axis=0)
    each_cf = np.concatenate([_absolute(batch) for batch in batches])
    cf_truth, colourful = float(np.mean(each_cf)), int((each_cf >= 15).sum())
    cf_signed = float(np.mean(np.concatenate([_signed(batch) for batch in batches])))
    if cf_truth < 1:
        raise config.ConfigError(f"--data {options.data}: its photographs have no colour")
    print(
        f"{len(images)} photographs, their centre squares at {options.size}², true lightness, "
        f"8 bits. PSNR in RGB, mean over {colourful} of them, of CF 15 or more; pooled over all."
        f"\nTruth's CF {cf_truth:.1f}, signed {cf_signed:.1f}; constant ab "
        f"({mean_ab[0]:.1f}, {mean_ab[1]:.1f}). AuC: ab distance 0…150.\n"
    )
    print(f"{'':34}" + " ".join(f"{name:>13}" for name in COLUMNS))
    rows: dict[str, dict] = {}

    def row(name: str, predictions: np.ndarray) -> None:
        rows[name] = measure(images, predictions, histogram, mean_ab)
        values = ((f"{v:13.4f}" if v is not None else f"{'-':>13}") for v in rows[name].values())
        print(f"{name:34}" + " ".join(values), flush=True)

    for name, answer in (
        ("grey", constant(np.zeros(2))),
        ("constant ab", constant(mean_ab)),
        ("oracle at a quarter", oracle),
    ):
        row(name, np.concatenate([answer(batch) for batch in batches]))
    shown = []
    for name, answers in networks.items():
        for named, answer in answers.items():
            predictions = np.concatenate([network(answer)(batch) for batch in batches])
            row(named, predictions)
            if options.gallery and named == name:
                shown.append(predictions)
            for share in options.shares:
                factor = factor_for(predictions, images, share * cf_truth)
                if factor > 15.9:
                    print(f"{named}: too grey to reach CF {share:g} by any factor up to 16")
                    continue
                row(f"{named} × {factor:.2f}, CF {share:g}", scaled(predictions, images, factor))
    if options.gallery:
        gallery(options.gallery, images, shown)
    if options.json:
        content = timing.device() | {
            "photographs": len(images),
            "in_psnr": colourful,
            "size": options.size,
            "cf_truth": cf_truth,
            "cf_truth_signed": cf_signed,
            "constant_ab": mean_ab.tolist(),
            "networks": used,
            "rows": rows,
        }
        options.json.write_text(json.dumps(content, indent=1))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    try:
        return run(argv)
    except (config.ConfigError, files.FileError, checkpoint.WeightsError, OSError) as error:
        print(f"quality.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
