"""Images a second over batch sizes, and how much of the device that is.

    python benchmarks/throughput.py --json FILE

For each preset, mode, size and dtype: batches of 1, 2, 4 … until memory ends, which ends that sweep
and is reported. The modes:

- train: the whole training step, crops and colour conversion included.
- infer: lightness to ab, as in `colorize.py`.

`--beside BATCH …` then compares steps in turn: vivid beside squared error, adversarial beside
vivid, and train.py's loop beside the bare step. The loop is the step on batches gathered from a
packed pool of photographs, its loss fetched one step behind.

Data are fresh random numbers, two sets in turn. The device is waited for inside the timed region.
Compilation is reported apart. FLOP are counted from the jaxpr (`flops.py`), the optimiser's left
out. Their share is of a large matrix product measured in the same run, and of the vendor's peak;
the share of bytes (each product's operands read once, its result written once) is of a large copy.
Memory is what the compiled program plans for one device: arguments, results and temporaries.
"""

import argparse
import math
import os
import sys
import tempfile
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
from PIL import Image

from colorjax import config, data, device, model, palette, step
from colorjax.config import TrainConfig
from colorjax.extra import gan

MODES = ("train", "infer")
HEADS = {"paper": "ab", "unet": "ab", "vivid": "bins", "lite": "bins", "gan": "bins"}
PHOTOGRAPHS = 256  # at least, of the loop's pool


def network_of(preset: str, width: int) -> model.NetworkConfig:
    """A preset's network."""
    if preset == "paper":
        return model.NetworkConfig("paper")
    return model.NetworkConfig("lite" if preset == "lite" else "unet", width, HEADS[preset])


def settings_of(preset: str, width: int, size: int, dtype: str) -> TrainConfig:
    """A preset's training step, as `train.py` has it; of `gan` the adversarial one."""
    default, sets = config.TrainConfig, config.PRESETS.get(preset, {})
    network = network_of(preset, width)
    return TrainConfig(
        network=network.kind,
        head=network.head,
        width=width,
        size=size,
        dtype=dtype,
        optimizer=sets.get("optimizer", default.optimizer),
        lr=sets.get("lr", default.lr),
    )


def algorithm_of(preset: str) -> Any:
    """The module of a preset's state and jitted step."""
    return gan if preset == "gan" else step


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


def training(
    preset: str,
    size: int,
    dtype: str,
    batch: int,
    options: argparse.Namespace,
    at: int | None = None,
    examples: Any = None,
) -> tuple[Callable[[int], object], dict]:
    """How to time a training step, and what is known of it before.

    Args:
        preset: of the step; size, dtype and batch are its own.
        size: pixels a side.
        dtype: of the computation.
        batch: photographs a step.
        options: of the command line.
        at: repeat the step of this number.
        examples: batches to take, images and labels, as train.py's loop does; unless given, two
            random ones in turn.
    """
    settings, algorithm = settings_of(preset, options.width, size, dtype), algorithm_of(preset)
    train_step = algorithm.train_step
    whole, split = step.placement(devices_for("train", batch, options))
    random, side = np.random.default_rng(0), size * 9 // 8
    pictures = [random.integers(0, 256, (batch, side, side, 3), np.uint8) for _ in range(2)]
    sets = [jax.device_put(images, split) for images in pictures]
    plain = replace(settings, optimizer="adamw")  # Muon's own products do not count
    work = flops.count(partial(train_step, plain), algorithm.create_state(plain), sets[0])
    state = jax.device_put(algorithm.create_state(settings), whole)
    program, seconds, memory = compiled(train_step, settings, state, sets[0])
    again = None if at is None else jax.device_put(jnp.int32(at), whole)

    def calls(count: int) -> None:
        nonlocal state
        before = None
        for number in range(count):
            if again is not None:
                state = replace(state, step=jnp.copy(again))
            images = next(examples)[0] if examples else sets[number % 2]
            state, result = program(state, images)
            if examples and before:
                float(before["loss"])
            before = result
        jax.block_until_ready(state)

    return calls, known(seconds, memory, work, batch)


def inference(
    preset: str, size: int, dtype: str, batch: int, options: argparse.Namespace
) -> tuple[Callable[[int], object], dict]:
    """How to time lightness to ab, and what is known of it before."""
    network, random = network_of(preset, options.width), np.random.default_rng(0)
    whole, split = step.placement(devices_for("infer", batch, options))
    params = jax.device_put(model.init(0, network), whole)
    pictures = [random.uniform(0, 100, (batch, size, size)).astype(np.float32) for _ in range(2)]
    sets = [jax.device_put(lightness, split) for lightness in pictures]

    @jax.jit
    def predict(params: model.Params, lightness: jax.Array) -> jax.Array:
        output = model.predict(params, network, lightness, jnp.dtype(dtype)).output
        return output if network.head == "ab" else palette.annealed_mean(output)

    work = flops.count(predict, params, sets[0])
    program, seconds, memory = compiled(predict, params, sets[0])

    def calls(count: int) -> None:
        for number in range(count):
            result = program(params, sets[number % 2])
        jax.block_until_ready(result)

    return calls, known(seconds, memory, work, batch)


def known(seconds: float, memory: float, work: flops.Work, batch: int) -> dict:
    """What is known of a program before it runs."""
    return {
        "compile_seconds": round(seconds, 2),
        "memory_mib": round(memory, 1),
        "gflop_per_image": round(work.flops / batch / 1e9, 4),
        "mbyte_per_image": round(work.bytes / batch / 1e6, 3),
    }


def sweep(row: dict, ceiling: dict, options: argparse.Namespace, keep: Callable) -> None:
    """A row for each batch size of a case; where memory ends, one says so and it is the last."""
    peak = timing.PEAKS.get(jax.devices()[0].device_kind, {})
    case = training if row["mode"] == "train" else inference
    for batch in options.batches or [1 << power for power in range(20)]:
        devices = devices_for(row["mode"], batch, options)
        chips = devices if jax.default_backend() == "gpu" else 1  # a CPU's devices share it
        if batch % devices:
            continue
        row = row | {"batch": batch, "devices": devices}
        try:
            run, about = case(row["preset"], row["size"], row["dtype"], batch, options)
            taken = timing.in_turn({"": run}, options.seconds, options.repeats)[""]
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            keep(row | {"failed": reason(error)})
            print(f"{label(row):40} {batch:>6}  {reason(error)}", flush=True)
            return
        pace = {name: round(batch / second, 2) for name, second in timing.spread(taken, 9).items()}
        median = timing.spread(taken, 9)["median"]
        rate = 1e9 * about["gflop_per_image"] * pace["median"] / chips
        traffic = 1e6 * about["mbyte_per_image"] * pace["median"] / chips
        measured = about | {
            "milliseconds": round(1e3 * median, 3),
            "images_per_second": pace["median"],
            "images_per_second_spread": [pace["max"], pace["min"]],
            "tflop_per_second": round(rate / 1e12, 4),
            "share_of_matrix": round(rate / ceiling["flops"], 4),
            "share_of_peak": round(rate / peak[row["dtype"]], 4) if peak else None,
            "share_of_copy": round(traffic / ceiling["bytes"], 4),
            "share_of_peak_bytes": round(traffic / peak["bytes"], 4) if peak else None,
        }
        show(row | measured)
        keep(row | measured)
        if median > options.longest:
            return


def reason(error: Exception) -> str:
    """Why a device failed, in a line."""
    no_memory = device.is_out_of_memory(error)
    return "out of memory" if no_memory else str(error).splitlines()[0]


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


def pack(folder: Path, count: int, side: int) -> data.Pool:
    """A pool of colourful random photographs, no two alike."""
    random, photographs = np.random.default_rng(0), folder / "photographs"
    photographs.mkdir()
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize((side, side)).save(photographs / f"{number}.png")
    return data.load_pool(photographs, side, folder / "pool", say=lambda line: None)


def beside(batch: int, options: argparse.Namespace) -> dict:
    """How long steps take beside each other, in turn, at the first preset, size and dtype."""
    preset, size, dtype = options.presets[0], options.sizes[0], options.dtypes[0]
    row: dict = {"preset": preset, "batch": batch, "size": size, "dtype": dtype}
    case = partial(training, size=size, dtype=dtype, batch=batch, options=options)
    every = gan.R1_INTERVAL
    try:
        with tempfile.TemporaryDirectory() as folder:
            pool = pack(Path(folder), max(PHOTOGRAPHS, 2 * batch), size * 9 // 8)
            rows = np.arange(len(pool))
            _, split = step.placement(devices_for("train", batch, options))
            examples = data.batches(pool, 0 * rows - 1, rows, batch, 0, 0, 1 << 30, split)
            names = ["bare", "loop"]
            runs = {"bare": case(preset)[0], "loop": case(preset, examples=examples)[0]}
            if options.objectives:
                names += ["unet", "vivid", "gan"]
                runs |= {name: case(name)[0] for name in ("unet", "vivid")}
                runs |= {"gan": case("gan", at=1)[0], "penalised": case("gan", at=0)[0]}
            taken = timing.in_turn(runs, len(runs) * options.seconds, max(7, options.repeats))
            examples.close()
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        return row | {"failed": reason(error)}
    if options.objectives:  # the gradient penalty comes once in `every` steps
        pairs = zip(taken["gan"], taken["penalised"], strict=True)
        taken["gan"] = [((every - 1) * most + once) / every for most, once in pairs]
        row["vivid_to_mse"] = timing.ratios(taken["vivid"], taken["unet"])
        row["gan_to_vivid"] = timing.ratios(taken["gan"], taken["vivid"])
    row["loop_to_step"] = timing.ratios(taken["bare"], taken["loop"])
    paces = {name: batch / timing.spread(taken[name])["median"] for name in names}
    return row | {f"{name}_images_per_second": round(pace, 2) for name, pace in paces.items()}


def say(row: dict) -> None:
    """What `beside` found."""
    print(f"\n{row['preset']}, batch {row['batch']}, {row['size']}²:", row.get("failed", ""))
    for name, text in (
        ("loop_to_step", "of the bare step's images/s reaches train.py's loop"),
        ("vivid_to_mse", "times as long as squared error's takes a vivid step"),
        ("gan_to_vivid", "times as long as a vivid step takes an adversarial one"),
    ):
        if ratio := row.get(name):
            print(f"  {ratio['median']:.3f} ({ratio['min']:.2f}…{ratio['max']:.2f}) {text}")


def plot(path: Path, rows: list[dict], about: str) -> None:
    """Images a second over batch sizes, a line a case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharex=True)
    for axis, mode in zip(axes, MODES, strict=True):
        named: dict[str, list] = {}
        for row in rows:
            if row["mode"] == mode and "images_per_second" in row:
                points = named.setdefault(label(row).replace(f", {mode}", ""), [])
                points.append((row["batch"], row["images_per_second"]))
        for name, points in named.items():
            axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set_xscale("log", base=2)
        title = {"train": "training step", "infer": "inference"}[mode]
        axis.set(yscale="log", xlabel="batch", ylabel="images/s", title=title)
        axis.grid(alpha=0.3, which="both")
    axes[0].legend(fontsize="small")
    figure.suptitle(about, fontsize="medium")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    add = parser.add_argument
    add("--presets", nargs="+", default=["paper", "unet", "vivid"], choices=HEADS)
    add("--modes", nargs="*", default=list(MODES), choices=MODES)
    add("--sizes", type=int, nargs="+", default=[128, 256])
    add("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=("float32", "bfloat16"))
    add("--batches", type=int, nargs="+", help="(default: 1, 2, 4 … until memory ends)")
    add("--width", type=int, default=64, help="of the unet (default: 64)")
    add("--devices", type=int, default=1, help="to split batches over; 0: all (default: 1)")
    add("--seconds", type=float, default=2, help="for each figure (default: 2)")
    add("--repeats", type=int, default=5, help="segments of it (default: 5)")
    add("--longest", type=float, default=20, help="end a sweep when a step takes longer, seconds")
    add("--beside", type=int, nargs="*", default=[], metavar="BATCH", help="compare steps in turn")
    add("--objectives", action="store_true", help="vivid and adversarial steps among them")
    add("--json", type=Path, metavar="FILE", help="where to write the figures")
    add("--plot", type=Path, metavar="FILE", help="where to draw them (needs matplotlib)")
    options = parser.parse_args(argv)
    timing.check(parser, options)
    device.keep_memory()
    device.use_two_cpu_devices()  # no cache of programs: how long that takes is reported
    if options.devices > jax.device_count():
        parser.error(f"--devices {options.devices}: this machine has {jax.device_count()}")
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, write JSON and a plot; the exit status."""
    options = parse(argv)
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
    report: dict = about | {"width": options.width, "ceilings": ceilings, "rows": [], "beside": []}

    def keep(kind: str, row: dict) -> None:
        report[kind].append(row)
        timing.write(options.json, report)

    for preset in options.presets:
        for mode in options.modes:
            for size in options.sizes:
                for dtype in options.dtypes:
                    case = {"preset": preset, "mode": mode, "size": size, "dtype": dtype}
                    sweep(case, ceilings[dtype], options, partial(keep, "rows"))
    for batch in options.beside:
        row = beside(batch, options)
        say(row)
        keep("beside", row)
    if options.plot:
        machine = f"{about['device']} ({about['machine']}), jax {about['jax']}"
        plot(options.plot, report["rows"], machine)
    return 0


if __name__ == "__main__":
    sys.exit(main())
