"""Training state, optimiser, schedule, the jitted training step, placement on devices.

A step is a pure function of the state and a batch of uint8 pictures: its randomness follows from
the run's seed and the state's step number, so a resumed run repeats an uninterrupted one.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from colorjax import augment, color, loss, model, palette
from colorjax.color import Array
from colorjax.config import TrainConfig
from colorjax.model import Params

COOL_DOWN = 0.1  # fraction of a wsd run in which its rate falls


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that decides how training goes on; parameters are its only network state."""

    params: Params
    ema: Params  # exponential moving average of params: what is validated and kept
    moments: optax.OptState
    bin_weights: jax.Array  # float32 261: how much each bin's colour counts, mean 1 over the pool
    step: jax.Array  # int32, steps done
    total_steps: jax.Array  # int32, where the schedule ends


State = TypeVar("State", bound=TrainState)


def optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Make the optimiser: gradients → updates, which the step multiplies by the learning rate.

    Muon, AdamW (Loshchilov and Hutter 2019), or RMSprop for comparison with older recipes. Weight
    decay falls on kernels alone: biases and scales have fewer than two dimensions.
    """
    if config.optimizer == "muon":
        from colorjax.extra import muon  # where it is asked for: the others need none of it

        scale = muon.scale_by_muon(model.outer_parts(config.network_config))
    elif config.optimizer == "adamw":
        scale = optax.scale_by_adam(b2=0.99)
    else:
        scale = optax.scale_by_rms()
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        scale,
        optax.add_decayed_weights(
            config.weight_decay, lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
        ),
    )


def learning_rate(config: TrainConfig, step: jax.Array, total_steps: jax.Array) -> jax.Array:
    """Schedule the rate: linear warm-up over 2 % of the steps, at most 1,000, then down to zero.

    It falls by a cosine; or it is constant and falls over the last tenth by 1 − √t (Hägele et al.
    2024).
    """
    warmup = jnp.clip(total_steps // 50, 1, 1000)
    if config.schedule == "wsd":
        cooled = (step / jnp.maximum(total_steps, 1) - 1 + COOL_DOWN) / COOL_DOWN
        falling = 1 - jnp.sqrt(jnp.clip(cooled, 0, 1))
        return config.lr * jnp.minimum((step + 1) / warmup, 1) * falling
    progress = (step - warmup) / jnp.maximum(total_steps - warmup, 1)
    cosine = 0.5 + 0.5 * jnp.cos(jnp.pi * jnp.clip(progress, 0, 1))
    return config.lr * jnp.where(step < warmup, (step + 1) / warmup, cosine)


def trunk_steps(total_steps: int) -> int:
    """Count the steps of a wsd run before its rate begins to fall."""
    return total_steps * 9 // 10


def branch_steps(done: int) -> int:
    """Count all steps of a wsd run whose rate begins to fall at this step."""
    return -(-done * 10 // 9)


def learning_rates(config: TrainConfig, params: Params) -> Params:
    """Give each parameter's learning rate over the decoder's: less in an encoder, 0 if frozen."""

    def ratio(path: tuple, _: Any) -> float:
        names = [part.key for part in path]
        if config.network != "lite" or names[0] != "encoder":  # the U-Net's is not pretrained
            return 1.0
        block = -1 if names[1] == "stem" else int(str(names[2]))  # the stem comes before them
        frozen = config.frozen_blocks and block < config.frozen_blocks
        return 0.0 if frozen else config.encoder_lr / config.lr

    return jax.tree_util.tree_map_with_path(ratio, params)


def without_frozen(config: TrainConfig, params: Params) -> Params:
    """Stop the gradients of frozen parameters: none are computed."""
    rates = learning_rates(config, params)
    return jax.tree.map(lambda p, r: p if r else jax.lax.stop_gradient(p), params, rates)


def create_state(
    config: TrainConfig,
    total_steps: int = 0,
    params: Params | None = None,
    histogram: Array | None = None,
    encoder: Params | None = None,
) -> TrainState:
    """Make a state at step 0 of a schedule that ends at `total_steps`.

    Parameters are new unless `params` are given; new ones may have an `encoder`'s. In a network
    with bins new ones predict the bins' frequencies, the best answer without looking, rather than
    learn those first. `histogram` `261` is of the photographs' colours, even unless given.
    """
    histogram = np.ones(model.BINS) if histogram is None else histogram
    bin_weights = palette.bin_weights(histogram, 1 - config.class_balance)
    if params is None:
        params = model.init(config.seed, config.network_config)
        if encoder is not None:
            params["encoder"] = encoder
        if config.head == "bins":
            params["head"]["bias"] = jnp.log(bin_weights * palette.smoothed(histogram) + 1e-6)
    return TrainState(
        params=params,
        ema=jax.tree.map(jnp.copy, params),  # a copy, or donating the state would fail
        moments=optimizer(config).init(params),
        bin_weights=bin_weights,
        step=jnp.int32(0),
        total_steps=jnp.int32(total_steps),
    )


def downsampled_lab(config: TrainConfig, lightness: jax.Array, rgb: jax.Array) -> jax.Array:
    """Average the truth down to the output's size: L `B H W`, rgb `B H W 3` → Lab `B h w 3`.

    Colours outside the gamut at that lightness are pulled into it: no prediction could show them.
    """
    lab = jnp.concatenate([lightness[..., None], color.rgb_to_lab(rgb)[..., 1:]], axis=-1)
    batch, height, width = lightness.shape
    block = config.network_config.reduction
    if block > 1:
        lab = lab.reshape(batch, height // block, block, width // block, block, 3).mean((2, 4))
    return color.rgb_to_lab(color.fit_gamut(lab))


def make_inputs_and_targets(
    config: TrainConfig, key: jax.Array, images: Array
) -> tuple[jax.Array, jax.Array]:
    """Augment pictures `B S S 3` uint8: what the network sees, `B H W`, and true Lab `B h w 3`."""
    crop_key, film_key, degrade_key = jax.random.split(key, 3)
    rgb = augment.random_crops(crop_key, images, config.size)
    lightness = augment.film_lightness(film_key, rgb, config.film)
    truth = downsampled_lab(config, lightness, rgb)
    return augment.degrade(degrade_key, lightness, config.degradation), truth


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    config: TrainConfig, state: TrainState, images: Array, labels: Array | None = None
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Take a step on `B S S 3` uint8 pictures, S at least the training size; the state is donated.

    `labels` `B` are places among the network's labels, −1 for none; a network without ignores them.

    Returns:
        The next state, and scalars: the loss, and the gradient's norm before clipping.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    lightness, truth = jax.lax.stop_gradient(make_inputs_and_targets(config, key, images))

    def objective(params: Params) -> jax.Array:
        return ordinary_loss(
            config,
            predict(config, without_frozen(config, params), lightness),
            truth,
            state.bin_weights,
            labels,
        )

    value, gradient = jax.value_and_grad(objective)(state.params)
    rate = learning_rate(config, state.step, state.total_steps)
    state = updated(config, state, gradient, rate)
    return state, {"loss": value, "gradient_norm": optax.tree.norm(gradient)}


def predict(config: TrainConfig, params: Params, lightness: jax.Array) -> model.Prediction:
    """Run the network in the run's type."""
    dtype = jnp.dtype(config.compute_dtype)
    return model.predict(params, config.network_config, lightness, dtype)


def ordinary_loss(
    config: TrainConfig,
    prediction: model.Prediction,
    truth: jax.Array,
    bin_weights: jax.Array,
    labels: Array | None,
) -> jax.Array:
    """Average the loss of a prediction: of its colours and, if it has any, labels."""
    weights = config.huber, config.matched
    colors = loss.color_loss(config.head, prediction.output, truth, bin_weights, *weights).mean()
    if prediction.labels is None:
        return colors
    return colors + loss.label_cross_entropy(prediction.labels, labels).mean()


def updated(config: TrainConfig, state: State, gradient: Params, rate: jax.Array) -> State:
    """Move the network along its gradient, and its average after it."""
    updates, moments = optimizer(config).update(gradient, state.moments, state.params)
    rates = learning_rates(config, state.params)

    def moved(p: jax.Array, u: jax.Array, r: float) -> jax.Array:
        return p - r * rate * u if r else p  # what is frozen stays to the bit

    params = jax.tree.map(moved, state.params, updates, rates)
    # The average forgets its start: with a constant decay, short runs would stay near that.
    decay = jnp.minimum(0.999, (1 + state.step) / (10 + state.step))

    def averaged(e: jax.Array, p: jax.Array, r: float) -> jax.Array:
        return decay * e + (1 - decay) * p if r else e

    ema = jax.tree.map(averaged, state.ema, params, rates)
    return replace(state, params=params, ema=ema, moments=moments, step=state.step + 1)


@jax.jit
def is_finite(state: TrainState) -> jax.Array:
    """Tell whether every number of a state is finite."""
    numbers = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in numbers]))


def local(tree: Any) -> Any:
    """Take arrays that every device holds whole from one device of this process."""
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


def placement(devices: int = 0) -> tuple[NamedSharding, NamedSharding]:
    """Make the shardings of the state (whole on each device) and of batches (split over them).

    Args:
        devices: how many to use, the same number in every process; 0 means all.

    Raises:
        ValueError: there are not as many, or they cannot be shared out evenly.
    """
    count, processes = devices or jax.device_count(), jax.process_count()
    if count > jax.device_count():
        raise ValueError(f"--devices {count}: there are {jax.device_count()}")
    if count % processes:
        raise ValueError(f"--devices {count}: it must be a multiple of the {processes} processes")
    chosen = [
        device
        for process in range(processes)
        for device in jax.local_devices(process)[: count // processes]
    ]
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=chosen)
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
