"""Training throughput over batch sizes: the bare jitted step, and train.py's own loop beside it.

Both do the same steps in one process, in turn: a segment of the loop, the same number of bare
steps on a batch that stays in device memory, and so on. The loop gathers its batches from a packed
pool of random photographs, logs and shows progress as it does for a user. Compilation is left out;
the device is idle at both ends of every timed segment. The figure to read is the median of the
pairwise ratios: absolute images/s drift with the machine, ratios far less. Last, what the vivid
preset's step costs beside the squared-error step of the same network, in turn likewise.
"""

import argparse
import contextlib
import io
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train
from colorjax import config, data, model, step


def make_photographs(folder: Path, count: int, side: int) -> None:
    """Colourful random pictures, no two alike."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(coarse).resize((side, side)).save(folder / f"{number}.png")


def measure(options: argparse.Namespace, batch: int, folder: Path, out: Path) -> dict:
    """Seconds a step of the bare step and of the loop, pair by pair."""
    count = options.pairs * options.steps
    argv = ["--data", str(folder), "--out", str(out), "--network", options.network,
            "--width", str(options.width), "--size", str(options.size), "--batch", str(batch),
            "--head", "ab", "--colorfulness", "0", "--devices", "1", "--val-fraction", "1e-9",
            "--validate-every", "1000000000", "--steps", str(count + options.steps)]  # fmt: skip
    settings, _ = config.open_run(vars(config.train_parser().parse_args(argv)), False)
    run = train.Run(settings, None)
    spare = jax.tree.map(jax.numpy.copy, run.state)
    images = jax.device_put(run.pool.images[run.rows[:batch]])

    def bare(steps: int) -> float:
        nonlocal spare
        start = time.perf_counter()
        for _ in range(steps):
            spare, _ = step.train_step(run.config, spare, images)
        jax.block_until_ready(spare)
        return (time.perf_counter() - start) / steps

    loops, bares = [], []
    gather = data.batches

    def interleaved(*args):
        """The loop's batches; between its segments, while it waits, the bare steps."""
        start = 0.0
        for number, batch_images in enumerate(gather(*args)):
            if number % options.steps == 0:
                jax.block_until_ready(run.state)
                if number >= 2 * options.steps:  # the first segment warms up
                    loops.append((time.perf_counter() - start) / options.steps)
                bares.append(bare(options.steps))
                start = time.perf_counter()
            yield batch_images

    data.batches = interleaved
    try:
        run.train()
    finally:
        data.batches = gather
    bares = bares[2:]
    ratios = [alone / loop for alone, loop in zip(bares, loops, strict=False)]
    return {
        "batch": batch,
        "step_images_per_second": round(batch / statistics.median(bares), 2),
        "loop_images_per_second": round(batch / statistics.median(loops), 2),
        "loop_to_step": round(statistics.median(ratios), 4),
        "loop_to_step_spread": [round(min(ratios), 4), round(max(ratios), 4)],
        "pairs": len(ratios),
    }


def vivid_to_mse(options: argparse.Namespace) -> dict:
    """Seconds of a vivid step over those of a squared-error step of the same network, in turn."""
    batch, runs = max(options.batch), {}
    random = np.random.default_rng(0)
    side = options.size * 9 // 8
    images = jax.device_put(random.integers(0, 256, (batch, side, side, 3), np.uint8))
    for head in ("ab", "bins"):
        network = model.NetworkConfig("unet", options.width, head)
        settings = step.StepConfig(network, size=options.size)
        runs[head] = [settings, step.create_state(settings), []]
    for number in range(options.pairs + 1):
        for run in runs.values():
            settings, state, seconds = run
            start = time.perf_counter()
            for _ in range(options.steps):
                state, _ = step.train_step(settings, state, images)
            jax.block_until_ready(state)
            run[1] = state
            if number:  # the first compiles
                seconds.append((time.perf_counter() - start) / options.steps)
    ratios = [vivid / mse for mse, vivid in zip(runs["ab"][2], runs["bins"][2], strict=True)]
    return {
        "batch": batch,
        "mse_images_per_second": round(batch / statistics.median(runs["ab"][2]), 2),
        "vivid_images_per_second": round(batch / statistics.median(runs["bins"][2]), 2),
        "vivid_to_mse": round(statistics.median(ratios), 4),
        "vivid_to_mse_spread": [round(min(ratios), 4), round(max(ratios), 4)],
        "pairs": len(ratios),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure each batch size, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="unet", choices=("paper", "unet"))
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--steps", type=int, default=10, help="a segment (default: 10)")
    parser.add_argument("--pairs", type=int, default=7, help="segments of each (default: 7)")
    parser.add_argument("--quick", action="store_true", help="small and short, for a test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    options = parser.parse_args(argv)
    if options.quick:
        options.width, options.size, options.batch = 16, 32, [4]
        options.steps, options.pairs = 4, 4
    if options.pairs < 3:
        parser.error(f"--pairs {options.pairs}: it must be 3 or more")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: {options.json.parent} is not a directory")
    config.use_compilation_cache()
    report = {
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
        "jax": jax.__version__,
        "python": platform.python_version(),
        "network": options.network,
        "width": options.width if options.network == "unet" else None,
        "size": options.size,
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
            low, high = row["loop_to_step_spread"]
            print(f"{batch:>6} {row['step_images_per_second']:>15.1f} "
                  f"{row['loop_images_per_second']:>15.1f} {row['loop_to_step']:>10.3f}  "
                  f"{low:.2f}…{high:.2f}", flush=True)  # fmt: skip
    if options.network == "unet":
        report["objectives"] = row = vivid_to_mse(options)
        low, high = row["vivid_to_mse_spread"]
        print(f"\nat batch {row['batch']} a step on squared error does "
              f"{row['mse_images_per_second']:.1f} images/s, a vivid one "
              f"{row['vivid_images_per_second']:.1f}; it takes {row['vivid_to_mse']:.3f} times as "
              f"long ({low:.2f}…{high:.2f})")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
        print(f"wrote {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
