"""The project's networks beside the same networks in PyTorch, in one run, in turn.

    python benchmarks/peers/compare.py --batches 1 64 --json FILE

Inference is lightness → ab, ours on one JAX device as in `colorize.py`; a training step is the
forward pass, squared error on ab / 128, the gradients clipped to norm 1, AdamW and the moving
average of the parameters, in both frameworks, on the same random batch. PyTorch has channels last,
autocast for bfloat16, its fused optimiser, and runs both eager and compiled: network, loss and
their gradient; clipping, optimiser and average stay its own fused operations, where ours is one
program. Before anything is timed, both frameworks must give the same colours, loss and gradient
from the same parameters. Zhang's network of 2016 stands beside, for inference.
"""

import argparse
import copy
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two frameworks share the device
sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]

import jax
import jax.numpy as jnp
import numpy as np
import timing

from colorjax import device, loss, model, step
from colorjax.config import TrainConfig

try:
    import torch  # pyright: ignore[reportMissingImports]

    from peers import networks
except ImportError:
    sys.exit("compare.py: PyTorch is missing: pip install -e '.[bench]' -c constraints.txt")

TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}  # ‖ours − theirs‖ / ‖ours‖
Run = Callable[[int], object]


def ours(
    network: model.NetworkConfig, params: dict, dtype: str, devices: int, lightness, target
) -> dict:
    """What this project computes, and how to time it."""
    settings = TrainConfig(dtype=dtype, optimizer="adamw")
    optimizer = step.optimizer(settings)

    @jax.jit
    def infer(params, lightness):
        return model.predict(params, network, lightness, jnp.dtype(dtype)).output

    def objective(params, lightness, target):
        return loss.mean_squared_error(infer(params, lightness), target).mean()

    @partial(jax.jit, donate_argnums=0)
    def train(state, lightness, target):
        params, ema, moments = state
        value, gradient = jax.value_and_grad(objective)(params, lightness, target)
        updates, moments = optimizer.update(gradient, moments, params)
        params = jax.tree.map(lambda p, u: p - 1e-3 * u, params, updates)
        ema = jax.tree.map(lambda e, p: 0.999 * e + 0.001 * p, ema, params)
        return (params, ema, moments), value

    whole, split = step.placement(devices)
    alone = jax.device_put((params, lightness), jax.devices()[0])  # as `colorize.py` infers
    lightness, target = jax.device_put((lightness, target), split)
    params = jax.device_put(params, whole)
    copied = partial(jax.tree.map, jnp.copy)
    state = (copied(params), copied(params), optimizer.init(params))

    def infer_run(count: int) -> None:
        for _ in range(count):
            result = infer(*alone)
        jax.block_until_ready(result)

    def train_run(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, value = train(state, lightness, target)
        jax.block_until_ready((state, value))

    value, gradient = jax.jit(jax.value_and_grad(objective))(params, lightness, target)
    return {
        "ab": np.asarray(infer(params, lightness)),
        "loss": float(value),
        "gradient": jax.device_get(gradient),
        "infer": infer_run,
        "train": train_run,
    }


def theirs(network: torch.nn.Module, dtype: str, compiled: bool, lightness, target) -> dict:
    """The same in PyTorch."""
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(place).to(memory_format=torch.channels_last)
    average = [parameter.detach().clone() for parameter in network.parameters()]
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.99),
        fused=True,
    )
    seen = torch.from_numpy(lightness).to(place)
    truth = torch.from_numpy(target.transpose(0, 3, 1, 2)).to(place)
    if compiled:
        torch.compiler.reset()  # else the second batch size gets a program for any size
    maybe = partial(torch.compile, dynamic=False) if compiled else lambda function: function
    forward = maybe(network)
    cast = partial(torch.autocast, place.type, torch.bfloat16, dtype == "bfloat16")

    def wait() -> None:
        if place.type == "cuda":
            torch.cuda.synchronize()

    def infer():
        with torch.inference_mode(), cast():
            return forward(seen)

    @maybe
    def error(seen, truth):
        return (((network(seen) - truth) / 128) ** 2).mean()

    def objective():
        with cast():
            return error(seen, truth)

    def infer_run(count: int) -> None:
        for _ in range(count):
            infer()
        wait()

    def train_run(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            objective().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            now = [p.detach() for p in network.parameters()]
            torch._foreach_lerp_(average, now, 0.001)  # pyright: ignore[reportPrivateImportUsage]
        wait()

    ab = infer().permute(0, 2, 3, 1).cpu().numpy()
    found = {"ab": ab, "infer": infer_run, "train": train_run}
    if network.training:  # Zhang's network is not trained here
        value = objective()
        gradient = torch.autograd.grad(value, list(network.parameters()))
        found |= {"loss": value.item(), "gradient": gradient, "network": network}
    return found


def check(mine: dict, peer: dict, dtype: str, name: str) -> float:
    """How far apart both are; SystemExit if farther than rounding takes them."""
    distance = np.linalg.norm(mine["ab"] - peer["ab"]) / np.linalg.norm(mine["ab"])
    distance = max(distance, abs(mine["loss"] - peer["loss"]) / abs(mine["loss"]))
    shaped = copy.deepcopy(peer["network"])  # our gradient in the places of its parameters
    networks.load(shaped, mine["gradient"])
    exact = [parameter.detach() for parameter in shaped.parameters()]
    differences = [a - b for a, b in zip(exact, peer["gradient"], strict=True)]
    norm = torch.nn.utils.get_total_norm
    distance = max(distance, (norm(differences) / norm(exact)).item())
    if not distance <= TOLERANCE[dtype]:
        raise SystemExit(f"compare.py: {name} computes something else: {distance:.2g} away")
    return float(f"{distance:.2g}")


def trained(network: model.NetworkConfig) -> dict:
    """Random parameters of which none is zero: the last layers count, too."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda p: p + 0.02 * random.standard_normal(p.shape, np.float32),
        model.init(0, network),
    )


def main(argv: list[str] | None = None) -> int:
    """Compare and print; the exit status."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    gpu = torch.cuda.is_available()
    parser.add_argument(
        "--networks", nargs="+", default=["paper", "unet"], choices=("paper", "unet")
    )
    parser.add_argument("--width", type=int, default=64, help="of the unet (default: 64)")
    parser.add_argument("--size", type=int, default=128, help="pixels a side (default: 128)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument(
        "--dtype", default="bfloat16" if gpu else "float32", choices=("float32", "bfloat16")
    )
    parser.add_argument("--seconds", type=float, default=4, help="for each figure (default: 4)")
    parser.add_argument("--repeats", type=int, default=5, help="segments of each (default: 5)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--no-zhang", action="store_true", help="leave Zhang's network out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    options = parser.parse_args(argv)
    timing.check(parser, options)
    device.use_compilation_cache()
    device.keep_memory()
    device.use_two_cpu_devices()
    if gpu != (jax.default_backend() == "gpu"):
        sys.exit("compare.py: one framework has a GPU and the other not")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True  # XLA tries several convolutions, too
    about = timing.device() | {
        "torch": torch.__version__,
        "size": options.size,
        "dtype": options.dtype,
        "width": options.width,
    }
    report: dict = about | {"rows": []}
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(
        f"{'':22} {'batch':>6} {'ours, images/s':>15} {'eager':>9} {'compiled':>9}"
        f" {'ours/eager':>11} {'ours/compiled':>14} {'apart':>8}"
    )
    random = np.random.default_rng(1)
    for batch in options.batches:
        for kind in options.networks:
            network = model.NetworkConfig(kind, options.width)
            params = trained(network)
            side = options.size // network.reduction
            shape = (batch, options.size, options.size)
            lightness = random.uniform(0, 100, shape).astype(np.float32)
            target = random.uniform(-60, 60, (batch, side, side, 2)).astype(np.float32)
            devices = 1 if gpu else math.gcd(batch, jax.device_count())  # a CPU is two
            mine = ours(network, params, options.dtype, devices, lightness, target)
            others, apart = {}, 0.0
            for name in ("eager",) if options.no_compile else ("eager", "compiled"):
                peer = networks.Paper() if kind == "paper" else networks.UNet(options.width)
                networks.load(peer, params)
                others[name] = theirs(peer, options.dtype, name == "compiled", lightness, target)
                apart = max(apart, check(mine, others[name], options.dtype, f"{kind} {name}"))
            zhang = {}
            if not options.no_zhang and kind == "unet":
                peer = networks.Zhang2016().eval()
                zhang = {"zhang 2016": theirs(peer, options.dtype, False, lightness, target)}
            for mode in ("infer", "train"):
                runs: dict[str, Run] = {"ours": mine[mode]}
                runs |= {name: other[mode] for name, other in others.items()}
                if mode == "infer":
                    runs |= {name: other[mode] for name, other in zhang.items()}
                taken = timing.in_turn(runs, options.seconds, options.repeats)
                row = {
                    "network": kind,
                    "mode": mode,
                    "batch": batch,
                    "devices": devices,
                    "apart": apart,
                }
                for name, values in taken.items():
                    row[f"{name}, seconds"] = timing.spread(values)
                    if name != "ours":  # a peer's seconds over ours: images/s ours over theirs
                        row[f"ours / {name}"] = timing.ratios(values, taken["ours"])
                report["rows"].append(row)
                show(row)
                timing.write(options.json, report)
    return 0


def show(row: dict) -> None:
    """A row of the table."""

    def speed(name: str) -> str:
        value = row.get(f"{name}, seconds")
        return f"{row['batch'] / value['median']:.1f}" if value else "-"

    def ratio(name: str) -> str:
        value = row.get(f"ours / {name}")
        return f"{value['median']:.2f}" if value else "-"

    print(
        f"{row['network'] + ', ' + row['mode']:22} {row['batch']:>6} {speed('ours'):>15} "
        f"{speed('eager'):>9} {speed('compiled'):>9} {ratio('eager'):>11} "
        f"{ratio('compiled'):>14} {row['apart']:>8.1g}",
        flush=True,
    )
    if ratio("zhang 2016") != "-":
        print(f"  Zhang 2016: {speed('zhang 2016')} images/s, ours {ratio('zhang 2016')} times")


if __name__ == "__main__":
    sys.exit(main())
