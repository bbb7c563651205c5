"""Timing, done the same way in every benchmark: in turn, on fresh random data, to the very end."""

import argparse
import contextlib
import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

# A vendor's figures: dense products a second (float32 as TF32), and bytes of memory traffic.
_H100 = {"bfloat16": 989e12, "float32": 495e12, "bytes": 3.35e12}
PEAKS = {
    "NVIDIA A100-SXM4-80GB": {"bfloat16": 312e12, "float32": 156e12, "bytes": 2.04e12},
    "NVIDIA H100 80GB HBM3": _H100,
    "NVIDIA H100 PCIe": {"bfloat16": 756e12, "float32": 378e12, "bytes": 2.0e12},
    "NVIDIA H200": _H100 | {"bytes": 4.8e12},
    "NVIDIA H200 NVL": {"bfloat16": 835e12, "float32": 418e12, "bytes": 4.8e12},
    "NVIDIA GH200 480GB": _H100 | {"bytes": 4.0e12},
}


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a sentence where an option that benchmarks share cannot be: exit status 2."""
    for name, least in (
        ("batch", 1),
        ("batches", 1),
        ("repeats", 1),
        ("steps", 1),
        ("size", 16),
        ("sizes", 16),
        ("seconds", 1e-3),
        ("width", 16),
    ):
        given = getattr(options, name, None)
        values = given if isinstance(given, list) else [] if given is None else [given]
        for value in values:
            if value < least:
                parser.error(f"--{name} {value}: it must be {least} or more")
            if name in ("width", "size", "sizes") and value % 16:
                parser.error(f"--{name} {value}: it must be a multiple of 16")
    for name in ("json", "plot"):
        path = getattr(options, name, None)
        if path and not path.parent.is_dir():
            parser.error(f"--{name} {path}: {path.parent} is not a directory")


def device() -> dict:
    """What the figures were measured on."""
    return {
        "device": jax.devices()[0].device_kind,
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "jax": jax.__version__,
        "python": platform.python_version(),
        "commit": commit(),
    }


def commit() -> str:
    """Of the checkout that is measured, with "+" if it has changed since; "" outside of one."""
    command = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        here = Path(__file__).parent
        return subprocess.run(
            command, cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    return ""


def processor() -> str:
    """The CPU's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.machine()


def write(path: Path | None, report: dict) -> None:
    """Write all that there is so far, whole or not at all: a run may be ended at any time."""
    if path:
        path.with_suffix(".tmp").write_text(json.dumps(report, indent=1))
        path.with_suffix(".tmp").replace(path)


def in_turn(
    runs: dict[str, Callable[[int], object]], seconds: float, repeats: int
) -> dict[str, list[float]]:
    """Seconds a call of each, `repeats` times, a segment of one after a segment of the other.

    A call before each segment is not timed: caches and freed memory hold what the other left there.

    Args:
        runs: each makes so many calls and returns when the device has finished them.
        seconds: that all segments of one shall take together.
        repeats: segments of each.
    """
    calls = {}
    for name, run in runs.items():
        run(2)  # the first may compile, the second be the first with warm caches
        start = time.perf_counter()
        run(1)
        calls[name] = max(1, round(seconds / repeats / (time.perf_counter() - start)))
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            run(1)
            start = time.perf_counter()
            run(calls[name])
            taken[name].append((time.perf_counter() - start) / calls[name])
    return taken


def spread(values: list[float], digits: int = 4) -> dict:
    """Median, least and most, to so many significant digits."""
    functions = {"median": statistics.median, "min": min, "max": max}
    return {name: float(f"{of(values):.{digits}g}") for name, of in functions.items()}


def ratios(numerators: list[float], denominators: list[float]) -> dict:
    """Pair by pair: what drifts with the machine drops out."""
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])


def ceilings(dtype: str, seconds: float = 1.0) -> dict[str, float]:
    """What this device reaches: FLOP/s of a large matrix product, bytes/s of a large copy.

    The best of several segments, in which each call needs the result of the one before it.
    """
    gpu = jax.default_backend() == "gpu"
    side, length = (8192, 1 << 28) if gpu else (2048, 1 << 26)
    random = np.random.default_rng(0)
    square = jnp.asarray(random.standard_normal((side, side), np.float32), dtype)
    square = square / math.sqrt(side)  # so that products neither grow nor vanish
    numbers = jnp.asarray(random.standard_normal(length // 4, np.float32))
    multiply, copy = jax.jit(lambda x: x @ square), jax.jit(lambda x: x + 1)

    def run(function: Callable, start: jax.Array) -> Callable[[int], object]:
        def calls(count: int) -> None:
            result = start
            for _ in range(count):
                result = function(result)
            jax.block_until_ready(result)

        return calls

    runs = {"matrix": run(multiply, square), "copy": run(copy, numbers)}
    taken = {name: min(values) for name, values in in_turn(runs, seconds, 5).items()}
    return {"flops": 2 * side**3 / taken["matrix"], "bytes": 2 * length / taken["copy"]}
