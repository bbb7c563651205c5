"""Images a second over batch sizes, and how much of the device that is.

    python benchmarks/throughput.py --json FILE

For each preset, mode, size and type of number: batches of 1, 2, 4 … until memory ends, which ends
that sweep and is reported. `train` is the whole training step, crops and colour conversion
included; `infer` is lightness to ab as in `colorize.py`. Data are fresh random numbers, two sets
in turn; the device is waited for inside the timed region; compilation is reported apart. FLOP are
counted from the jaxpr (`flops.py`), the optimiser's left out. Their share is of a large matrix
product measured in the same run, and of the vendor's peak; that of bytes (each product's operands
read once, its result written once) is of a large copy. Memory is what the compiled program needs:
arguments, results and temporaries, on one device; on a CPU the process keeps what it frees, as
`train.py` does. Last, what a vivid step costs beside a squared-error step of the same network, and
an adversarial one beside a vivid one, in turn; its gradient penalty, which comes once in 16 steps,
is timed apart and counts for a sixteenth.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (0, 1)]

import flops
import jax
import jax.numpy as jnp
import numpy as np
import timing

from colorjax import colorizer, config, model, step
from colorjax.extra import gan
from colorjax.palette import Decoding

MODES = ("train", "infer")
HEADS = {"paper": "ab", "unet": "ab", "vivid": "bins", "gan": "bins"}
CASES = ("preset", "mode", "size", "dtype")


def network_of(preset: str, width: int) -> model.NetworkConfig:
    """A preset's network."""
    if preset == "paper":
        return model.NetworkConfig("paper")
    return model.NetworkConfig("unet", width, HEADS[preset])


def settings_of(preset: str, width: int, size: int, dtype: str) -> step.StepConfig:
    """A preset's training step, as `train.py` has it; of `gan` the adversarial phase."""
    default, sets = config.TrainConfig, config.PRESETS[preset]
    return step.StepConfig(
        network_of(preset, width),
        size=size,
        dtype=dtype,
        adversarial=float(preset == "gan"),
        optimizer=sets.get("optimizer", default.optimizer),
        lr=sets.get("lr", default.lr),
    )


def compiled(function: Any, *args: Any) -> tuple[Callable, float, float]:
    """A jitted function compiled for its arguments; seconds; MiB of memory on a device.

    Raises:
        MemoryError: it needs more than there is.
    """
    start = time.perf_counter()
    program = function.lower(*args).compile()
    seconds = time.perf_counter() - start
    plan = program.memory_analysis()
    needed = (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        + plan.temp_size_in_bytes
        - plan.alias_size_in_bytes
    )
    if needed > free_memory():  # a CPU's would be swapped or the process killed, not refused
        raise MemoryError
    return program, seconds, needed / 2**20


def free_memory() -> int:
    """Bytes that a program may take on the first device."""
    statistics = jax.devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kept = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not on Linux
        return sys.maxsize
    free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    return free + kept  # what this process has freed it keeps, for the next program


def devices_for(mode: str, batch: int, options: argparse.Namespace) -> int:
    """How many work on a batch; of a CPU's as many as it divides into, and one in inference."""
    devices = options.devices or jax.device_count()
    if jax.default_backend() != "cpu":
        return devices
    return math.gcd(batch, devices) if mode == "train" else 1


def case(
    preset: str,
    mode: str,
    size: int,
    dtype: str,
    batch: int,
    options: argparse.Namespace,
    at: int | None = None,
) -> tuple[Callable[[int], object], dict]:
    """How to time one case, and what is known of it before; `at` repeats that training step."""
    network, random = network_of(preset, options.width), np.random.default_rng(0)
    whole, split = step.placement(devices_for(mode, batch, options))
    if mode == "train":
        side = size * 9 // 8
        settings = settings_of(preset, options.width, size, dtype)
        train_step = (gan if settings.adversarial else step).train_step
        data = [random.integers(0, 256, (batch, side, side, 3), np.uint8) for _ in range(2)]
        state = jax.device_put(step.create_state(settings), whole)
        sets = [jax.device_put(images, split) for images in data]
        plain = replace(settings, optimizer="adamw")  # Muon's own products do not count
        work = flops.count(partial(train_step, plain), step.create_state(plain), sets[0])
        program, seconds, memory = compiled(train_step, settings, state, sets[0])
        again = None if at is None else jax.device_put(jnp.int32(at), whole)

        def calls(count: int) -> None:
            nonlocal state
            for number in range(count):
                if again is not None:
                    state = replace(state, step=jnp.copy(again))
                state, _ = program(state, sets[number % 2])
            jax.block_until_ready(state)
    else:
        params = jax.device_put(model.init(0, network), whole)
        data = [random.uniform(0, 100, (batch, size, size)).astype(np.float32) for _ in range(2)]
        sets = [jax.device_put(lightness, split) for lightness in data]
        decoding = Decoding()
        predict = colorizer._predict
        work = flops.count(lambda p, x: predict(p, network, x, dtype, decoding), params, sets[0])
        program, seconds, memory = compiled(predict, params, network, sets[0], dtype, decoding)

        def calls(count: int) -> None:
            for number in range(count):
                result = program(params, sets[number % 2], decoding)
            jax.block_until_ready(result)

    known = {
        "compile_seconds": round(seconds, 2),
        "memory_mib": round(memory, 1),
        "gflop_per_image": round(work.flops / batch / 1e9, 4),
        "mbyte_per_image": round(work.bytes / batch / 1e6, 3),
    }
    return calls, known


def sweep(
    preset: str,
    mode: str,
    size: int,
    dtype: str,
    ceiling: dict,
    options: argparse.Namespace,
    keep: Callable[[dict], None],
) -> None:
    """A row for each batch size; one says so where memory ended, and larger ones are left out."""
    peak = timing.PEAKS.get(jax.devices()[0].device_kind, {})
    too_large = math.inf
    for batch in options.batches or [1 << power for power in range(20)]:
        devices = devices_for(mode, batch, options)
        chips = devices if jax.default_backend() == "gpu" else 1  # a CPU's devices share it
        if batch % devices or batch >= too_large:
            continue
        row = {
            "preset": preset,
            "mode": mode,
            "size": size,
            "dtype": dtype,
            "batch": batch,
            "devices": devices,
        }
        try:
            run, known = case(preset, mode, size, dtype, batch, options)
            taken = timing.in_turn({"": run}, options.seconds, options.repeats)[""]
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            keep(row | {"failed": reason(error)})
            print(f"{label(row):40} {batch:>6}  {reason(error)}", flush=True)
            too_large = batch
            continue
        pace = {name: round(batch / second, 2) for name, second in timing.spread(taken, 9).items()}
        median = timing.spread(taken, 9)["median"]
        rate = 1e9 * known["gflop_per_image"] * pace["median"] / chips
        traffic = 1e6 * known["mbyte_per_image"] * pace["median"] / chips
        row |= known | {
            "milliseconds": round(1e3 * median, 3),
            "images_per_second": pace["median"],
            "images_per_second_spread": [pace["max"], pace["min"]],
            "tflop_per_second": round(rate / 1e12, 4),
            "share_of_matrix": round(rate / ceiling["flops"], 4),
            "share_of_peak": round(rate / peak[dtype], 4) if peak else None,
            "share_of_copy": round(traffic / ceiling["bytes"], 4),
            "share_of_peak_bytes": round(traffic / peak["bytes"], 4) if peak else None,
        }
        show(row)
        keep(row)
        if median > options.longest:
            too_large = batch


def reason(error: Exception) -> str:
    """Why a device failed, in a line."""
    no_memory = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
    return "out of memory" if no_memory else str(error).splitlines()[0]


def record(path: Path | None, report: dict, row: dict) -> None:
    """Add a row, and write all of it so far."""
    report["rows"].append(row)
    timing.write(path, report)


def label(row: dict) -> str:
    """A case in words."""
    return f"{row['preset']}, {row['mode']}, {row['size']}², {row['dtype']}"


def show(row: dict) -> None:
    """A row of the table."""
    of_peak = f"{row['share_of_peak']:>6.1%}" if row["share_of_peak"] is not None else f"{'-':>6}"
    low, high = row["images_per_second_spread"]
    print(
        f"{label(row):40} {row['batch']:>6} {row['images_per_second']:>10.1f} "
        f"{f'{low:.4g}…{high:.4g}':>15} {row['milliseconds']:>10.2f} "
        f"{row['tflop_per_second']:>8.2f} {row['share_of_matrix']:>7.1%} {of_peak} "
        f"{row['share_of_copy']:>6.1%} {row['memory_mib']:>9.0f} {row['compile_seconds']:>8.1f}",
        flush=True,
    )


def objectives(options: argparse.Namespace) -> dict | None:
    """How long a vivid step takes beside one on squared error; an adversarial one beside it.

    None if the device has no memory for that, which is said.
    """
    batch, size = options.objectives_batch, options.sizes[0]
    cases = {"unet": ("unet", None), "vivid": ("vivid", None), "gan": ("gan", 1), "r1": ("gan", 0)}
    try:
        runs = {
            name: case(preset, "train", size, options.dtypes[0], batch, options, at)[0]
            for name, (preset, at) in cases.items()
        }
        taken = timing.in_turn(runs, 5 * options.seconds, max(7, options.repeats))
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        print(f"\nobjectives, batch {batch}: {reason(error)}", flush=True)
        return None
    every = gan.R1_INTERVAL
    penalised = taken.pop("r1")
    taken["gan"] = [
        ((every - 1) * most + once) / every
        for most, once in zip(taken["gan"], penalised, strict=True)
    ]
    return {
        "batch": batch,
        "size": size,
        "dtype": options.dtypes[0],
        "vivid_to_mse": timing.ratios(taken["vivid"], taken["unet"]),
        "gan_to_vivid": timing.ratios(taken["gan"], taken["vivid"]),
    } | {
        f"{name}_images_per_second": round(batch / timing.spread(taken[name])["median"], 2)
        for name in taken
    }


def plot(path: Path, rows: list[dict], about: str) -> None:
    """Images a second over batch sizes, a line a case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharex=True)
    for axis, mode in zip(axes, MODES, strict=True):
        named = {label(row).replace(f", {mode}", ""): [] for row in rows if row["mode"] == mode}
        for row in rows:
            if row["mode"] == mode and "images_per_second" in row:
                point = (row["batch"], row["images_per_second"])
                named[label(row).replace(f", {mode}", "")].append(point)
        for name, points in named.items():
            axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set_xscale("log", base=2)
        axis.set(
            yscale="log",
            xlabel="batch",
            ylabel="images/s",
            title={"train": "training step", "infer": "inference"}[mode],
        )
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_formatter("{x:g}")
            side.set_minor_formatter("{x:g}" if side is axis.yaxis else "")
        axis.grid(alpha=0.3, which="both")
    axes[0].legend(fontsize="small")
    figure.suptitle(about, fontsize="medium")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, write JSON and a plot; the exit status."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    add = parser.add_argument
    add("--presets", nargs="+", default=["paper", "unet", "vivid"], choices=HEADS)
    add("--modes", nargs="+", default=list(MODES), choices=MODES)
    add("--sizes", type=int, nargs="+", default=[128, 256])
    add("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=("float32", "bfloat16"))
    add("--batches", type=int, nargs="+", help="(default: 1, 2, 4 … until memory ends)")
    add("--width", type=int, default=64, help="of the unet (default: 64)")
    add("--devices", type=int, default=1, help="to split batches over; 0: all (default: 1)")
    add("--seconds", type=float, default=2, help="for each figure (default: 2)")
    add("--repeats", type=int, default=5, help="segments of it (default: 5)")
    add("--longest", type=float, default=20, help="end a sweep when a step takes longer, seconds")
    add("--objectives-batch", type=int, default=64, help="for the objectives; 0: not")
    add("--quick", action="store_true", help="one size and type, few batches: under 2 minutes")
    add("--json", type=Path, metavar="FILE", help="where to write the figures")
    add("--plot", type=Path, metavar="FILE", help="where to draw them (needs matplotlib)")
    options = parser.parse_args(argv)
    if options.quick:
        options.sizes, options.dtypes, options.batches = [64], ["float32"], [1, 8]
        options.width, options.seconds, options.repeats = 16, 0.5, 3
        options.objectives_batch = 0
    timing.check(parser, options)
    config.keep_memory()
    config.use_two_cores()  # and no cache of compiled programs: how long that takes is reported
    if options.devices > jax.device_count():
        parser.error(f"--devices {options.devices}: this machine has {jax.device_count()}")
    about = timing.device() | {"devices": options.devices or jax.device_count()}
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    ceilings = {dtype: timing.ceilings(dtype, options.seconds) for dtype in options.dtypes}
    for dtype, ceiling in ceilings.items():
        print(
            f"measured here, {dtype}: a matrix product {ceiling['flops'] / 1e12:.3g} TFLOP/s, "
            f"a copy {ceiling['bytes'] / 1e9:.4g} GB/s"
        )
    if about["device"] not in timing.PEAKS:
        print(f"the vendor's figures of {about['device']} are not known here: no share of them")
    print(
        f"\n{'':40} {'batch':>6} {'images/s':>10} {'spread':>15} {'ms':>10} {'TFLOP/s':>8} "
        f"{'matrix':>7} {'peak':>6} {'copy':>6} {'MiB':>9} {'compile':>8}"
    )
    report: dict = about | {"width": options.width, "ceilings": ceilings, "rows": []}
    for preset in options.presets:
        for mode in options.modes:
            for size in options.sizes:
                for dtype in options.dtypes:
                    keep = partial(record, options.json, report)
                    sweep(preset, mode, size, dtype, ceilings[dtype], options, keep)
    if options.objectives_batch and (row := objectives(options)):
        report["objectives"] = row
        print(f"\nat batch {row['batch']}, {row['size']}²:")
        for name, base, ratio in (
            ("vivid", "squared error", row["vivid_to_mse"]),
            ("gan", "vivid", row["gan_to_vivid"]),
        ):
            print(
                f"a {name} step does {row[f'{name}_images_per_second']:.1f} images/s, "
                f"{ratio['median']:.3f} times ({ratio['min']:.2f}…{ratio['max']:.2f}) as long "
                f"as {base}'s"
            )
    if options.json:
        timing.write(options.json, report)
        print(f"wrote {options.json}")
    if options.plot:
        try:
            plot(
                options.plot,
                report["rows"],
                f"{about['device']} ({about['machine']}), jax {about['jax']}",
            )
            print(f"wrote {options.plot}")
        except ImportError:
            print("no plot: matplotlib is missing (pip install -e '.[plots]')", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
