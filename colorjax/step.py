"""Training state, optimiser, the jitted training and evaluation steps, device placement.

A step is a pure function of the state and a batch of uint8 pictures: its randomness follows from
the run's seed and the state's step number, so a resumed run repeats an uninterrupted one.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from colorjax import augment, color, loss, model, palette
from colorjax.color import Array
from colorjax.extra import muon
from colorjax.model import NetworkConfig, Params

COOL_DOWN = 0.1  # share of the steps


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that decides how training goes on; parameters are its only network state."""

    params: Params
    ema: Params  # exponential moving average of params: what is validated and kept
    moments: optax.OptState
    critic: Params  # of the adversarial phase; empty in runs that have none
    critic_moments: optax.OptState
    rarity: jax.Array  # float32 261: how much each bin's colour counts, mean 1 over the pool
    step: jax.Array  # int32, steps done
    ordinary_steps: jax.Array  # int32, where the cosine schedule ends, and the critic comes in
    total_steps: jax.Array  # int32


@dataclass(frozen=True)
class StepConfig:
    """What a training step needs to know of the run's configuration; hashable, so jit's static."""

    network: NetworkConfig
    size: int = 64  # pixels a side that the network sees
    seed: int = 0
    lr: float = 2e-3  # at the schedule's peak
    encoder_lr: float = 4e-4  # of a pretrained encoder; 0: it is not trained
    frozen_blocks: int = 0  # of the encoder, the first ones, that are not trained
    schedule: str = "cosine"  # or "wsd": constant, then a cool-down over the last tenth
    weight_decay: float = 0.01
    clip: float = 1.0  # global gradient norm
    film: float = 0.3  # share of pictures seen as film would have recorded them
    ageing: float = 0.2  # share of pictures befallen by each kind of ageing
    rarity: float = 0.5  # how much rare colours count: 0 as often as they occur, below 1
    huber: float = 1.0  # weight of the decoded colour's loss, where the network has bins
    adversarial: float = 0.0  # share of the steps, the last ones, that have a critic
    critic_weight: float = 1.0  # of what the critic says, beside the colours' loss
    critic_lr: float = 8e-4  # the critic's learning rate; the network's beside it is a quarter
    optimizer: str = "muon"
    dtype: str = "float32"  # of the network's computation


def optimizer(config: StepConfig) -> optax.GradientTransformation:
    """Gradients → updates but for the learning rate, which the step multiplies.

    Muon, AdamW (Loshchilov and Hutter 2019), or RMSprop for comparison with older recipes. Weight
    decay falls on kernels alone: biases and scales have fewer than two dimensions.
    """
    scales = {
        "muon": partial(muon.scale_by_muon, model.outer_parts(config.network)),
        "adamw": partial(optax.scale_by_adam, b2=0.99),
        "rmsprop": optax.scale_by_rms,
    }
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        scales[config.optimizer](),
        optax.add_decayed_weights(
            config.weight_decay, lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
        ),
    )


def critic_optimizer() -> optax.GradientTransformation:
    """Of the critic: Adam with little momentum, since what it must tell apart keeps moving."""
    return optax.scale_by_adam(b1=0.5, b2=0.99)


def learning_rate(config: StepConfig, step: jax.Array, total_steps: jax.Array) -> jax.Array:
    """Linear warm-up over the first 2 % of the steps (at most 1,000), then the schedule to zero.

    Either a cosine, or a constant rate and over the last tenth 1 − √t (Hägele et al. 2024).
    """
    warmup = jnp.clip(total_steps // 50, 1, 1000)
    if config.schedule == "wsd":
        cooled = (step / jnp.maximum(total_steps, 1) - 1 + COOL_DOWN) / COOL_DOWN
        falling = 1 - jnp.sqrt(jnp.clip(cooled, 0, 1))
        return config.lr * jnp.minimum((step + 1) / warmup, 1) * falling
    progress = (step - warmup) / jnp.maximum(total_steps - warmup, 1)
    cosine = 0.5 + 0.5 * jnp.cos(jnp.pi * jnp.clip(progress, 0, 1))
    return config.lr * jnp.where(step < warmup, (step + 1) / warmup, cosine)


def learning_rates(config: StepConfig, params: Params) -> Params:
    """Each parameter's learning rate over the decoder's: less in an encoder, 0 where frozen."""

    def of(path, _) -> float:
        names = [getattr(part, "key", getattr(part, "idx", None)) for part in path]
        if names[0] != "encoder":
            return 1.0
        block = -1 if names[1] == "stem" else int(names[2])
        return (
            0.0
            if block < config.frozen_blocks and config.frozen_blocks
            else config.encoder_lr / config.lr
        )

    return jax.tree_util.tree_map_with_path(of, params)


def trained(config: StepConfig, params: Params) -> Params:
    """The same parameters; no gradient goes into those that are frozen, nor is any computed."""
    rates = learning_rates(config, params)
    return jax.tree.map(lambda p, r: p if r else jax.lax.stop_gradient(p), params, rates)


def create_state(
    config: StepConfig,
    total_steps: int = 0,
    params: Params | None = None,
    histogram: Array | None = None,
) -> TrainState:
    """A state at step 0.

    Args:
        config: of the step.
        total_steps: where the learning rate's schedule ends.
        params: new ones unless given. New ones of a network with bins begin with the answer that
            is best without looking, the bins' frequencies, rather than learn those first.
        histogram: of the photographs' colours, `261`; even unless given.
    """
    histogram = np.ones(model.BINS) if histogram is None else histogram
    rarity = palette.bin_weights(histogram, 1 - config.rarity)
    if params is None:
        params = model.init(config.seed, config.network)
        if config.network.head == "bins":
            params["head"]["bias"] = jnp.log(rarity * palette.smoothed(histogram) + 1e-6)
    critic = model.init(config.seed, config.network, critic=True) if config.adversarial else {}
    return TrainState(
        params=params,
        ema=jax.tree.map(jnp.copy, params),  # a copy, or donating the state would fail
        moments=optimizer(config).init(params),
        critic=critic,
        critic_moments=critic_optimizer().init(critic),
        rarity=rarity,
        step=jnp.int32(0),
        **steps(config, total_steps),
    )


def steps(config: StepConfig, total: int) -> dict[str, jax.Array]:
    """The state's fields that say how long it trains, and how much of that without a critic."""
    ordinary = total - math.ceil(config.adversarial * total)
    return {"ordinary_steps": jnp.int32(ordinary), "total_steps": jnp.int32(total)}


def reduced(config: StepConfig, lightness: jax.Array, rgb: jax.Array) -> jax.Array:
    """Lab `B h w 3` at the network's output size: L as given, the ab that is there at such L."""
    lab = jnp.concatenate([lightness[..., None], color.rgb_to_lab(rgb)[..., 1:]], axis=-1)
    batch, height, width = lightness.shape
    block = config.network.reduction
    if block > 1:
        lab = lab.reshape(batch, height // block, block, width // block, block, 3).mean((2, 4))
    return color.rgb_to_lab(color.fit_gamut(lab))


def examples(config: StepConfig, key: jax.Array, images: Array):
    """What the network sees, `B H W`, and the ab it should say, `B h w 2`."""
    crop_key, film_key, age_key = jax.random.split(key, 3)
    rgb = augment.random_crops(crop_key, images, config.size)
    lightness = augment.film_lightness(film_key, rgb, config.film)
    target = reduced(config, lightness, rgb)[..., 1:]
    return augment.age(age_key, lightness, config.ageing), target


def colour_loss(
    config: StepConfig, output: jax.Array, target: jax.Array, rarity: jax.Array
) -> jax.Array:
    """The loss of each picture, `B`."""
    if config.network.head == "ab":
        return loss.mean_squared_error(output, target)
    decoded = loss.huber(palette.annealed_mean(output), target)
    return loss.cross_entropy(output, target, rarity) + config.huber * decoded


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    config: StepConfig, state: TrainState, images: Array, labels: Array | None = None
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step on `B S S 3` uint8 pictures, S at least the training size; the state is donated.

    Args:
        config: of the step.
        state: before it.
        images: the pictures.
        labels: `B`, the place of each one's label in the network's, −1 for none; not looked at by
            a network without.

    Returns:
        The next state, and scalars: the loss, and the gradient's norm before clipping.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    lightness, target = jax.lax.stop_gradient(examples(config, key, images))

    def objective(params: Params) -> jax.Array:
        params = trained(config, params)
        output, said = model.predict(params, config.network, lightness, jnp.dtype(config.dtype))
        value = colour_loss(config, output, target, state.rarity).mean()
        return value if said is None else value + loss.label_cross_entropy(said, labels).mean()

    value, gradient = jax.value_and_grad(objective)(state.params)
    rate = learning_rate(config, state.step, state.ordinary_steps)
    state = updated(config, state, gradient, rate)
    return state, {"loss": value, "gradient_norm": optax.tree.norm(gradient)}


def updated(config: StepConfig, state: TrainState, gradient: Params, rate: jax.Array) -> TrainState:
    """The network after a step along its gradient."""
    updates, moments = optimizer(config).update(gradient, state.moments, state.params)
    rates = learning_rates(config, state.params)
    params = jax.tree.map(lambda p, u, r: p - r * rate * u, state.params, updates, rates)
    # The average forgets its start, and an adversarial phase what was before it: with a constant
    # decay, short ones would stay near that.
    age = state.step - jnp.where(state.step < state.ordinary_steps, 0, state.ordinary_steps)
    decay = jnp.minimum(0.999, (1 + age) / (10 + age))
    ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, params)
    return replace(state, params=params, ema=ema, moments=moments, step=state.step + 1)


def colour_up(lightness: Array, ab: Array) -> jax.Array:
    """Lightness `B H W` with ab `B h w 2` scaled up bicubically → sRGB `B H W 3` of 8-bit steps."""
    ab = jax.image.resize(ab, (*lightness.shape, 2), "cubic")
    lab = jnp.concatenate([lightness[..., None], ab], axis=-1)
    return jnp.round(255 * color.fit_gamut(lab)) / 255


def centre_crops(images: Array, size: int) -> jax.Array:
    """`B S S 3` uint8 → the centre `B size size 3` in 0…1."""
    start = (images.shape[1] - size) // 2
    return jnp.asarray(images[:, start : start + size, start : start + size], jnp.float32) / 255


@partial(jax.jit, static_argnums=0)
def evaluate(
    config: StepConfig, params: Params, rarity: jax.Array, images: Array, powers: Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """What the network makes of the centre crops of `B S S 3` uint8 pictures.

    Returns:
        Each picture's loss `B`; its ab `K B h w 2`, one for each of `K` powers of the rarity
        weights that probabilities are multiplied by (a network without bins has one answer to
        all); and the number of its most likely label `B`, None from a network without labels.
    """
    rgb = centre_crops(images, config.size)
    lightness = color.lightness(rgb)
    output, said = model.predict(params, config.network, lightness, jnp.dtype(config.dtype))
    label = None if said is None else said.argmax(-1)
    losses = colour_loss(config, output, reduced(config, lightness, rgb)[..., 1:], rarity)
    if config.network.head == "ab":
        return losses, jnp.stack([output] * len(powers)), label
    # One after another: all at once would need more memory than a training step.
    ab = jax.lax.map(
        lambda power: palette.annealed_mean(palette.adjust_logits(output, rarity, power)), powers
    )
    return losses, ab, label


@partial(jax.jit, static_argnums=0)
def reduced_truth(config: StepConfig, images: Array) -> jax.Array:
    """Centre crops of `B S S 3` uint8 pictures as Lab `B h w 3` at the network's output size."""
    rgb = centre_crops(images, config.size)
    return reduced(config, color.lightness(rgb), rgb)


@jax.jit
def is_finite(params: Params) -> jax.Array:
    """Whether every parameter is a finite number."""
    return jnp.all(jnp.stack([jnp.isfinite(p).all() for p in jax.tree.leaves(params)]))


def placement(devices: int = 0) -> tuple[NamedSharding, NamedSharding]:
    """Shardings for the state (whole on each device) and for batches (split over them).

    Args:
        devices: how many to use; 0 means all.

    Raises:
        ValueError: there are not as many.
    """
    count = devices or jax.device_count()
    if count > jax.device_count():
        raise ValueError(f"--devices {count}: this machine has {jax.device_count()}")
    mesh = jax.make_mesh(
        (count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count]
    )
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
