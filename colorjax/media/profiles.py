"""Colour profiles at 16 bits, where Pillow's colour management knows 8: ICC.1 and CIELAB to sRGB.

Grey by a tone curve and RGB by curves and a matrix are computed here; profiles with tables for
several channels are not. Samples are uint16 over their whole range.
"""

import functools
import struct
from collections.abc import Callable

import numpy as np

STRIP = 2**20  # pixels handled at a time
_LEVELS = np.arange(65536) / 65535
# IEC 61966-2-1: linear sRGB from XYZ of D65; Bradford's cones (CIE 159:2004).
_FROM_XYZ = np.array(
    [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
)
_CONES = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50, _D65 = np.array([0.9642, 1.0, 0.8249]), np.array([0.95047, 1.0, 1.08883])
# Levels of 65535 that a profile of sRGB by another name may differ by: |ΔL| < 0.01.
_SAME = 6


def _encoded(linear: np.ndarray) -> np.ndarray:
    """Encode linear light as sRGB in 0…1, clipped."""
    linear = np.clip(linear, 0, 1)
    low = linear <= 0.0031308
    return np.where(low, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def _sixteen(values: np.ndarray) -> np.ndarray:
    return np.rint(values * 65535).astype(np.uint16)


def _curve(tag: bytes) -> np.ndarray:
    """Compute a tone curve (`curv`, `para`; ICC.1 10.6 and 10.18) at 65536 levels."""
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        values = np.frombuffer(tag, ">u2", count, 12)
        if count == 0:
            return _LEVELS
        if count == 1:
            # In 256ths: 563 of them stand for 2.2, and readers take either. Between them, |ΔL| is
            # below 0.01 to what is meant, and to what is said for 2.2 (0.011 for 1.8).
            said, meant = values[0] / 256, round(values[0] / 256, 1)
            near = round(meant * 256) == values[0]
            return _LEVELS ** (0.45 * said + 0.55 * meant if near else said)
        return np.interp(_LEVELS, np.linspace(0, 1, count), values / 65535)
    if tag[:4] != b"para":
        raise ValueError(f"a curve of kind {tag[:4]!r}")
    (kind,) = struct.unpack_from(">H", tag, 8)
    count = (1, 3, 4, 5, 7)[kind]
    g, a, b, c, d, e, f = (
        *(value / 65536 for value in struct.unpack_from(f">{count}i", tag, 12)),
        *((1, 1, 0, 0, 0, 0, 0)[count:]),
    )
    power = np.maximum(a * _LEVELS + b, 0) ** g
    if kind == 0:
        return _LEVELS**g
    if kind in (1, 2):  # d is no limit there: -b / a is
        return np.where(_LEVELS >= -b / a, power + (c if kind == 2 else 0), c if kind == 2 else 0)
    return np.where(_LEVELS >= d, power + e, c * _LEVELS + f)


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    rows = [struct.unpack_from(">4sII", profile, 132 + 12 * row) for row in range(min(count, 200))]
    return {name: profile[offset : offset + size] for name, offset, size in rows}


def _matrix(tags: dict[bytes, bytes]) -> np.ndarray:
    """Read the matrix from linear RGB to XYZ of D50."""
    columns = [struct.unpack_from(">3i", tags[name], 8) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    return np.array(columns).T / 65536


def of_gamma(power: float, srgb: bytes) -> bytes:
    """Make the profile of sRGB with a power for its tone curve."""
    curve = b"curv" + bytes(4) + struct.pack(">IHH", 1, round(power * 256), 0)
    tags = _tags(srgb) | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        place = 132 + 12 * len(tags) + len(body)
        table += struct.pack(">4sII", name, place, len(content))
        body += content + bytes(-len(content) % 4)
    return struct.pack(">I", 128 + len(table + body)) + srgb[4:128] + table + body


@functools.lru_cache(16)
def to_srgb(profile: bytes, srgb: bytes, grey: bool) -> Callable[[np.ndarray], np.ndarray] | None:
    """Find what turns `H W 1` (grey) or `H W 3` uint16 of a profile into sRGB; None if it is sRGB.

    Args:
        profile: of the samples.
        srgb: the profile of sRGB, whose matrix is the way back.
        grey: whether the samples are grey, which an RGB profile may describe, too.

    Raises:
        ValueError: it is of another kind, or damaged.
    """
    try:
        tags, space, connection = _tags(profile), profile[16:20], profile[20:24]
        if any(name in tags for name in (b"A2B0", b"A2B1", b"A2B2", b"D2B0", b"D2B1")):
            raise ValueError("it has tables")
        if space == b"GRAY" and grey:
            light = _curve(tags[b"kTRC"])
            if connection == b"Lab ":
                light = _from_lightness(light * 100)
            table = _sixteen(_encoded(light))
        elif space == b"RGB " and connection == b"XYZ ":
            curves = [_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")]
            matrix = np.linalg.inv(_matrix(_tags(srgb))) @ _matrix(tags)
            levels = np.stack(curves, -1).astype(np.float32)
            table = _sixteen(_encoded(levels @ matrix.T.astype(np.float32)))
        else:
            raise ValueError("it is for other colours")
    except (struct.error, KeyError, IndexError, np.linalg.LinAlgError) as error:
        raise ValueError(f"it is damaged: {error}") from error
    if not np.isfinite(table).all():
        raise ValueError("its curve has no values")
    off = np.abs(table.reshape(65536, -1).astype(int) - np.arange(65536)[:, None]).max()
    if space == b"GRAY" or grey:
        table = table.reshape(65536, -1)[:, -1 if space == b"GRAY" else 1]
        return None if off <= _SAME else lambda samples: table[samples]
    if off <= _SAME and np.abs(matrix - np.eye(3)).max() < 1e-3:
        return None

    def convert(samples: np.ndarray) -> np.ndarray:
        linear = np.stack([levels[samples[..., k], k] for k in range(3)], -1)
        return _sixteen(_encoded(linear @ matrix.T.astype(np.float32)))

    return functools.partial(in_strips, convert)


def in_strips(convert: Callable[[np.ndarray], np.ndarray], samples: np.ndarray) -> np.ndarray:
    """Apply `convert` to some rows at a time, into an array of its type."""
    rows, found = max(1, STRIP // samples.shape[1]), np.empty(0)
    for top in range(0, len(samples), rows):
        part = convert(samples[top : top + rows])
        if top == 0:
            found = np.empty((len(samples), *part.shape[1:]), part.dtype)
        found[top : top + rows] = part
    return found


def _from_lightness(lightness: np.ndarray) -> np.ndarray:
    """Convert L*, or what it is for X and Z, to the fraction of white's light (CIE 15)."""
    root = (lightness + 16) / 116
    return np.where(root > 6 / 29, root**3, 3 * (6 / 29) ** 2 * (root - 4 / 29))


def lab_to_srgb(samples: np.ndarray, icc: bool, white: np.ndarray | None) -> np.ndarray:
    """Convert CIELAB of a TIFF, `H W 3` of 8 or 16 bits, to sRGB of as many.

    Args:
        samples: L* over the whole range; a* and b* in whole numbers at 8 bits, 256ths at 16.
        icc: encoded as ICC profiles do (a* and b* from -128, L* 100 at 65280 of 65535), not signed.
        white: X Y Z of L* 100; D50 if None.
    """
    white = _D50 if white is None else white
    cones = _CONES @ white, _CONES @ _D65
    adapted = np.linalg.inv(_CONES) @ np.diag(cones[1] / cones[0]) @ _CONES
    matrix = (_FROM_XYZ @ adapted @ np.diag(white)).astype(np.float32)
    matrix /= matrix.sum(1, keepdims=True)  # white is white to the last digit
    deep = samples.dtype == np.uint16
    unit = 256 if deep else 1

    def convert(part: np.ndarray) -> np.ndarray:
        top = 65280 if icc and deep else 65535 if deep else 255
        lightness = part[..., 0].astype(np.float32) * np.float32(100 / top)
        signed = part[..., 1:].view(np.int16 if deep else np.int8).astype(np.float32)
        a, b = np.moveaxis(part[..., 1:] / np.float32(unit) - 128 if icc else signed / unit, -1, 0)
        axes = (lightness + a * 0.232, lightness, lightness - b * 0.58)  # 116 / 500, 116 / 200
        encoded = _encoded(np.stack([_from_lightness(axis) for axis in axes], -1) @ matrix.T)
        return _sixteen(encoded) if deep else np.rint(encoded * 255).astype(np.uint8)

    return in_strips(convert, samples)
