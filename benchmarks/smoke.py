"""Does training work on this device? Every preset's step in bfloat16 beside float32.

    python benchmarks/smoke.py

One batch of random photographs: output, loss and gradient in both types, and ten steps in bfloat16,
after which the loss must be finite and, unless an adversary learns beside it, less. Exit status 1
if one fails.
"""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (0, 1)]

import jax
import jax.numpy as jnp
import numpy as np
import optax
import timing
from throughput import HEADS, settings_of

from colorjax import device, model, step
from colorjax.extra import gan

APART = 0.1  # ‖bfloat16 − float32‖ / ‖float32‖ of output and gradient: 8 bits, a dozen layers
NEAR = 0.02  # the same of the loss, a mean of many
STEPS = 10


def check(preset: str, width: int, size: int, batch: int) -> bool:
    """Print a line; whether all went well."""
    settings = replace(settings_of(preset, width, size, "float32"), film=0, degradation=0)
    network, random = settings.network_config, np.random.default_rng(0)
    side = size * 9 // 8
    coarse = random.integers(0, 256, (batch, 6, 6, 3)).astype(np.float32)
    images = jax.image.resize(coarse, (batch, side, side, 3), "linear").astype(jnp.uint8)

    random_like = partial(
        jax.tree.map, lambda p: p + 0.02 * random.standard_normal(p.shape, np.float32)
    )
    judged_too = preset == "gan"
    algorithm: Any = gan if judged_too else step
    judged = algorithm.create_state(settings)
    if judged_too:
        judged = replace(judged, discriminator=random_like(judged.discriminator))

    def objective(params: dict, dtype: str) -> tuple[jax.Array, jax.Array]:
        typed = replace(settings, dtype=dtype)
        lightness, target = step.make_inputs_and_targets(typed, jax.random.key(0), images)
        output = model.apply(params, network, lightness, jnp.dtype(dtype))
        value = step.ordinary_loss(typed, (output, None), target, judged.bin_weights, None)
        if judged_too:
            value += gan.adversarial_loss(typed, judged.discriminator, lightness, target, output)
        return value, output.astype(jnp.float32)

    params = random_like(model.init(0, network))
    value = jax.jit(jax.value_and_grad(objective, has_aux=True), static_argnums=1)
    (loss, output), gradient = value(params, "float32")
    (loss16, output16), gradient16 = value(params, "bfloat16")
    differences = jax.tree.map(jnp.subtract, (output16, gradient16), (output, gradient))
    apart = float(optax.tree.norm(differences[0]) / optax.tree.norm(output))
    of_gradient = float(optax.tree.norm(differences[1]) / optax.tree.norm(gradient))

    half = replace(settings, dtype="bfloat16")
    train_step = algorithm.train_step
    state, losses = algorithm.create_state(half, 1000), []
    for _ in range(STEPS):
        state, metrics = train_step(half, state, images)
        losses.append(float(metrics["loss"]))
    fine = (
        max(apart, of_gradient) < APART
        and abs(float(loss16 - loss)) < NEAR * abs(float(loss))
        and bool(step.is_finite(state))
    )
    learnt = sum(losses[-3:]) < sum(losses[:3])  # each step crops anew
    fine = fine and (judged_too or learnt)
    print(
        f"{preset:8} loss {float(loss):.5f} in float32, {float(loss16):.5f} in bfloat16; "
        f"output {apart:.4f} and gradient {of_gradient:.4f} apart; "
        f"{STEPS} steps {losses[0]:.5f} → {losses[-1]:.5f}  "
        f"{'fine' if fine else 'WRONG'}",
        flush=True,
    )
    return fine


def main(argv: list[str] | None = None) -> int:
    """Check every preset; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=64, help="of the unet (default: 64)")
    parser.add_argument("--size", type=int, default=64, help="pixels a side (default: 64)")
    parser.add_argument("--batch", type=int, default=16, help="(default: 16)")
    options = parser.parse_args(argv)
    timing.check(parser, options)
    device.use_compilation_cache()
    print(", ".join(f"{name} {value}" for name, value in timing.device().items()))
    results = [check(preset, options.width, options.size, options.batch) for preset in HEADS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
