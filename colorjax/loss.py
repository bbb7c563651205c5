"""What training minimises: pure functions of predictions and truths.

ab is `B h w 2`; a loss of colours or labels is `B`, a mean a picture; one of critics is a scalar.
"""

import jax
import jax.numpy as jnp
import optax

from colorjax import palette
from colorjax.color import Array
from colorjax.model import AB_SCALE


def mean_squared_error(ab: jax.Array, target: jax.Array) -> jax.Array:
    """The paper's: mean squared error of ab / 128, predicted and true."""
    return (((ab - target) / AB_SCALE) ** 2).mean((1, 2, 3))


def cross_entropy(logits: jax.Array, target: jax.Array, rarity: jax.Array) -> jax.Array:
    """Of the bins' soft targets, each place weighted by the rarity of its true colour.

    Zhang, Isola and Efros 2016, equation 2. Squared error's best answer to "red or blue?" is the
    grey between; here both may be likely, and the choice between them is made afterwards.

    Args:
        logits: `B h w 261`.
        target: true ab.
        rarity: weights of the bins, `261`, as `palette.bin_weights` gives them.
    """
    likely = (palette.encode(target) * logits).sum(-1)
    weight = rarity[palette.nearest(target)]
    return (weight * (jax.nn.logsumexp(logits, axis=-1) - likely)).mean((1, 2))


def huber(ab: jax.Array, target: jax.Array) -> jax.Array:
    """Huber's loss of ab in units of the bins' spacing: quadratic within one, linear beyond."""
    return optax.losses.huber_loss(ab / palette.SPACING, target / palette.SPACING).mean((1, 2, 3))


def label_cross_entropy(logits: jax.Array, labels: Array | None) -> jax.Array:
    """Of the logits `B labels` and the number of the true label `B`, 0 where that is −1: none."""
    if labels is None:
        raise ValueError("the network has labels, and none are given")
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return jnp.where(labels < 0, 0, losses)


def hinge(true: jax.Array, predicted: jax.Array) -> jax.Array:
    """The critic's: scores `B …` of true and of predicted colours (Lim and Ye 2017) → a scalar.

    It wants true ones above 1 and predicted ones below −1, and no more.
    """
    return jax.nn.relu(1 - true).mean() + jax.nn.relu(1 + predicted).mean()


def feature_matching(true: list[jax.Array], predicted: list[jax.Array]) -> jax.Array:
    """Mean distance of the critic's features of true and predicted colours, over its layers.

    Wang et al. 2018 (pix2pixHD), equation 4: colours that are unlike the true ones in the eyes of
    the critic. Without gradient into the true ones.
    """
    apart = [
        jnp.abs(jax.lax.stop_gradient(t) - p).astype(jnp.float32).mean()
        for t, p in zip(true, predicted, strict=True)
    ]
    return jnp.stack(apart).mean()
