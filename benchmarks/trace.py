"""Where a training step's time goes: JAX's own profile of it, by operation of the compiled program.

    python benchmarks/trace.py --preset vivid --size 128 --batch 16 --json FILE

The step is compiled, run twice, then traced for some steps (`jax.profiler`). Each traced operation
is named by what the compiled program says of it: the JAX primitive it ends in, whether it belongs
to the forward pass, the backward pass or the rest of the step ("?" where the compiler made it and
does not say), and the shape of its result.
Operations that hold others (loops, calls) count for nothing themselves. Shares are of the time that
all operations take together, which on several cores may run at once. Last, shares by kind, as a
CPU's compiled step tells them apart (Winograd's products are told by being 16 or 36 at once).
"""

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (0, 1)]

import jax
import numpy as np
import timing
from jax.profiler import ProfileData
from throughput import HEADS, settings_of

from colorjax import device, step

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = \(?([a-z]\w*\[[\d,]*\])")
_PATH = re.compile(r'op_name="([^"]*)"')


def instructions(program: str) -> dict[str, tuple[str, str, str]]:
    """Of a compiled program's text: instruction → its pass, primitive and result's shape."""
    found = {}
    for line in program.splitlines():
        if match := _INSTRUCTION.match(line):
            name, shape = match.groups()
            path = named[1] if (named := _PATH.search(line)) else ""
            backward, forward = "transpose(" in path, "jvp(" in path
            passing = "backward" if backward else "forward" if forward else "rest" if path else "?"
            found[name] = passing, path.rsplit("/", 1)[-1] or name.split(".")[0], shape
    return found


def kind(passing: str, primitive: str, shape: str) -> str:
    """What an operation is for, of those that a step of these networks has on a CPU."""
    if passing == "rest":
        return "optimiser, average, augmentation"
    if "ynn" in primitive and ",3,3," in shape:
        return "kernel gradients of 3×3 convolutions, XLA's"
    if primitive == "conv_general_dilated":
        return "other convolutions (stride 2, few channels)"
    if primitive == "dot_general":
        of_tiles = shape.startswith(("f32[16,", "f32[36,")) and shape.count(",") == 2
        return "Winograd's products" if of_tiles else "other matrix products"
    if primitive in ("stack", "unstack"):
        return "Winograd's transforms"
    if "transpose" in primitive or "copy" in primitive:
        return "copies"
    return "the 261 bins" if "261" in shape else "the rest: normalisation, activations, sums"


def durations(profile: Any) -> Counter:
    """Nanoseconds of each operation in a profile, those that hold others left out."""
    total: Counter = Counter()
    for plane in profile.planes:
        for line in plane.lines:
            stack: list[list] = []  # name, end, whether it holds no other
            for event in sorted(line.events, key=lambda e: (e.start_ns, -e.duration_ns)):
                operation = dict(event.stats).get("hlo_op")
                if operation is None:
                    continue
                while stack and stack[-1][1] <= event.start_ns:
                    stack.pop()
                for holder in stack:
                    total[holder[0]] -= holder[2]
                    holder[2] = 0
                stack.append([operation, event.start_ns + event.duration_ns, event.duration_ns])
                total[operation] += event.duration_ns
    return total


def main(argv: list[str] | None = None) -> int:
    """Trace, print a table; the exit status."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--preset", default="vivid", choices=[*HEADS][:-1])
    parser.add_argument("--width", type=int, default=64, help="of the unet (default: 64)")
    parser.add_argument("--size", type=int, default=128, help="pixels a side (default: 128)")
    parser.add_argument("--batch", type=int, default=16, help="(default: 16)")
    parser.add_argument("--steps", type=int, default=5, help="to trace (default: 5)")
    parser.add_argument("--rows", type=int, default=20, help="to show (default: 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all of them")
    options = parser.parse_args(argv)
    timing.check(parser, options)
    device.use_compilation_cache()
    device.keep_memory()
    about = timing.device()
    dtype = "bfloat16" if jax.default_backend() == "gpu" else "float32"
    settings = settings_of(options.preset, options.width, options.size, dtype)
    side = options.size * 9 // 8
    images = np.random.default_rng(0).integers(0, 256, (options.batch, side, side, 3), np.uint8)
    state = step.create_state(settings)
    program = step.train_step.lower(settings, state, images).compile()
    for _ in range(2):
        state, _ = program(state, images)
    jax.block_until_ready(state)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(options.steps):
                state, _ = program(state, images)
            jax.block_until_ready(state)
        (path,) = Path(folder).rglob("*.xplane.pb")
        taken = durations(ProfileData.from_file(str(path)))
    known, by = instructions(program.as_text() or ""), Counter()
    for operation, nanoseconds in taken.items():
        by[known.get(operation, ("?", operation.split(".")[0], ""))] += nanoseconds
    total = sum(by.values())
    rows = [
        {
            "pass": passing,
            "primitive": primitive,
            "result": shape,
            "milliseconds": round(time / options.steps / 1e6, 3),
            "share": round(time / total, 4),
        }
        for (passing, primitive, shape), time in by.most_common()
    ]
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(
        f"{options.preset}, {options.size}², batch {options.batch}, {dtype}: "
        f"{total / options.steps / 1e6:.1f} ms of operations a step\n"
    )
    for row in rows[: options.rows]:
        print(
            f"{row['share']:>6.1%} {row['milliseconds']:>9.2f} ms  {row['pass']:8} "
            f"{row['primitive']:34} {row['result']}"
        )
    kinds: Counter = Counter()
    for row in rows:
        kinds[kind(row["pass"], row["primitive"], row["result"])] += row["share"]
    print("\n" + "\n".join(f"{share:>6.1%} {name}" for name, share in kinds.most_common()))
    if options.json:
        what = {name: getattr(options, name) for name in ("preset", "width", "size", "batch")}
        content = about | what | {"dtype": dtype, "kinds": kinds, "rows": rows}
        options.json.write_text(json.dumps(content, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
