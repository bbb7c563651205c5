"""How near a coloured picture comes to the true one, as runs are measured (more: `benchmarks/`).

Pictures are sRGB `… H W 3` in 0…1 and rounded to 8 bits before they come here; ab is CIE a*b* under
D65, taken from rounded pictures too.
"""

import jax
import jax.numpy as jnp
import numpy as np

_LARGEST = 150  # ab distance where the curve of AuC ends (Zhang 2016)


def mean_squared_error(prediction: jax.Array, truth: jax.Array) -> jax.Array:
    """Mean squared error of each picture over pixels and channels: two `… H W 3` → `…`."""
    return ((prediction - truth) ** 2).mean(axis=(-3, -2, -1))


def psnr(prediction: jax.Array, truth: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio of each picture in dB, in RGB: two `… H W 3` → `…`.

    Not capped: it is infinite where the pictures are equal, so a mean over pictures needs those
    without colour, which any colouriser gets right, left out.
    """
    return -10 * jnp.log10(mean_squared_error(prediction, truth))


def distance_histogram(
    ab_prediction: jax.Array, ab_truth: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """Pixels by how far the predicted colour lies from the true one, to be added up over batches.

    Args:
        ab_prediction: predicted colours, `… 2`.
        ab_truth: true colours, `… 2`.
        weights: what each pixel counts for, `…`, as `rarity` gives it; 1 unless given.

    Returns:
        Float32 `152`: entry t holds the pixels of an ab distance above t − 1 and up to t, and the
        last one those beyond 150, so that the sum is all pixels. Counts are exact below 2^24
        pixels a call; add calls up in float64.
    """
    distance = jnp.ceil(jnp.linalg.norm(ab_prediction - ab_truth, axis=-1))
    index = jnp.clip(distance, 0, _LARGEST + 1).astype(jnp.int32).ravel()
    counted = jnp.ones(index.shape) if weights is None else weights.ravel()
    return jnp.bincount(index, counted, length=_LARGEST + 2)


def auc(histogram: jax.Array | np.ndarray) -> jax.Array:
    """Area under the curve of a `distance_histogram` `152`, in 0…100 % (Zhang 2016).

    The curve is the share of pixels within an ab distance of t, at t = 0, 1, …, 150; its area is
    taken by the trapezoidal rule and divided by 150, so it is about 100 (1 − mean distance / 150).
    Near 90 %, the plain mean of the 151 shares would come out 0.3 lower.
    """
    counts = jnp.asarray(histogram, jnp.float32)
    shares = jnp.cumsum(counts)[: _LARGEST + 1] / counts.sum()
    return 100 / _LARGEST * (shares.sum() - (shares[0] + shares[-1]) / 2)
