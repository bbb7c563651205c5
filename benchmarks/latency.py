"""What a person waits for: `colorize.py` from start to file, and a folder beside the network alone.

Photographs: smooth scenes with grain, grey, of 0.25, 1, 12 and 100 megapixels. Each is coloured by
a process of its own, first with an empty compilation cache (cold), then again with what that left
(warm, the median of `--repeats`). Memory is the process's peak; beside it stand the pixels read and
written, which it cannot do without. Then a folder of small photographs through `colorize.py`'s own
pipeline, beside the network alone on batches of the same shape.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (0, 1)]

import timing

ROOT = Path(__file__).resolve().parent.parent

SIZES = {0.25: (500, 500), 1: (866, 1155), 12: (3000, 4000), 100: (8660, 11547)}
PICTURE = (375, 500)  # of the folder


def scene(seed: int, height: int, width: int) -> Image.Image:
    """A grey picture with large shapes, smaller ones and grain, which compresses as a scan does."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width), np.float32)
    for cells, strength in ((6, 90), (40, 40), (300, 15)):
        coarse = Image.fromarray(random.random((cells, cells), np.float32))
        total += strength * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    for top in range(0, height, 512):  # in pieces: a hundred megapixels of noise are large
        part = total[top : top + 512]
        part += 3 * random.standard_normal(part.shape, np.float32)
    return Image.fromarray(np.clip(total + 50, 0, 255).astype(np.uint8))


def timed(argv: list[str], cache: str) -> tuple[float, float]:
    """Seconds and peak MiB of a process of `colorize.py`."""
    environment = os.environ | {"XDG_CACHE_HOME": cache}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "colorize.py"), *argv],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"latency.py: colorize.py {' '.join(argv)} failed")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return seconds, usage.ru_maxrss / unit


def photograph(megapixels: float, suffix: str, repeats: int, weights: list[str]) -> dict:
    """One row: a photograph of so many megapixels."""
    height, width = SIZES[megapixels]
    with tempfile.TemporaryDirectory() as place:
        source, target = f"{place}/in.{suffix}", f"{place}/out/out.{suffix}"
        Path(place, "out").mkdir()
        scene(0, height, width).save(source, quality=92)
        argv = [source, target, "--overwrite", *weights]
        cold, _ = timed(argv, f"{place}/cache")
        warm = [timed(argv, f"{place}/cache") for _ in range(repeats)]
    return {
        "megapixels": megapixels,
        "format": suffix,
        "cold_seconds": round(cold, 2),
        "warm_seconds": round(statistics.median(seconds for seconds, _ in warm), 2),
        "warm_spread": [round(f(seconds for seconds, _ in warm), 2) for f in (min, max)],
        "peak_mib": round(max(peak for _, peak in warm)),
        "pixels_mib": round(4 * height * width / 2**20),  # one byte in, three out
    }


def folder(count: int, weights: str | None) -> dict:
    """Photographs/s of a folder, and of the network alone on batches of the same shape."""
    from colorjax import device
    from colorjax.colorizer import Colorizer
    from colorjax.media import files, folder

    device.keep_memory()  # as `colorize.py` does for a folder

    device.use_compilation_cache()
    colorizer = Colorizer.load(weights)
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "in")
        source.mkdir()
        for number in range(count):
            scene(number, *PICTURE).save(source / f"{number:04}.jpg", quality=92)
        first = files.read(source / "0000.jpg").pixels
        lightness, filled = colorizer.to_network_input(first)
        batch = np.stack([lightness] * folder.BATCH)
        ab = colorizer.predict(batch)[0]
        colorizer.merge(first, ab, filled)  # everything is compiled
        start = time.perf_counter()
        for _ in range(-(-count // folder.BATCH)):
            colorizer.predict(batch)
        network = time.perf_counter() - start
        start = time.perf_counter()
        outcome = folder.colorize_folder(colorizer, folder.pairs(source, Path(place, "out")))
        whole = time.perf_counter() - start
    assert outcome.coloured == count, outcome.failures
    return {
        "photographs": count,
        "size": f"{PICTURE[1]} × {PICTURE[0]}",
        "working_size": colorizer.decoding.working_size,
        "per_second": round(count / whole, 1),
        "network_per_second": round(count / network, 1),
        "share_of_network": round(network / whole, 3),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--megapixels",
        type=float,
        nargs="*",
        default=list(SIZES),
        choices=list(SIZES),
        help="of the photographs (default: all)",
    )
    parser.add_argument("--formats", nargs="+", default=["jpg", "png"], help="(default: jpg png)")
    parser.add_argument("--repeats", type=int, default=3, help="warm runs of each (default: 3)")
    parser.add_argument(
        "--photographs", type=int, default=500, help="in the folder; 0: no folder (default: 500)"
    )
    parser.add_argument("--weights", metavar="FILE", help="(default: those in the package)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    options = parser.parse_args(argv)
    if options.repeats < 1 or options.photographs < 0:
        parser.error("--repeats must be 1 or more, --photographs 0 or more")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: {options.json.parent} is not a directory")
    weights = ["--weights", options.weights] if options.weights else []
    report: dict = timing.device() | {"rows": []}
    print(
        f"{'megapixels':>10} {'format':>7} {'cold, s':>8} {'warm, s':>8} {'peak MiB':>9} "
        f"{'of them pixels':>15}"
    )
    for megapixels in options.megapixels:
        for suffix in options.formats:
            row = photograph(megapixels, suffix, options.repeats, weights)
            report["rows"].append(row)
            print(
                f"{megapixels:>10g} {suffix:>7} {row['cold_seconds']:>8.2f} "
                f"{row['warm_seconds']:>8.2f} {row['peak_mib']:>9} {row['pixels_mib']:>15}",
                flush=True,
            )
    if options.photographs:
        report["folder"] = row = folder(options.photographs, options.weights)
        print(
            f"\na folder of {row['photographs']} photographs of {row['size']}: "
            f"{row['per_second']} a second, {row['share_of_network']:.0%} of the network's own "
            f"{row['network_per_second']} at working size {row['working_size']}"
        )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
        print(f"wrote {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
