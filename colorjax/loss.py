"""What training minimises: pure functions of predictions and truths.

ab is `B h w 2`; a loss is `B`, a mean over each picture.
"""

import jax
import jax.numpy as jnp
import optax

from colorjax import color, palette
from colorjax.color import Array
from colorjax.model import AB_SCALE

MATCHED = 0.85  # of the truth's colourfulness, at which `matched_error` compares


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


def matched_error(ab: jax.Array, truth: jax.Array) -> jax.Array:
    """Compute the error in RGB at equal colourfulness: the logarithm of its mean square, `B`.

    One number multiplies the chroma of the whole batch, so that its mean colourfulness is
    `MATCHED` of the truth's. So more or less colour in general costs and gains nothing: what counts
    is which pictures and places get it. It is how quality is measured, PSNR at equal colourfulness.

    Args:
        ab: predicted, `B h w 2`.
        truth: Lab, `B h w 3`.
    """

    def colored(ab: jax.Array) -> jax.Array:
        return color.fit_gamut(jnp.concatenate([truth[..., :1], ab], axis=-1))

    def colorfulness(rgb: jax.Array) -> jax.Array:
        # A faint pattern: the gradient of a standard deviation that is 0 is not finite.
        pattern = 1e-3 * jnp.sin(jnp.arange(rgb[0].size)).reshape(rgb[0].shape)
        return color.colorfulness(rgb + pattern, absolute=True).mean()

    expected = colored(truth[..., 1:])
    # A network that predicts no colour yet is not asked for all of it at once.
    actual = jnp.maximum(colorfulness(colored(ab)), 2)
    factor = MATCHED * colorfulness(expected) / actual
    return jnp.log(((colored(factor * ab) - expected) ** 2).mean((1, 2, 3)) + 1e-4)


def color_loss(
    head: str,
    output: jax.Array,
    truth: jax.Array,
    bin_weights: jax.Array,
    huber_weight: float,
    matched_weight: float = 0.0,
) -> jax.Array:
    """Compute the loss of a network's output against the true colours, Lab `B h w 3`.

    Head "ab" is trained by squared error. Head "bins" is trained by cross-entropy and, beside it,
    two errors of the decoded colour, each times its weight. The matched one depends on the other
    pictures of the batch.
    """
    target = truth[..., 1:]
    if head == "ab":
        return mean_squared_error(output, target)
    ab = palette.decode(output, head)
    value = cross_entropy(output, target, bin_weights) + huber_weight * huber(ab, target)
    return value + matched_weight * matched_error(ab, truth) if matched_weight else value


def label_cross_entropy(logits: jax.Array, labels: Array | None) -> jax.Array:
    """Compute the cross-entropy of logits `B labels` and labels `B`; 0 where there is none: −1."""
    if labels is None:
        raise ValueError("the network has labels, and none are given")
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return jnp.where(labels < 0, 0, losses)
