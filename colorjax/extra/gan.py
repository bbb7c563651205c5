"""Adversarial training, a run of its own from trained weights: `train.py --preset gan`.

Squared error's best answer to "red or blue?" is the grey between, and a discriminator would know
it at once. Here a conditional PatchGAN (Isola et al. 2017) learns to tell true colours, and the
network learns to pass for true. The hinge loss (Lim and Ye 2017), R1 now and then (Mescheder et al.
2018; lazily: Karras et al. 2020), feature matching (Wang et al. 2018). The losses of ordinary
training stay beside it. `create_state`, `train_step` and `selection_score` stand in for those of
`step.py` and `validation.py`.
"""

from dataclasses import dataclass, replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from colorjax import model, palette, step
from colorjax.color import Array
from colorjax.config import TrainConfig
from colorjax.layers import Conv, space_to_depth
from colorjax.model import Params
from colorjax.step import TrainState
from colorjax.validation import Measured

WEIGHT = 1.0  # of what the discriminator says, beside the ordinary losses
MATCHING = 1.0  # weight of feature matching, in units of the discriminator's own
R1_WEIGHT, R1_INTERVAL = 1.0, 16  # it comes once in so many steps, times as many
TTUR_RATIO = 4  # the discriminator's learning rate over the network's (Heusel et al. 2017)
WARM_UP = 0.1  # of the run: the network's rate rises, the discriminator learns its first things
# In points of AuC. At 10, multiplying the colours by 1.6 would count as better by more than
# adversarial training makes them; at 4 it costs as much AuC as it brings.
COLORFULNESS_WEIGHT = 4.0


class Discriminator(nnx.Module):
    """Judges, place by place, whether colours are true: a conditional PatchGAN (Isola et al. 2017).

    It sees lightness and ab at the network's output size, squares of lightness as channels, so
    that nothing tells true from predicted colours but the colours. Each of its places sees 36 of
    the lightness's pixels across where ab is reduced 4 times. No normalisation: a score is of one
    place.
    """

    _LAYERS = ((64, 1), (128, 2), (256, 1))  # (features, stride)

    def __init__(self, reduction: int, rng: np.random.Generator | None):
        """Make its layers, for lightness so many times larger than ab."""
        channels, layers = reduction**2 + 2, []
        for features, stride in self._LAYERS:
            layers.append(Conv(channels, features, rng, stride=stride))
            channels = features
        self.layers = nnx.List(layers)
        self.head = Conv(channels, 1, rng, size=1, zero=True)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """Scores `B y x` of `B h w C`, and the features of the layers."""
        features = []
        for layer in self.layers:
            x = jax.nn.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.head(x)[..., 0].astype(jnp.float32), features


@cache
def _graph(reduction: int) -> nnx.GraphDef:
    return nnx.split(nnx.eval_shape(lambda: Discriminator(reduction, None)), nnx.Param)[0]


def discriminate(
    config: TrainConfig, discriminator: Params, lightness: jax.Array, ab: jax.Array
) -> tuple[jax.Array, list[jax.Array]]:
    """Score ab `B h w 2` at lightness `B H W`, L* in 0…100: H = h times the network's reduction.

    Returns:
        Scores `B y x`, higher the truer the colours look, and the features of the layers.
    """
    reduction = config.network_config.reduction
    x = space_to_depth(lightness[..., None] / 50 - 1, reduction)
    x = jnp.concatenate([x, ab / 50], axis=-1).astype(jnp.dtype(config.compute_dtype))
    return nnx.merge(_graph(reduction), discriminator)(x)


def hinge(true: jax.Array, predicted: jax.Array) -> jax.Array:
    """Compute the hinge loss of the scores `B …` of true and of predicted colours: a scalar.

    It is 0 where true ones score above 1 and predicted ones below −1.
    """
    return jax.nn.relu(1 - true).mean() + jax.nn.relu(1 + predicted).mean()


def feature_matching(true: list[jax.Array], predicted: list[jax.Array]) -> jax.Array:
    """Average the distance of true and predicted colours' features over the layers.

    Wang et al. 2018 (pix2pixHD), equation 4. No gradient goes into the true ones.
    """
    distances = [
        jnp.abs(jax.lax.stop_gradient(t) - p).astype(jnp.float32).mean()
        for t, p in zip(true, predicted, strict=True)
    ]
    return jnp.stack(distances).mean()


def discriminator_loss(
    config: TrainConfig,
    discriminator: Params,
    lightness: jax.Array,
    true: jax.Array,
    predicted: jax.Array,
) -> jax.Array:
    """Compute what the discriminator minimises, of true and predicted ab `B h w 2`: a scalar."""
    scores = partial(discriminate, config, discriminator, lightness)
    return hinge(scores(true)[0], scores(predicted)[0])


def adversarial_loss(
    config: TrainConfig,
    discriminator: Params,
    lightness: jax.Array,
    true: jax.Array,
    output: jax.Array,
) -> jax.Array:
    """Compute what the network minimises beside its ordinary loss: a scalar."""
    judge = partial(discriminate, config, discriminator, lightness)
    scores, features = judge(palette.decode(output, config.head))
    return MATCHING * feature_matching(judge(true)[1], features) - scores.mean()


def gradient_penalty(
    config: TrainConfig, discriminator: Params, lightness: jax.Array, true: jax.Array
) -> jax.Array:
    """Compute R1: half the mean squared gradient of the scores by true ab, in units of 50."""

    def scores(units: jax.Array) -> jax.Array:
        return discriminate(config, discriminator, lightness, 50 * units)[0].sum()

    return R1_WEIGHT / 2 * (jax.grad(scores)(true / 50) ** 2).sum(-1).mean()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GanState(TrainState):
    """A network's state, and its discriminator's."""

    discriminator: Params
    discriminator_moments: optax.OptState


def optimizer() -> optax.GradientTransformation:
    """Make Adam with little momentum, since what the discriminator must tell apart moves."""
    return optax.scale_by_adam(b1=0.5, b2=0.99)


def create_state(
    config: TrainConfig,
    total_steps: int = 0,
    params: Params | None = None,
    histogram: Array | None = None,
    encoder: Params | None = None,
) -> GanState:
    """Make a state at step 0, as `step.create_state`, and a discriminator without an opinion."""
    state = step.create_state(config, total_steps, params, histogram, encoder)
    rng = np.random.default_rng(config.seed)
    module = Discriminator(config.network_config.reduction, rng)
    discriminator = nnx.to_pure_dict(nnx.split(module, nnx.Param)[1])
    return GanState(
        **vars(state),
        discriminator=discriminator,
        discriminator_moments=optimizer().init(discriminator),
    )


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    config: TrainConfig, state: GanState, images: Array, labels: Array | None = None
) -> tuple[GanState, dict[str, jax.Array]]:
    """Take a step as `step.train_step`, and one of the discriminator beside it.

    The network runs forward once. The discriminator learns from its output, and the gradient of the
    scores goes back through the same pass; gradients equal those of two passes.

    Returns:
        The next state, and scalars: the network's loss but for what the discriminator says, the
        norm of its gradient, and the discriminator's loss: 2 where it knows nothing, 0 where it is
        never wrong.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    lightness, truth = step.make_inputs_and_targets(config, key, images)
    true = truth[..., 1:]
    prediction, pull = jax.vjp(
        lambda params: step.predict(config, step.without_frozen(config, params), lightness),
        state.params,
    )

    def network_loss(prediction: model.Prediction):
        ordinary = step.ordinary_loss(config, prediction, truth, state.bin_weights, labels)
        judged = adversarial_loss(config, state.discriminator, lightness, true, prediction.output)
        return ordinary + WEIGHT * judged, ordinary

    prediction_gradient, ordinary = jax.grad(network_loss, has_aux=True)(prediction)
    (gradient,) = pull(prediction_gradient)

    def of_discriminator(discriminator: Params) -> jax.Array:
        predicted = palette.decode(prediction.output, config.head)
        return discriminator_loss(config, discriminator, lightness, true, predicted)

    def penalised(discriminator: Params) -> Params:
        penalty = jax.grad(lambda d: gradient_penalty(config, d, lightness, true))
        return jax.tree.map(lambda g: R1_INTERVAL * g, penalty(discriminator))

    discriminator_value, discriminator_gradient = jax.value_and_grad(of_discriminator)(
        state.discriminator
    )
    due, nothing = state.step % R1_INTERVAL == 0, partial(jax.tree.map, jnp.zeros_like)
    penalty = jax.lax.cond(due, penalised, nothing, state.discriminator)
    discriminator_gradient = jax.tree.map(jnp.add, discriminator_gradient, penalty)
    updates, moments = optimizer().update(discriminator_gradient, state.discriminator_moments)

    # Both rates fall linearly to zero; the network's rises first.
    done = state.step / jnp.maximum(state.total_steps, 1)
    rate = TTUR_RATIO * config.lr * (1 - jnp.clip(done, 0, 1))
    discriminator = jax.tree.map(lambda p, u: p - rate * u, state.discriminator, updates)
    warm = jnp.clip(done / WARM_UP, 0, 1)
    state = step.updated(config, state, gradient, warm * rate / TTUR_RATIO)
    state = replace(state, discriminator=discriminator, discriminator_moments=moments)
    norm = optax.tree.norm(gradient)
    return state, {"loss": ordinary, "gradient_norm": norm, "discriminator": discriminator_value}


def selection_score(measured: Measured) -> float:
    """How good weights are: AuC, less the distance of the colourfulness from the truth's."""
    return measured.auc - COLORFULNESS_WEIGHT * abs(1 - measured.colorfulness)
