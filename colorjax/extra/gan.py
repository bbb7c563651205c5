"""The adversarial step: a critic learns to tell true colours, the network to be taken for true.

Squared error's best answer to "red or blue?" is the grey between, and a critic would know it at
once (Isola et al. 2017). The conditional PatchGAN of `model.Critic`, with the hinge loss, its
gradient on true colours kept small now and then (Mescheder et al. 2018; lazily: Karras et al.
2020), and feature matching (Wang et al. 2018). The losses of ordinary training stay beside it.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import optax

from colorjax import loss, model, palette, step
from colorjax.color import Array
from colorjax.model import Params
from colorjax.step import StepConfig, TrainState

MATCHING = 1.0  # weight of feature matching, in units of the critic's own
R1_WEIGHT, R1_INTERVAL = 1.0, 16  # it comes once in so many steps, times as many
TTUR_RATIO = 4  # the critic's learning rate over the network's (Heusel et al. 2017)
WARM_UP = 0.1  # of the phase: the network's rate rises while the critic learns its first things


def decoded(config: StepConfig, output: jax.Array) -> jax.Array:
    """The ab that a network's output stands for, `B h w 2`: what the critic is shown."""
    return output if config.network.head == "ab" else palette.annealed_mean(output)


def critic_objective(
    config: StepConfig, critic: Params, lightness: jax.Array, true: jax.Array, predicted: jax.Array
) -> jax.Array:
    """What the critic minimises: the hinge loss of true and predicted ab `B h w 2`."""
    judge = partial(model.judge, critic, config.network, lightness, dtype=jnp.dtype(config.dtype))
    return loss.hinge(judge(true)[0], judge(predicted)[0])


def adversarial_loss(
    config: StepConfig, critic: Params, lightness: jax.Array, true: jax.Array, output: jax.Array
) -> jax.Array:
    """What the network minimises beside its ordinary loss: not being taken for true, a scalar."""
    judge = partial(model.judge, critic, config.network, lightness, dtype=jnp.dtype(config.dtype))
    scores, features = judge(decoded(config, output))
    return MATCHING * loss.feature_matching(judge(true)[1], features) - scores.mean()


def gradient_penalty(
    config: StepConfig, critic: Params, lightness: jax.Array, true: jax.Array
) -> jax.Array:
    """R1: half the mean squared gradient of the critic's scores by true ab, in units of 50."""

    def scores(units: jax.Array) -> jax.Array:
        ab, dtype = 50 * units, jnp.dtype(config.dtype)
        return model.judge(critic, config.network, lightness, ab, dtype)[0].sum()

    return R1_WEIGHT / 2 * (jax.grad(scores)(true / 50) ** 2).sum(-1).mean()


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    config: StepConfig, state: TrainState, images: Array, labels: Array | None = None
) -> tuple[TrainState, dict[str, jax.Array]]:
    """As `step.train_step`, with a step of the critic beside it.

    The network runs forward once: the critic learns from what comes out, and what the critic says
    of it goes back through the same pass. The gradients are those of two separate passes.

    Returns:
        The next state, and scalars: the network's loss but for what the critic says, the norm of
        its gradient, and the critic's loss: 2 where it knows nothing, 0 where it is never wrong.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    lightness, true = step.examples(config, key, images)
    (output, label_logits), pull = jax.vjp(
        lambda params: model.predict(params, config.network, lightness, jnp.dtype(config.dtype)),
        state.params,
    )

    def of_network(output: jax.Array, label_logits: jax.Array | None):
        ordinary = step.colour_loss(config, output, true, state.rarity).mean()
        if label_logits is not None:
            ordinary += loss.label_cross_entropy(label_logits, labels).mean()
        judged = adversarial_loss(config, state.critic, lightness, true, output)
        return ordinary + config.critic_weight * judged, ordinary

    of_outputs, ordinary = jax.grad(of_network, (0, 1), has_aux=True)(output, label_logits)
    (gradient,) = pull(of_outputs)

    def of_critic(critic: Params) -> jax.Array:
        return critic_objective(config, critic, lightness, true, decoded(config, output))

    def penalised(critic: Params) -> Params:
        penalty = jax.grad(lambda critic: gradient_penalty(config, critic, lightness, true))
        return jax.tree.map(lambda g: R1_INTERVAL * g, penalty(critic))

    critic_value, critic_gradient = jax.value_and_grad(of_critic)(state.critic)
    due, nothing = state.step % R1_INTERVAL == 0, partial(jax.tree.map, jnp.zeros_like)
    penalty = jax.lax.cond(due, penalised, nothing, state.critic)
    critic_gradient = jax.tree.map(jnp.add, critic_gradient, penalty)
    updates, moments = step.critic_optimizer().update(critic_gradient, state.critic_moments)

    length = jnp.maximum(state.total_steps - state.ordinary_steps, 1)
    done = (state.step - state.ordinary_steps) / length
    rate = config.critic_lr * (1 - jnp.clip(done, 0, 1))
    critic = jax.tree.map(lambda p, u: p - rate * u, state.critic, updates)
    warm = jnp.clip(done / WARM_UP, 0, 1)
    state = step.updated(config, state, gradient, warm * rate / TTUR_RATIO)
    state = replace(state, critic=critic, critic_moments=moments)
    norm = optax.tree.norm(gradient)
    return state, {"loss": ordinary, "gradient_norm": norm, "critic": critic_value}
