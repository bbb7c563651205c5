"""How near a coloured picture comes to the true one.

Pictures are sRGB `… H W 3` in 0…1, rounded to 8 bits before they come here. Lab is CIE L*a*b* under
D65, taken from rounded pictures too.
"""

import jax
import jax.numpy as jnp
import numpy as np

from colorjax import palette

_LARGEST = 150  # ab distance where the curve of AuC ends (Zhang 2016)

# Wang et al. 2004: an 11 × 11 window of σ 1.5, and the constants of a data range of 1.
_WINDOW = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
_WINDOW = _WINDOW / _WINDOW.sum()
_C1, _C2 = 0.01**2, 0.03**2

# Opposite hues have two means, and CIEDE2000 takes one for differences up to 180° and the other
# beyond. Float32 hues are off by about 1e-4°, so a half-turn is recognised within this tolerance.
_HALF_TURN = 180 + 5e-4


def mean_squared_error(prediction: jax.Array, truth: jax.Array) -> jax.Array:
    """Compute each picture's mean squared error: two `… H W 3` → `…`."""
    return ((prediction - truth) ** 2).mean(axis=(-3, -2, -1))


def psnr(prediction: jax.Array, truth: jax.Array) -> jax.Array:
    """Compute each picture's peak signal-to-noise ratio in dB, in RGB: two `… H W 3` → `…`.

    It is not capped. Equal pictures give infinity, so leave pictures without colour, which any
    colouriser gets right, out of a mean.
    """
    return -10 * jnp.log10(mean_squared_error(prediction, truth))


def _blur(fields: jax.Array) -> jax.Array:
    """Blur by the window, where it lies inside: `… H W C` → `… H−10 W−10 C`."""
    for axis in (-3, -2):
        length = fields.shape[axis] - 10
        shifted = (jax.lax.slice_in_dim(fields, i, i + length, axis=axis) for i in range(11))
        fields = jnp.asarray(sum(w * x for w, x in zip(_WINDOW.tolist(), shifted, strict=True)))
    return fields


def ssim(prediction: jax.Array, truth: jax.Array) -> jax.Array:
    """Compute each picture's structural similarity (Wang et al. 2004): two `… H W 3` → `…` up to 1.

    Gaussian window of 11 × 11 with σ 1.5, K₁ = 0.01, K₂ = 0.03, a data range of 1, weighted (not
    sample) covariance; on each of R, G and B, then the mean over channels and over the pixels
    whose window lies inside the picture.

    Raises:
        ValueError: the pictures are smaller than the window.
    """
    if min(prediction.shape[-3:-1]) < 11:
        raise ValueError(f"ssim: pictures {prediction.shape} have less than 11 rows or columns")
    # Moments around mid-grey instead of black lose less in float32; variances are the same.
    x, y = prediction - 0.5, truth - 0.5
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blur(jnp.stack([x, y, x * x, y * y, x * y]))
    variances = mean_xx - mean_x**2 + mean_yy - mean_y**2
    covariance = mean_xy - mean_x * mean_y
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variances + _C2)
    return (luminance * structure).mean(axis=(-3, -2, -1))


def _seventh(chroma: jax.Array) -> jax.Array:
    """Compute √(C⁷ / (C⁷ + 25⁷)), which rises from 0 at grey to 1 at strong colour."""
    power = (chroma / 25) ** 7
    return jnp.sqrt(power / (power + 1))


def _hue(a: jax.Array, b: jax.Array) -> jax.Array:
    """Compute the hue angle in 0…360°, 0 for greys."""
    angle = jnp.mod(jnp.degrees(jnp.arctan2(b, a)), 360)
    return jnp.where((a == 0) & (b == 0), 0, angle)


def ciede2000(lab1: jax.Array, lab2: jax.Array) -> jax.Array:
    """Compute the colour difference ΔE₀₀ of CIE Lab pixels: two `… 3` → `…`, 0 and up, finite.

    Sharma, Wu and Dalal, "The CIEDE2000 color-difference formula: implementation notes,
    supplementary test data, and mathematical observations" (2005), with k_L = k_C = k_H = 1.
    For measuring only: its gradient is not finite at grey.
    """
    lightness1, a1, b1 = jnp.moveaxis(lab1, -1, 0)
    lightness2, a2, b2 = jnp.moveaxis(lab2, -1, 0)
    stretch = 1.5 - 0.5 * _seventh((jnp.hypot(a1, b1) + jnp.hypot(a2, b2)) / 2)
    a1, a2 = stretch * a1, stretch * a2
    chroma1, chroma2 = jnp.hypot(a1, b1), jnp.hypot(a2, b2)
    hue1, hue2 = _hue(a1, b1), _hue(a2, b2)

    turn, total = hue2 - hue1, hue1 + hue2
    wraps = jnp.abs(turn) > _HALF_TURN
    turn = turn - jnp.where(wraps, 360 * jnp.sign(turn), 0)
    hue = (total + jnp.where(wraps, jnp.where(total < 360, 360, -360), 0)) / 2
    hue = jnp.where(chroma1 * chroma2 == 0, total, hue)  # grey has no hue of its own
    chroma = (chroma1 + chroma2) / 2

    delta_lightness = lightness2 - lightness1
    delta_chroma = chroma2 - chroma1
    delta_hue = 2 * jnp.sqrt(chroma1 * chroma2) * jnp.sin(jnp.radians(turn / 2))

    square = ((lightness1 + lightness2) / 2 - 50) ** 2
    weight_hue = (
        1
        - 0.17 * jnp.cos(jnp.radians(hue - 30))
        + 0.24 * jnp.cos(jnp.radians(2 * hue))
        + 0.32 * jnp.cos(jnp.radians(3 * hue + 6))
        - 0.20 * jnp.cos(jnp.radians(4 * hue - 63))
    )
    light = delta_lightness / (1 + 0.015 * square / jnp.sqrt(20 + square))
    vivid = delta_chroma / (1 + 0.045 * chroma)
    tinge = delta_hue / (1 + 0.015 * chroma * weight_hue)
    angle = 60 * jnp.exp(-(((hue - 275) / 25) ** 2))
    rotation = -2 * _seventh(chroma) * jnp.sin(jnp.radians(angle))
    # Rounding can take the sum of a form that is never negative a little below 0.
    return jnp.sqrt(jnp.maximum(light**2 + vivid**2 + tinge**2 + rotation * vivid * tinge, 0))


def distance_histogram(
    ab_prediction: jax.Array, ab_truth: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """Count pixels by the distance of the predicted colour from the true one; add up over batches.

    Args:
        ab_prediction: predicted colours, `… 2`.
        ab_truth: true colours, `… 2`.
        weights: what each pixel counts for, `…`, as by `pixel_weights`; 1 unless given.

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
    """Compute the area under the curve of a `distance_histogram` `152`, in 0…100 % (Zhang 2016).

    The curve is the fraction of pixels within an ab distance of t, at t = 0, 1, …, 150; its area is
    taken by the trapezoidal rule and divided by 150, so it is about 100 (1 − mean distance / 150).
    Near 90 %, the plain mean of the 151 fractions would come out 0.3 lower.
    """
    counts = jnp.asarray(histogram, jnp.float32)
    fractions = jnp.cumsum(counts)[: _LARGEST + 1] / counts.sum()
    return 100 / _LARGEST * (fractions.sum() - (fractions[0] + fractions[-1]) / 2)


def pixel_weights(ab_truth: jax.Array, histogram: jax.Array | np.ndarray) -> jax.Array:
    """Weigh each pixel for the class-balanced AuC: true ab `… 2` → `…`.

    1 / p̃ of the bin nearest to the true colour (Zhang 2016, equation 4 with λ = 0), p̃ being the
    smoothed distribution of the true colours of the set that is evaluated.

    Args:
        ab_truth: the true colours.
        histogram: `palette.histogram` of the truth, added up over the whole set, `261`.
    """
    return palette.bin_weights(histogram, mix=0)[palette.nearest(ab_truth)]


def histogram_distance(p: jax.Array | np.ndarray, q: jax.Array | np.ndarray) -> jax.Array:
    """Compute two histograms' total variation, `261` each: 0 (alike) … 1 (disjoint).

    It is ½ Σ |p − q| of the normalised histograms: the fraction of pixels that would have to move
    to another bin, 1 less the histogram intersection of Isola et al. 2017 (pix2pix).
    """
    p, q = (jnp.asarray(x, jnp.float32) for x in (p, q))
    return jnp.abs(p / p.sum() - q / q.sum()).sum() / 2
