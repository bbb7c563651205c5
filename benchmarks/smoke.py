"""Does training work on this device? Every preset's step in bfloat16 beside float32.

    python benchmarks/smoke.py

One batch of random photographs: the loss and its gradient in both types, and ten steps in bfloat16,
after which the loss must be finite and less. Exit status 1 if one fails.
"""

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (0, 1)]

import jax
import jax.numpy as jnp
import numpy as np
import optax
import timing
from throughput import HEADS, network_of

from colorjax import config, model, step

APART = 0.1  # ‖bfloat16 − float32‖ / ‖float32‖ of a gradient: 8 bits, through a dozen layers
STEPS = 10


def check(preset: str, width: int, size: int, batch: int) -> bool:
    """Print a line; whether all went well."""
    network, random = network_of(preset, width), np.random.default_rng(0)
    side = size * 9 // 8
    coarse = random.integers(0, 256, (batch, 6, 6, 3)).astype(np.float32)
    images = jax.image.resize(coarse, (batch, side, side, 3), "linear").astype(jnp.uint8)

    def objective(params: dict, dtype: str) -> jax.Array:
        settings = step.StepConfig(network, size=size, dtype=dtype)
        lightness, target = step._examples(settings, jax.random.key(0), images)
        output = model.apply(params, network, lightness, jnp.dtype(dtype))
        return step._loss(settings, output, target, jnp.ones(model.BINS)).mean()

    params = jax.tree.map(
        lambda p: p + 0.02 * random.standard_normal(p.shape, np.float32), model.init(0, network)
    )
    value = jax.jit(jax.value_and_grad(objective), static_argnums=1)
    loss, gradient = value(params, "float32")
    loss16, gradient16 = value(params, "bfloat16")
    difference = jax.tree.map(jnp.subtract, gradient16, gradient)
    apart = float(optax.tree.norm(difference) / optax.tree.norm(gradient))

    settings = step.StepConfig(network, size=size, dtype="bfloat16", film=0, ageing=0)
    state, losses = step.create_state(settings, 1000), []
    for _ in range(STEPS):
        state, metrics = step.train_step(settings, state, images)
        losses.append(float(metrics["loss"]))
    fine = apart < APART and bool(step.is_finite(state.params)) and losses[-1] < losses[0]
    print(f"{preset:8} loss {float(loss):.5f} in float32, {float(loss16):.5f} in bfloat16; "
          f"gradient {apart:.4f} apart; {STEPS} steps {losses[0]:.5f} → {losses[-1]:.5f}  "
          f"{'fine' if fine else 'WRONG'}", flush=True)  # fmt: skip
    return fine


def main(argv: list[str] | None = None) -> int:
    """Check every preset; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=64, help="of the unet (default: 64)")
    parser.add_argument("--size", type=int, default=64, help="pixels a side (default: 64)")
    parser.add_argument("--batch", type=int, default=16, help="(default: 16)")
    options = parser.parse_args(argv)
    config.use_compilation_cache()
    print(", ".join(f"{name} {value}" for name, value in timing.device().items()))
    results = [check(preset, options.width, options.size, options.batch) for preset in HEADS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
