"""The ab bins: colours as the classes of a classifier, and its output as colour again.

One convention: ab is CIE a*b* under D65, `… 2`; a bin is a node of the grid of spacing 10 that is
nearest to some sRGB colour, 261 of them, sorted by a, then b. The method is that of Zhang, Isola
and Efros, "Colorful Image Colorization" (2016), whose 313 bins are counted in another way.
"""

from dataclasses import dataclass, field
from functools import cache, partial
from math import inf

import jax
import jax.numpy as jnp
import numpy as np

from colorjax import color

SPACING = 10  # of the grid of bins, in units of ab
SIGMA = 5.0  # of the Gaussian over the nearest bins (section 2.1) and over bins (equation 4)
NEIGHBOURS = 5  # bins that share a pixel's target (section 2.1)

_REACH = 110  # no ab of an sRGB colour is larger: a is in −86.2…98.2, b in −107.9…94.5
_SHIFT = _REACH // SPACING
# A floor for the fraction of pixels in a bin. A bin that holds a pixel never comes so low; one far
# from every pixel would get an infinite weight when nothing uniform is mixed in.
_MIN_FRACTION = 1e-12


@cache
def bins() -> np.ndarray:
    """List the centres of the in-gamut ab bins: read-only float32 `261 2`, sorted by a, then b.

    They are taken from the faces of the RGB cube at every third 8-bit level, where the most
    colourful colours lie. All 16,777,216 8-bit colours give the same bins.
    """
    levels = np.linspace(0, 1, 86, dtype=np.float32)
    low, u, v = (x.ravel() for x in np.meshgrid([0, 1], levels, levels, indexing="ij"))
    faces = np.stack([(low, u, v), (u, low, v), (u, v, low)]).swapaxes(1, 2)
    with jax.ensure_compile_time_eval():  # the first call may come while a function is traced
        ab = np.asarray(jax.jit(color.rgb_to_lab)(faces.astype(np.float32)))[..., 1:]
    nodes = np.unique(np.round(ab.reshape(-1, 2) / SPACING).astype(np.int32), axis=0)
    centres = (SPACING * nodes).astype(np.float32)
    centres.setflags(write=False)  # every caller gets this array
    return centres


@cache
def soft_encoding() -> np.ndarray:
    """Tabulate what `encode` needs for a rounded ab: float32 `221 221 3` over a, b of −110…110.

    For each rounded ab the table holds three numbers: the squared distance of the fifth-nearest
    bin, the share that each bin at exactly that distance gets, and the log of the weights' sum.
    `encode` computes the 261 weights from them. A table of the weights themselves would be a
    constant of 25 MB in every compiled step.
    """
    grid = np.arange(-_REACH, _REACH + 1.0)
    a, b = bins().astype(np.float64).T
    rows = []
    for value in grid:  # one row at a time, which fits a cache: all at once would take 300 MB
        squares = (value - a) ** 2 + (grid[:, None] - b) ** 2
        fifth = np.partition(squares, NEIGHBOURS - 1)[:, NEIGHBOURS - 1 : NEIGHBOURS]
        nearer, level = squares < fifth, squares == fifth
        part = (NEIGHBOURS - nearer.sum(axis=1, keepdims=True)) / level.sum(axis=1, keepdims=True)
        weights = (nearer + level * part) * np.exp(-squares / (2 * SIGMA**2))
        total = np.log(weights.sum(axis=1, keepdims=True))
        rows.append(np.concatenate([fifth, part, total], axis=1))
    return np.stack(rows).astype(np.float32)


def encode(ab: jax.Array) -> jax.Array:
    """Encode ab `… 2` as soft targets: float32 `… 261` that sum to 1, without gradient.

    Gaussian weights (σ = 5) over the 5 bins nearest to ab rounded to whole numbers; bins that tie
    for the fifth place share it. Beyond ±110 ab counts as ±110.
    """
    ab = jnp.clip(jnp.round(jax.lax.stop_gradient(ab).astype(jnp.float32)), -_REACH, _REACH)
    row, column = jnp.moveaxis(ab.astype(jnp.int32) + _REACH, -1, 0)
    fifth, part, total = jnp.split(jnp.asarray(soft_encoding())[row, column], 3, axis=-1)
    a, b = bins().T.reshape(2, *(1,) * (ab.ndim - 1), -1)
    # Whole numbers below 2^24, hence exact, so that comparing them for equality is sound.
    squares = (ab[..., :1] - a) ** 2 + (ab[..., 1:] - b) ** 2
    weight = jnp.where(squares < fifth, 1.0, jnp.where(squares == fifth, part, 0.0))
    return weight * jnp.exp(-squares / (2 * SIGMA**2) - total)


@cache
def _nearest_bins() -> np.ndarray:
    """Find the bin nearest to each node of the grid: int32 `23 23` over a, b of −110…110."""
    nodes = SPACING * (np.indices((2 * _SHIFT + 1,) * 2) - _SHIFT)
    squares = ((nodes[..., None] - bins().T[:, None, None]) ** 2).sum(axis=0)
    return squares.argmin(axis=-1).astype(np.int32)


def nearest(ab: jax.Array) -> jax.Array:
    """Find the bin nearest to ab `… 2`: int32 `…`; outside the gamut, nearest to its grid node."""
    node = jnp.clip(jnp.round(ab / SPACING).astype(jnp.int32), -_SHIFT, _SHIFT) + _SHIFT
    return jnp.asarray(_nearest_bins())[node[..., 0], node[..., 1]]


def histogram(ab: jax.Array) -> jax.Array:
    """Count the pixels ab `… 2` nearest to each bin: int32 `261`, to be added up."""
    return jnp.bincount(nearest(ab).ravel(), length=len(bins()))


def smoothed(histogram: jax.Array | np.ndarray) -> jax.Array:
    """Smooth a histogram `261` of one pixel or more over ab, σ = 5: fractions that sum to 1.

    What a bin spreads stays inside the gamut (Zhang 2016, section 2.2).
    """
    squares = ((bins()[:, None] - bins()[None]) ** 2).sum(axis=-1)
    kernel = np.exp(-squares / (2 * SIGMA**2))
    fraction = jnp.asarray(histogram, jnp.float32)
    fraction = fraction / fraction.sum()
    return jnp.matmul(kernel / kernel.sum(axis=0, keepdims=True), fraction, precision="highest")


def bin_weights(histogram: jax.Array | np.ndarray, mix: float = 0.5) -> jax.Array:
    """Weigh each bin so that rare colours count for more (Zhang 2016, equation 4): float32 `261`.

    A weight is in proportion to 1 / ((1 − mix) p̃ + mix / 261). p is the histogram's distribution
    and p̃ the same, smoothed. Σ p w = 1: the mean weight over the histogram's pixels is 1.

    Args:
        histogram: pixels in each bin, `261`, as `histogram` counts them; at least one.
        mix: the paper's λ, in 0…1: 0 balances the colours wholly, 1 weighs them all the same.
    """
    fraction = jnp.asarray(histogram, jnp.float32)
    fraction = fraction / fraction.sum()
    mixed = (1 - mix) * smoothed(histogram) + mix / len(bins())
    weights = 1 / jnp.maximum(mixed, _MIN_FRACTION)
    return weights / (fraction * weights).sum()


def adjust_logits(logits: jax.Array, weights: color.Array, power: float | jax.Array) -> jax.Array:
    """Multiply probabilities by a power of the bins' weights `261`: logits `… 261` → the same.

    With `bin_weights` and a power above 0 rare colours become likelier, as if they had weighed more
    in training (Menon et al., "Long-tail learning via logit adjustment", 2021).
    """
    return logits + power * jnp.log(weights)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("saturation", "temperature", "rarity_power", "bin_weights", "warmth", "tint"),
    meta_fields=("working_size",),
)
@dataclass(frozen=True)
class Decoding:
    """How a network's output becomes colour: calibrated after training, saved with the weights."""

    saturation: float = 1.0  # factor on ab, 0 or more
    temperature: float = 1.0  # above 0: 1 takes the mean of likely colours, towards 0 the likeliest
    rarity_power: float = 0.0  # probabilities are multiplied by this power of the bins' weights
    # float32 261, as `bin_weights` gives them for the photographs trained on; None: not known
    bin_weights: np.ndarray | None = field(default=None, compare=False)
    working_size: int = 128  # side of the square whose area the network's input has, in pixels
    warmth: float = 0.0  # added to b: above 0 yellower, below bluer; a person's, not calibrated
    tint: float = 0.0  # added to a: above 0 redder, below greener; likewise

    def check(self) -> None:
        """Raise ValueError, which names the value, if one of them is out of range."""
        size, weights = self.working_size, self.bin_weights
        is_size = isinstance(size, int) and 16 <= size <= 2048
        for name, value, holds, what in (
            ("working size", size, is_size, "a whole number from 16 to 2048"),
            ("temperature", self.temperature, 0 < self.temperature < inf, "above 0"),
            ("saturation", self.saturation, 0 <= self.saturation < inf, "0 or more"),
            ("rarity", self.rarity_power, -inf < self.rarity_power < inf, "a finite number"),
            ("warmth", self.warmth, -inf < self.warmth < inf, "a finite number"),
            ("tint", self.tint, -inf < self.tint < inf, "a finite number"),
        ):
            if not holds:
                raise ValueError(f"{name} is {value}: it must be {what}")
        if weights is not None and (weights.shape != (261,) or not (weights > 0).all()):
            raise ValueError("the bins' weights are not 261 numbers above 0")
        if self.rarity_power and weights is None:
            raise ValueError(
                "it is not known how rare colours were weighted in training, hence no rarity to set"
            )


AS_PREDICTED = Decoding()


def decode(output: jax.Array, head: str, decoding: Decoding = AS_PREDICTED) -> jax.Array:
    """Decode a network's output to ab `B h w 2`, before it is fitted into the gamut.

    Args:
        output: ab `B h w 2` of head "ab"; logits `B h w 261` of head "bins".
        head: of the network.
        decoding: as predicted unless given. Head "ab" has neither rarity nor temperature.
    """
    if head == "bins":
        if decoding.bin_weights is not None:
            output = adjust_logits(output, decoding.bin_weights, decoding.rarity_power)
        output = annealed_mean(output, decoding.temperature)
    return decoding.saturation * output + jnp.stack([decoding.tint, decoding.warmth])


def annealed_mean(logits: jax.Array, temperature: float | jax.Array = 1.0) -> jax.Array:
    """Take the mean colour of the sharpened distribution: logits `… 261` → ab `… 2`.

    Args:
        logits: of the bins, before softmax.
        temperature: above 0; 1 gives the mean, towards 0 comes the mode (Zhang 2016, equation 5,
            chooses 0.38). In between it trades faithful averages for vivid colour.
    """
    probability = jax.nn.softmax(logits.astype(jnp.float32) / temperature, axis=-1)
    return jnp.einsum("...q,qc->...c", probability, bins(), precision="highest")


def entropy(logits: jax.Array) -> jax.Array:
    """Measure how unsure a prediction is: finite logits `… 261` → `…` in 0 (one bin) … 1 (all)."""
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    nats = -(jnp.exp(log_probability) * log_probability).sum(axis=-1)
    return jnp.clip(nats / np.log(len(bins())), 0, 1)
