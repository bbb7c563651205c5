"""sRGB and CIE Lab, exactly, as pure functions of jnp arrays.

One convention: RGB is gamma-encoded sRGB (IEC 61966-2-1) in 0…1, Lab is CIE 1976 L*a*b* under D65
with L in 0…100, channels come last, and any leading shape will do. The matrix is derived from the
sRGB primaries in float64, so that rows sum to one, greys are neutral, and every 8-bit colour
survives RGB → Lab → RGB unchanged.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray

# xy chromaticities of the sRGB primaries (ITU-R BT.709) and the D65 white point as XYZ (ASTM E308).
_PRIMARIES = np.array([[0.64, 0.33], [0.30, 0.60], [0.15, 0.06]])
_WHITE = np.array([0.95047, 1.0, 1.08883])

# CIE 15:2004, with the exact rationals for which the two branches of f meet.
_EPSILON = 216 / 24389
_KAPPA = 24389 / 27


# Linear RGB → XYZ relative to white: float64 of shape 3 3 whose rows sum to 1.
_X, _Y = _PRIMARIES.T
_COLUMNS = np.stack([_X / _Y, np.ones(3), (1 - _X - _Y) / _Y])
_TO_XYZ = _COLUMNS * np.linalg.solve(_COLUMNS, _WHITE) / _WHITE[:, None]
_TO_RGB = np.linalg.inv(_TO_XYZ)
_LUMINANCE = _TO_XYZ[1]


def _mix(planes: tuple[Array, ...], matrix: np.ndarray) -> tuple[jax.Array, ...]:
    """Apply a matrix to three planes: sums that XLA fuses with what surrounds them.

    A product of matrices would be a pass of its own over memory, and in TF32 on some GPUs.
    """
    x, y, z = planes
    return tuple(jnp.asarray(p * x + q * y + r * z) for p, q, r in matrix.tolist())


def _planes(channels: Array) -> tuple[Array, ...]:
    return channels[..., 0], channels[..., 1], channels[..., 2]


def _power(base: Array, exponent: float) -> jax.Array:
    """Raise positive numbers to a power, to 1e-6: XLA's own takes four times as long on a CPU."""
    return jnp.exp(exponent * jnp.log(base))


def srgb_to_linear(rgb: Array) -> jax.Array:
    """Undo the sRGB transfer curve: … in 0…1 → … in 0…1 (negative values go on linearly)."""
    # The maximum keeps the power's gradient finite where the other branch is taken.
    power = _power((jnp.maximum(rgb, 0.04045) + 0.055) / 1.055, 2.4)
    return jnp.where(rgb <= 0.04045, rgb / 12.92, power)


def linear_to_srgb(linear: Array) -> jax.Array:
    """Apply the sRGB transfer curve: … in 0…1 → … in 0…1 (negative values go on linearly)."""
    power = 1.055 * _power(jnp.maximum(linear, 0.0031308), 1 / 2.4) - 0.055
    return jnp.where(linear <= 0.0031308, 12.92 * linear, power)


def _f(t: Array) -> jax.Array:
    return jnp.where(t > _EPSILON, _power(jnp.maximum(t, _EPSILON), 1 / 3), (_KAPPA * t + 16) / 116)


def _f_inverse(f: Array) -> jax.Array:
    return jnp.where(f > 6 / 29, f**3, (116 * f - 16) / _KAPPA)


def rgb_to_lab(rgb: Array) -> jax.Array:
    """Convert sRGB … 3 in 0…1 to CIE L*a*b* … 3 with L in 0…100 (CIE 15:2004)."""
    x, y, z = (_f(plane) for plane in _mix(_planes(srgb_to_linear(rgb)), _TO_XYZ))
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _lab_to_linear(lab: Array) -> tuple[jax.Array, ...]:
    lightness, a, b = _planes(lab)
    y = (lightness + 16) / 116
    return _mix(tuple(_f_inverse(f) for f in (y + a / 500, y, y - b / 200)), _TO_RGB)


def lab_to_rgb(lab: Array) -> jax.Array:
    """Convert CIE L*a*b* … 3 to sRGB … 3: in 0…1 inside the gamut, beyond it outside."""
    return jnp.stack([linear_to_srgb(plane) for plane in _lab_to_linear(lab)], axis=-1)


def lightness(rgb: Array) -> jax.Array:
    """Compute the lightness of sRGB pixels: … 3 in 0…1 → L* … in 0…100."""
    # A product of its own: fused with what follows it may be computed many times over.
    luminance = jnp.matmul(srgb_to_linear(rgb), jnp.float32(_LUMINANCE), precision="highest")
    return 116 * _f(luminance) - 16


def grey_lightness(grey: Array) -> jax.Array:
    """Compute the lightness of greys (g, g, g): sRGB values … in 0…1 → L* … in 0…100."""
    return 116 * _f(srgb_to_linear(grey)) - 16


def lightness_to_grey(lightness: Array) -> jax.Array:
    """Invert `grey_lightness`: L* … in 0…100 → grey sRGB values … in 0…1."""
    return linear_to_srgb(_f_inverse((lightness + 16) / 116))


def fit_gamut(lab: Array) -> jax.Array:
    """Convert Lab … 3 to sRGB … 3 in 0…1 of the same lightness, whatever a and b.

    L depends on the luminance Y alone, so a colour outside the gamut is pulled in linear RGB
    towards the grey of its own Y until its last channel fits. Clipping instead would change
    lightness, by up to 28 for strong chroma. Colours inside the gamut are not moved.
    """
    luminance = jnp.clip(_f_inverse((lab[..., 0] + 16) / 116), 0, 1)
    offsets = [plane - luminance for plane in _lab_to_linear(lab)]
    reach = jnp.ones_like(luminance)
    for offset in offsets:  # how far along the line from grey to the colour each channel may go
        room = jnp.where(offset > 0, 1 - luminance, luminance)
        # The floor keeps the quotient's gradient finite for greys, whose offset is 0.
        reach = jnp.minimum(reach, room / jnp.maximum(jnp.abs(offset), 1e-12))
    planes = [linear_to_srgb(luminance + reach * offset) for offset in offsets]
    return jnp.clip(jnp.stack(planes, axis=-1), 0, 1)


def colorfulness(rgb: Array, absolute: bool = False) -> jax.Array:
    """Measure Hasler and Süsstrunk's colourfulness: sRGB … H W 3 in 0…1 → …, about 0…150.

    Args:
        rgb: pictures; opponent values are taken on the 0…255 scale of the paper.
        absolute: the variant of the colourisation literature, which takes absolute values of the
            opponent channels before their mean and standard deviation.
    """
    red, green, blue = jnp.moveaxis(255 * rgb, -1, 0)
    opponents = jnp.stack([red - green, 0.5 * (red + green) - blue])
    if absolute:
        opponents = jnp.abs(opponents)
    spread = jnp.linalg.norm(opponents.std(axis=(-2, -1)), axis=0)
    centre = jnp.linalg.norm(opponents.mean(axis=(-2, -1)), axis=0)
    return spread + 0.3 * centre


def in_pieces(function: Callable[..., jax.Array], length: int, *arrays: np.ndarray) -> np.ndarray:
    """Apply a jitted function to arrays of N pixels, so many at a time: compiled but once.

    Args:
        function: of arrays of `length` pixels, to one of as many.
        length: of each piece; the last is filled up with zeros.
        arrays: `N …`, at least one pixel.
    """
    count, found = len(arrays[0]), []
    for start in range(0, count, length):
        pieces = [array[start : start + length] for array in arrays]
        if (missing := length - len(pieces[0])) > 0:
            pieces = [np.pad(p, ((0, missing), *((0, 0),) * (p.ndim - 1))) for p in pieces]
        found.append(np.asarray(function(*pieces)))
    return (found[0] if len(found) == 1 else np.concatenate(found))[:count]
