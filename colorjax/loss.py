"""What training minimises: pure functions of predictions and truths.

ab is `B h w 2`; a loss is `B`, a mean over each picture.
"""

import jax
import jax.numpy as jnp
import optax

from colorjax import palette
from colorjax.color import Array
from colorjax.model import AB_SCALE


def mean_squared_error(ab: jax.Array, target: jax.Array) -> jax.Array:
    """Compute the paper's loss: the mean squared error of ab / 128."""
    return (((ab - target) / AB_SCALE) ** 2).mean((1, 2, 3))


def cross_entropy(logits: jax.Array, target: jax.Array, bin_weights: jax.Array) -> jax.Array:
    """Compute the bins' cross-entropy with soft targets, weighted by the true colour's bin.

    Zhang, Isola and Efros 2016, equation 2. Squared error's best answer to "red or blue?" is the
    grey between; here both may be likely, and the choice between them is made afterwards.

    Args:
        logits: `B h w 261`.
        target: true ab.
        bin_weights: `261`, as `palette.bin_weights` gives them.
    """
    likely = (palette.encode(target) * logits).sum(-1)
    weight = bin_weights[palette.nearest(target)]
    return (weight * (jax.nn.logsumexp(logits, axis=-1) - likely)).mean((1, 2))


def huber(ab: jax.Array, target: jax.Array) -> jax.Array:
    """Compute Huber's loss of ab in units of the bins' spacing: quadratic to one, then linear."""
    return optax.losses.huber_loss(ab / palette.SPACING, target / palette.SPACING).mean((1, 2, 3))


def color_loss(
    head: str, output: jax.Array, target: jax.Array, bin_weights: jax.Array, huber_weight: float
) -> jax.Array:
    """Compute the loss of a network's output against the true colours.

    Head "ab" is trained by squared error; "bins" by cross-entropy and, beside it, `huber_weight`
    times the error of the decoded colour.
    """
    if head == "ab":
        return mean_squared_error(output, target)
    decoded = huber(palette.decode(output, head), target)
    return cross_entropy(output, target, bin_weights) + huber_weight * decoded


def label_cross_entropy(logits: jax.Array, labels: Array | None) -> jax.Array:
    """Compute the cross-entropy of logits `B labels` and labels `B`; 0 where there is none: −1."""
    if labels is None:
        raise ValueError("the network has labels, and none are given")
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return jnp.where(labels < 0, 0, losses)
