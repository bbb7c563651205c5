"""How faithful the colours are: networks on photographs they never saw, beside their baselines.

    python benchmarks/quality.py --data DIR --weights FILE … --json FILE

The centre square of each photograph at 256² (`--size`) is coloured with the truth's own lightness
and rounded to 8 bits. The columns:

- psnr: in RGB, mean per picture; photographs of an absolute colourfulness below 15 are left out.
- psnr_pooled: over all pixels of all pictures.
- ssim, ciede2000: means over all pictures.
- cf, cf_signed: Hasler and Süsstrunk's colourfulness, "abs" in the variant of this literature.
- delta_cf, delta_cf_each: distance of the mean cf from the truth's; mean distance per picture.
- auc, auc_rare: area under the fraction of pixels within an ab distance of 0…150, plain and with
  pixels weighted by how rare their true colour is in this set.
- histogram: total variation between the ab histograms of predictions and truth.
- explained: fraction of ab's variance that a prediction accounts for: 1 for the truth, 0 for the
  best constant, below 0 for what errs more.

Three baselines come first: grey; one constant ab, this set's mean; and the oracle, the true ab at a
quarter of the size scaled back. Each network is measured as `colorize.py` uses it. A network with
bins is also measured at each temperature and rarity power, with saturation 1. PSNR falls as
colourfulness rises, so each is measured again with its chroma scaled to reach each of `--shares` of
the truth's CF.
"""

import argparse
import hashlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (0, 1)]

import timing

from colorjax import checkpoint, color, config, device, metrics, palette, report
from colorjax.colorizer import DEFAULT_WEIGHTS, Colorizer
from colorjax.media import files

BATCH = 16
MAX_FACTOR = 16.0  # on chroma


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
    length = 2
    while len({part[-length:] for part in parts}) < len(parts):
        length += 1
    return [(path, "/".join(part[-length:])) for path, part in zip(paths, parts, strict=True)]


def variants(path: str | None, name: str, options: argparse.Namespace) -> dict[str, Colorizer]:
    """A network as it is used, and at the other temperatures and rarity powers asked for."""
    found = {}
    for size in options.working_size or [None]:
        named = f"{name} at {size}" if len(options.working_size) > 1 else name
        used = found[named] = Colorizer.load(path, working_size=size)
        how = used.decoding
        if used.network.head != "bins":
            continue
        for t in options.temperatures:
            for power in options.rarities:
                if (t, 1, power) != (how.temperature, how.saturation, how.rarity_power):
                    row = f"{named}, T {t:g}" + (f", rarity {power:g}" if power else "")
                    found[row] = Colorizer.load(
                        path, working_size=size, temperature=t, saturation=1, rarity_power=power
                    )
    return found


def describe(path: str | None, colorizer: Colorizer) -> dict:
    """A network and how it is used, for the report."""
    decoding = colorizer.decoding
    return {
        "sha256": hashlib.sha256(Path(path or DEFAULT_WEIGHTS).read_bytes()).hexdigest(),
        "working_size": decoding.working_size,
        "temperature": decoding.temperature if colorizer.network.head == "bins" else None,
        "saturation": decoding.saturation,
        "rarity": decoding.rarity_power,
    }


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


def of_each(function: Callable, *arrays: np.ndarray) -> Any:
    """A jitted function of batches `B …`, on arrays `N …`: its results, `N …`."""
    count = len(arrays[0])
    parts = [
        jax.device_get(function(*(array[i : i + BATCH] for array in arrays)))
        for i in range(0, count, BATCH)
    ]
    return jax.tree.map(lambda *each: np.concatenate(each), *parts)


@jax.jit
def statistics(images: jax.Array) -> dict[str, jax.Array]:
    """Of each picture, uint8 `B H W 3`: mean ab, ab histogram, both kinds of colourfulness."""
    rgb = images / 255.0
    ab = color.rgb_to_lab(rgb)[..., 1:]
    return {
        "ab": ab.mean((1, 2)),
        "bins": jax.vmap(palette.histogram)(ab),
        "cf": colorfulness(images),
        "cf_signed": color.colorfulness(rgb),
    }


@jax.jit
def colorfulness(images: jax.Array) -> jax.Array:
    """Absolute colourfulness of uint8 `B H W 3`: `B`."""
    return color.colorfulness(images / 255.0, absolute=True)


@jax.jit
def recolor(images: jax.Array, ab: jax.Array) -> jax.Array:
    """Lightness of uint8 `B H W 3`, ab of `B h w 2` scaled up bicubically → uint8 `B H W 3`."""
    lightness = color.lightness(images / 255.0)
    ab = jax.image.resize(ab, (*lightness.shape, 2), "cubic")
    rgb = color.fit_gamut(jnp.concatenate([lightness[..., None], ab], axis=-1))
    return jnp.round(255 * rgb).astype(jnp.uint8)


@jax.jit
def oracle(images: jax.Array) -> jax.Array:
    """The truth's ab at a quarter of the size, scaled back."""
    ab = color.rgb_to_lab(images / 255.0)[..., 1:]
    batch, side = ab.shape[:2]
    return recolor(images, ab.reshape(batch, side // 4, 4, side // 4, 4, 2).mean((2, 4)))


@jax.jit
def scale_chroma(factor: jax.Array, images: jax.Array, predictions: jax.Array) -> jax.Array:
    """Lightness of the truth, ab of the prediction times a factor."""
    return recolor(images, factor * color.rgb_to_lab(predictions / 255.0)[..., 1:])


def scaled(predictions: np.ndarray, images: np.ndarray, factor: float) -> np.ndarray:
    """Predictions with their chroma times a factor, at the truth's lightness."""
    return of_each(partial(scale_chroma, np.float32(factor)), images, predictions)


def factor_for(predictions: np.ndarray, images: np.ndarray, wanted: float) -> float:
    """The chroma factor that brings the mean absolute CF to the wanted one, by bisection.

    On a grid of some 64² pixels of each picture, which changes CF little and takes a 16th at 256².
    """
    stride = max(1, images.shape[1] // 64)
    few, truth = predictions[:, ::stride, ::stride], images[:, ::stride, ::stride]
    low, high = 0.0, MAX_FACTOR
    for _ in range(12):
        middle = (low + high) / 2
        cf = of_each(colorfulness, scaled(few, truth, middle)).mean()
        low, high = (middle, high) if cf < wanted else (low, middle)
    return (low + high) / 2


def colored(colorizer: Colorizer, images: np.ndarray) -> np.ndarray:
    """What a network makes of pictures of one shape, uint8 `N S S 3`."""
    out = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        lightness, fractions = zip(*map(colorizer.to_network_input, batch), strict=True)
        filled = np.resize(np.stack(lightness), (BATCH, *lightness[0].shape))
        ab = colorizer.predict(filled)
        out += map(colorizer.merge, batch, ab[: len(batch)], fractions)
    return np.stack(out)


@jax.jit
def compare(
    truth_histogram: jax.Array, mean_ab: jax.Array, images: jax.Array, predictions: jax.Array
) -> dict[str, jax.Array]:
    """What `measure` needs of each picture."""
    truth, prediction = images / 255.0, predictions / 255.0
    lab, lab_predicted = color.rgb_to_lab(truth), color.rgb_to_lab(prediction)
    ab, ab_predicted = lab[..., 1:], lab_predicted[..., 1:]
    weights = metrics.pixel_weights(ab, truth_histogram)
    return {
        "error": metrics.mean_squared_error(prediction, truth),
        "ssim": metrics.ssim(prediction, truth),
        "ciede2000": metrics.ciede2000(lab_predicted, lab).mean((1, 2)),
        "cf": color.colorfulness(prediction, absolute=True),
        "cf_signed": color.colorfulness(prediction),
        "cf_truth": color.colorfulness(truth, absolute=True),
        "distances": metrics.distance_histogram(ab_predicted, ab)[None],
        "distances_rare": metrics.distance_histogram(ab_predicted, ab, weights)[None],
        "bins": palette.histogram(ab_predicted)[None],
        "ab_error": ((ab_predicted - ab) ** 2).mean((1, 2, 3)),
        "ab_spread": ((ab - mean_ab) ** 2).mean((1, 2, 3)),
    }


def measure(
    images: np.ndarray, predictions: np.ndarray, truth_histogram: np.ndarray, mean_ab: np.ndarray
) -> dict[str, float | None]:
    """Every column of the table for one set of predictions."""
    found = of_each(partial(compare, truth_histogram, mean_ab), images, predictions)
    error = np.maximum(found["error"].astype(np.float64), 1e-10)  # the truth itself: 100 dB
    colorful, spread = found["cf_truth"] >= 15, found["ab_spread"].mean()
    difference = found["cf"] - found["cf_truth"]

    def auc(name: str) -> float:
        return float(metrics.auc(found[name].astype(np.float64).sum(0)))

    return {
        "psnr": float(-10 * np.log10(error[colorful]).mean()) if colorful.any() else None,
        "psnr_pooled": float(-10 * np.log10(error.mean())),
        "ssim": float(found["ssim"].mean()),
        "ciede2000": float(found["ciede2000"].mean()),
        "cf": float(found["cf"].mean()),
        "cf_signed": float(found["cf_signed"].mean()),
        "delta_cf": float(abs(difference.mean())),
        "delta_cf_each": float(np.abs(difference).mean()),
        "auc": auc("distances"),
        "auc_rare": auc("distances_rare"),
        "histogram": float(metrics.histogram_distance(found["bins"].sum(0), truth_histogram)),
        "explained": float(1 - found["ab_error"].mean() / spread) if spread else None,
    }


def draw(path: Path, images: np.ndarray, predictions: list[np.ndarray]) -> None:
    """The four best, median and worst photographs of the first network by PSNR.

    Grey, a column for each network's prediction, truth.
    """
    error = (
        ((a / 255.0 - b / 255.0) ** 2).mean() for a, b in zip(images, predictions[0], strict=True)
    )
    order = np.argsort([*error])
    middle = max(0, len(order) // 2 - 2)
    chosen = np.concatenate([order[:4], order[middle : middle + 4], order[-4:]])
    truth = images[chosen] / np.float32(255)
    columns = [each[chosen] / 255 for each in predictions]
    report.write_columns(path, [report.grey(truth), *columns, truth])


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line, checked before anything is read."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="photographs never trained on")
    add("--weights", nargs="*", default=[], metavar="FILE", help="(default: those in the package)")
    add("--size", type=int, default=256, help="of the pictures (default: 256)")
    add("--working-size", type=int, nargs="*", default=[], help="of the networks (default: theirs)")
    several = {"type": float, "nargs": "*"}
    add("--shares", **several, default=[0.4, 0.6, 0.8, 1.0], help="(default: 0.4 0.6 0.8 1)")
    add("--temperatures", **several, default=[1.0, 0.38], help="(default: 1 and Zhang's 0.38)")
    add("--rarities", **several, default=[0.0], help="powers, at each temperature (default: 0)")
    add("--json", type=Path, metavar="FILE", help="where to write the figures")
    add("--gallery", type=Path, metavar="FILE", help="a picture of best, median and worst")
    options = parser.parse_args(argv)
    if options.size % 4 or not 16 <= options.size <= 2048:
        raise config.ConfigError(f"--size {options.size}: it must be a multiple of 4, 16 to 2048")
    for name, least, most in (
        ("temperatures", 0.01, 100),
        ("rarities", -4, 4),
        ("shares", 0.01, 1.5),
    ):
        if not all(least <= value <= most for value in getattr(options, name)):
            raise config.ConfigError(f"--{name} {getattr(options, name)}: from {least} to {most}")
    if options.gallery:
        files.check_output(options.gallery, overwrite=True)
    if options.json:
        files.check_output(options.json, overwrite=True, suffixes=(".json",))
    return options


def run(argv: list[str] | None) -> int:
    """Measure and print; the exit status."""
    options = parse(argv)
    device.use_compilation_cache()
    device.keep_memory()
    networks = {
        name: (path, variants(path, name, options)) for path, name in names(options.weights)
    }
    images = load(options.data, options.size)
    truth = of_each(statistics, images)
    histogram, mean_ab = truth["bins"].sum(0), truth["ab"].mean(0)
    cf_truth, cf_signed = float(truth["cf"].mean()), float(truth["cf_signed"].mean())
    in_psnr = int((truth["cf"] >= 15).sum())
    if cf_truth < 1:
        raise config.ConfigError(f"--data {options.data}: its photographs have no colour")
    print(
        f"{len(images)} photographs, their centre squares at {options.size}², true lightness, "
        f"8 bits. PSNR in RGB, mean over {in_psnr} of them, of CF 15 or more; pooled over all."
        f"\nTruth's CF {cf_truth:.1f}, signed {cf_signed:.1f}; constant ab "
        f"({mean_ab[0]:.1f}, {mean_ab[1]:.1f}). AuC: ab distance 0…150.\n"
    )
    rows: dict[str, dict] = {}

    def row(name: str, predictions: np.ndarray) -> None:
        rows[name] = measure(images, predictions, histogram, mean_ab)
        if len(rows) == 1:
            print(f"{'':34}" + " ".join(f"{column:>13}" for column in rows[name]))
        values = (f"{v:13.4f}" if v is not None else f"{'-':>13}" for v in rows[name].values())
        print(f"{name:34}" + " ".join(values), flush=True)

    for name, ab in (("grey", np.zeros(2)), ("constant ab", mean_ab)):
        constant = np.broadcast_to(np.float32(ab), (len(images), 1, 1, 2))
        row(name, of_each(recolor, images, constant))
    row("oracle at a quarter", of_each(oracle, images))
    shown, used = [], {}
    for path, answers in networks.values():
        for name, colorizer in answers.items():
            predictions = colored(colorizer, images)
            row(name, predictions)
            if ", T " not in name:
                shown.append(predictions)
                used[name] = describe(path, colorizer)
            for share in options.shares:
                factor = factor_for(predictions, images, share * cf_truth)
                if factor > MAX_FACTOR - 0.1:
                    print(f"{name}: too grey to reach CF {share:g} by a factor of {MAX_FACTOR:g}")
                    continue
                row(f"{name} × {factor:.2f}, CF {share:g}", scaled(predictions, images, factor))
    if options.gallery:
        draw(options.gallery, images, shown)
    timing.write(
        options.json,
        timing.device()
        | {
            "photographs": len(images),
            "in_psnr": in_psnr,
            "size": options.size,
            "cf_truth": cf_truth,
            "cf_truth_signed": cf_signed,
            "constant_ab": mean_ab.tolist(),
            "networks": used,
            "rows": rows,
        },
    )
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
