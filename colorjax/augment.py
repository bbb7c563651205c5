"""What the network sees in training: crops, flips, old film and old paper; on the device.

Everything happens inside the jitted step, to whole batches, from one random key: sRGB pictures
`B H W 3` in 0…1, lightness `B H W` in 0…100. Real old photographs should lie within what the
network has seen, hence film response and degradation; what it is asked for stays the true colour.
"""

import jax
import jax.numpy as jnp

from colorjax import color
from colorjax.color import Array


def random_crops(key: jax.Array, images: Array, size: int) -> jax.Array:
    """Crop random windows of half to all of each picture, mirror half of them, scale to `size`.

    `B S S 3` uint8 → `B size size 3` in 0…1. Scaling is bilinear and antialiased.
    """
    source = images.shape[1]
    lengths, tops, lefts, mirror = (
        jax.random.uniform(k, (len(images),)) for k in jax.random.split(key, 4)
    )
    scales = size / (source * (0.5 + 0.5 * lengths))
    offsets = (size - scales * source)[:, None] * jnp.stack([tops, lefts], axis=1)

    def crop(image: jax.Array, scale: jax.Array, offset: jax.Array) -> jax.Array:
        shape, scale = (size, size, 3), jnp.stack([scale, scale])
        return jax.image.scale_and_translate(image, shape, (0, 1), scale, offset, "linear")

    crops = jax.vmap(crop)(jnp.asarray(images) / 255, scales, offsets)
    return jnp.where(mirror[:, None, None, None] < 0.5, crops, crops[:, :, ::-1])


def _chosen(key: jax.Array, batch: int, probability: float) -> jax.Array:
    return jax.random.uniform(key, (batch, 1, 1)) < probability


def film_lightness(key: jax.Array, rgb: Array, probability: float) -> jax.Array:
    """Compute lightness `B H W` as a film would have recorded it.

    With this probability a picture is seen through a random mix of linear R, G and B instead of
    the eye's luminance: film before the 1920s was blind to red, later film had other weaknesses.
    """
    choose, mix = jax.random.split(key)
    weights = jax.random.dirichlet(mix, jnp.array([0.6, 1.0, 1.0]), (len(rgb),))
    exposed = jnp.einsum("bhwc,bc->bhw", color.srgb_to_linear(rgb), weights)
    film = color.grey_lightness(color.linear_to_srgb(exposed))
    return jnp.where(_chosen(choose, len(rgb), probability), film, color.lightness(rgb))


def _block_noise(lightness: Array, step: jax.Array) -> jax.Array:
    """Quantise as JPEG does: round the cosine coefficients of 8×8 blocks to `step`."""
    batch, height, width = lightness.shape
    pad = ((0, 0), (0, -height % 8), (0, -width % 8))
    n = jnp.arange(8)
    basis = jnp.cos(jnp.pi / 8 * (n + 0.5) * n[:, None]) / 2
    basis = basis.at[0].divide(2**0.5)
    blocks = jnp.pad(lightness, pad, mode="edge")
    rows, columns = blocks.shape[1] // 8, blocks.shape[2] // 8
    blocks = blocks.reshape(batch, rows, 8, columns, 8)
    coefficients = jnp.einsum("brycx,uy,vx->brucv", blocks, basis, basis)
    # Coarser for finer detail, as in the tables of the standard (ITU-T T.81, annex K).
    steps = step[..., None, None] * (1 + (n[:, None] + n) / 2)[None, None, :, None]
    coefficients = steps * jnp.round(coefficients / steps)
    blocks = jnp.einsum("brucv,uy,vx->brycx", coefficients, basis, basis)
    return blocks.reshape(batch, rows * 8, columns * 8)[:, :height, :width]


def degrade(key: jax.Array, lightness: Array, probability: float) -> jax.Array:
    """Degrade lightness `B H W` in 0…100 to what an old print and its scan would show.

    A soft lens, a faded print, grain and a scan's compression each come with this probability,
    independently.
    """
    batch = len(lightness)
    keys = iter(jax.random.split(key, 10))

    def amount(low: float, high: float) -> jax.Array:
        return jax.random.uniform(next(keys), (batch, 1, 1), minval=low, maxval=high)

    def apply_with_probability(degraded: jax.Array, lightness: Array) -> jax.Array:
        return jnp.where(_chosen(next(keys), batch, probability), degraded, lightness)

    side = amount(0, 0.3)  # weight of each neighbour in a 3 × 3 binomial-like blur
    padded = jnp.pad(lightness, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, 1:-1] + side * (padded[:, :-2] + padded[:, 2:])
    soft = rows[:, :, 1:-1] + side * (rows[:, :, :-2] + rows[:, :, 2:])
    lightness = apply_with_probability(soft / (1 + 2 * side) ** 2, lightness)

    black, white = amount(0, 25), amount(75, 100)
    lightness = apply_with_probability(black + (white - black) / 100 * lightness, lightness)

    grain = jax.random.normal(next(keys), lightness.shape)
    lightness = apply_with_probability(lightness + amount(0, 6) * grain, lightness)

    lightness = apply_with_probability(_block_noise(lightness, amount(1, 8)), lightness)
    return jnp.clip(lightness, 0, 100)
