"""train.py's own images a second beside those of the bare step, and how fast folders are packed.

Both do the same steps in one process, in turn: a segment of the loop, the same number of bare
steps on a batch that stays in device memory, and so on. The loop gathers its batches from a packed
pool of random photographs, logs and shows progress as it does for a user. Compilation is left out;
the device is idle at both ends of every timed segment. The figure to read is the median of the
pairwise ratios: absolute images/s drift with the machine, ratios far less.
"""

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import imageio.v3 as iio
import jax
import numpy as np
from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (0, 1)]

import timing

import train
from colorjax import config, data, device, step
from colorjax.media import files
from colorjax.run import open_run


def make_photographs(folder: Path, count: int, side: int) -> None:
    """Colourful random pictures, no two alike."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(coarse).resize((side, side)).save(folder / f"{number}.png")


def measure(options: argparse.Namespace, batch: int, folder: Path, out: Path) -> dict:
    """Seconds a step of the bare step and of the loop, pair by pair."""
    # As long as a user's run, which logs once in 100 steps, though it ends after the last pair.
    argv = [
        "--data",
        str(folder),
        "--out",
        str(out),
        "--preset",
        options.network,
        "--width",
        str(options.width),
        "--size",
        str(options.size),
        "--batch",
        str(batch),
        "--dtype",
        options.dtype,
        "--val-fraction",
        "1e-9",
        "--validate-every",
        "1000000000",
        "--steps",
        "20000",
    ]
    run = open_run(vars(config.train_parser().parse_args(argv)))
    spare = jax.tree.map(jax.numpy.copy, run.state)
    arrays = run.pool.images, run.labels
    examples = [data.device_put_rows(array, run.rows[:batch], run.split) for array in arrays]

    def bare(steps: int) -> float:
        nonlocal spare
        start = time.perf_counter()
        for _ in range(steps):
            spare, _ = step.train_step(run.config, spare, *examples)
        jax.block_until_ready(spare)
        return (time.perf_counter() - start) / steps

    loops, bares = [], []
    gather = data.batches

    def interleaved(*args):
        """The loop's batches; between its segments, while it waits, the bare steps."""
        start = 0.0
        for number, batch_of in enumerate(gather(*args)):
            if number % options.steps == 0:
                jax.block_until_ready(run.state)
                if number >= 2 * options.steps:  # the first segment warms up
                    loops.append((time.perf_counter() - start) / options.steps)
                if len(loops) == options.pairs:
                    return
                bares.append(bare(options.steps))
                start = time.perf_counter()
            yield batch_of

    with mock.patch.object(data, "batches", interleaved):
        with mock.patch.object(train, "finish"):  # the run does not come to its end
            train.train(run)
    bares = bares[1:]
    ratios = [alone / loop for alone, loop in zip(bares, loops, strict=True)]
    return {
        "batch": batch,
        "devices": run.split.mesh.size,
        "step_images_per_second": round(batch / statistics.median(bares), 2),
        "loop_images_per_second": round(batch / statistics.median(loops), 2),
        "loop_to_step": round(statistics.median(ratios), 4),
        "loop_to_step_spread": [round(min(ratios), 4), round(max(ratios), 4)],
        "pairs": len(ratios),
    }


def packing(options: argparse.Namespace, folder: Path) -> dict:
    """Photographs a second and core that packing decodes, beside a plain imageio read, in turn.

    JPEGs of 3 megapixels, as a camera makes them; and `data.load_pool` as a whole, on all cores.
    """
    random = np.random.default_rng(0)
    paths = []
    for number in range(options.photographs):
        coarse = Image.fromarray(random.integers(0, 256, (48, 64, 3), np.uint8))
        grain = random.normal(0, 4, (1536, 2048, 3))
        pixels = np.asarray(coarse.resize((2048, 1536), Image.Resampling.BICUBIC)) + grain
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)

    def over(read: Callable[[Path], object]) -> Callable[[int], object]:
        return lambda count: [read(path) for _ in range(count) for path in paths]

    side = options.size * 9 // 8
    runs = {
        "pack": over(lambda path: files.read_small(path.read_bytes(), path, side)),
        "imageio": over(lambda path: iio.imread(path)),
    }
    taken = timing.in_turn(runs, 1.0, 5)
    start = time.perf_counter()
    data.load_pool(folder, side, folder.parent / "pools", say=lambda line: None)
    whole = time.perf_counter() - start
    each = {name: timing.spread(values)["median"] / len(paths) for name, values in taken.items()}
    return {
        "megapixels": 3.1,
        "pack_per_second_and_core": round(1 / each["pack"], 1),
        "imageio_per_second_and_core": round(1 / each["imageio"], 1),
        "pack_per_second": round(len(paths) / whole, 1),
        "pack_to_imageio": timing.ratios(taken["imageio"], taken["pack"]),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure each batch size, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="unet", choices=("paper", "unet"))
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument(
        "--photographs", type=int, default=24, help="to pack; 0: none (default: 24)"
    )
    parser.add_argument("--steps", type=int, default=10, help="a segment (default: 10)")
    parser.add_argument("--pairs", type=int, default=7, help="segments of each (default: 7)")
    parser.add_argument("--quick", action="store_true", help="small and short, for a test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    options = parser.parse_args(argv)
    if options.quick:
        options.width, options.size, options.batch = 16, 32, [4]
        options.steps, options.pairs, options.photographs = 4, 4, 2
    if options.pairs < 3:
        parser.error(f"--pairs {options.pairs}: it must be 3 or more")
    timing.check(parser, options)
    device.use_compilation_cache()
    device.keep_memory()
    device.use_two_cpu_devices()
    gpu = jax.default_backend() == "gpu"
    report = timing.device() | {
        "network": options.network,
        "width": options.width if options.network == "unet" else None,
        "size": options.size,
        "dtype": options.dtype if options.dtype != "auto" else "bfloat16" if gpu else "float32",
        "rows": [],
    }
    print(f"{report['device']}, jax {jax.__version__}: {options.network} at {options.size}²")
    print(f"{'batch':>6} {'step, images/s':>15} {'loop, images/s':>15} {'loop/step':>10}  spread")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "photographs"
        folder.mkdir()
        make_photographs(folder, max(256, 2 * max(options.batch)), options.size * 9 // 8)
        for batch in options.batch:
            with contextlib.redirect_stdout(io.StringIO()):
                row = measure(options, batch, folder, Path(temporary) / f"run-{batch}")
            report["rows"].append(row)
            timing.write(options.json, report)
            low, high = row["loop_to_step_spread"]
            print(
                f"{batch:>6} {row['step_images_per_second']:>15.1f} "
                f"{row['loop_images_per_second']:>15.1f} {row['loop_to_step']:>10.3f}  "
                f"{low:.2f}…{high:.2f}",
                flush=True,
            )
        if options.photographs:
            camera = Path(temporary) / "camera"
            camera.mkdir()
            report["packing"] = row = packing(options, camera)
            for entry in report["rows"]:
                each = 1 / entry["loop_images_per_second"] + 1 / row["pack_per_second"]
                entry["first_epoch_images_per_second"] = round(1 / each, 2)
            print(
                f"\npacking at {options.size * 9 // 8} pixels: {row['pack_per_second_and_core']} "
                f"photographs of 3 megapixels a second and core, a plain imageio read "
                f"{row['imageio_per_second_and_core']}; "
                "the first epoch, packing included, reckoned: "
                + ", ".join(
                    f"{entry['first_epoch_images_per_second']} images/s at batch {entry['batch']}"
                    for entry in report["rows"]
                )
            )
    if options.json:
        timing.write(options.json, report)
        print(f"wrote {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
