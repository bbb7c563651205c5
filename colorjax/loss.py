"""What training minimises: pure functions of a prediction and the true ab, a mean a picture.

ab is `B h w 2`, each loss is `B`.
"""

import jax
import optax

from colorjax import palette
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
        rarity: weights of the bins, `261`, as `palette.rarity_weights` gives them.
    """
    likely = (palette.encode(target) * logits).sum(-1)
    weight = rarity[palette.nearest(target)]
    return (weight * (jax.nn.logsumexp(logits, axis=-1) - likely)).mean((1, 2))


def huber(ab: jax.Array, target: jax.Array) -> jax.Array:
    """Huber's loss of ab in units of the bins' spacing: quadratic within one, linear beyond."""
    return optax.losses.huber_loss(ab / palette.SPACING, target / palette.SPACING).mean((1, 2, 3))
