"""Weights and a photograph of any size → the photograph in colour, its lightness untouched.

The network sees a copy of about working size × working size pixels; the colour it predicts is
scaled up bicubically and joined to the photograph's own lightness at its own resolution, piece by
piece, so memory does not depend on what the network would need for all of it.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from colorjax import checkpoint, color, model
from colorjax.model import NetworkConfig, Params

DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "colorjax.safetensors"

_PIECE = 1 << 18  # pixels joined with their colour at a time: one compiled program for any size
_WIDEST = 3.0  # aspect ratio up to which a picture's shape has a working shape of its own


def working_shape(height: int, width: int, size: int, stride: int) -> tuple[int, int]:
    """The working shape nearest in aspect to a picture: one of nine of about `size`² pixels.

    So few shapes mean few compilations, and a picture's surroundings in a batch never matter.
    Rows and columns are multiples of `stride`.
    """
    step = _WIDEST ** (1 / 4)
    index = int(np.clip(np.round(np.log(width / height) / np.log(step)), -4, 4))
    ratio = step**index
    rows, columns = (max(1, round(side / stride)) * stride for side in
                     (size / ratio**0.5, size * ratio**0.5))  # fmt: skip
    return rows, columns


@partial(jax.jit, static_argnums=(1, 3))
def _predict(params: Params, network: NetworkConfig, pictures: jax.Array, dtype: str) -> jax.Array:
    """Pictures `B H W` (grey) or `B H W 3` of uint8 → ab `B h w 2`."""
    values = pictures / 255.0
    lightness = color.lightness(values) if values.ndim == 4 else color.grey_lightness(values)
    return model.apply(params, network, lightness, jnp.dtype(dtype))


@jax.jit
def _join(pixels: jax.Array, ab: jax.Array) -> jax.Array:
    """Pixels `N` (grey) or `N 3`, uint8 or uint16, with ab `N 2` → `N 3` of the same type."""
    top = jnp.iinfo(pixels.dtype).max
    values = pixels.astype(jnp.float32) / top
    lightness = color.lightness(values) if values.ndim == 2 else color.grey_lightness(values)
    rgb = color.fit_gamut(jnp.concatenate([lightness[:, None], ab], axis=-1))
    return jnp.round(top * rgb).astype(pixels.dtype)


class Colorizer:
    """A trained network, ready to colour photographs.

    Example:
        colorizer = Colorizer.load()
        rgb = colorizer(grey)  # uint8 H W → uint8 H W 3
    """

    def __init__(self, params: Params, network: NetworkConfig, working_size: int = 64):
        """Hold parameters and the network they belong to.

        Args:
            params: as `model.init` or `checkpoint.load_weights` give them.
            network: their configuration.
            working_size: side in pixels of the square whose area the network's copy has.
        """
        if not 16 <= working_size <= 2048:
            raise ValueError(f"working size is {working_size}: it must be from 16 to 2048")
        self.params, self.network, self.working_size = params, network, working_size
        self.dtype = "bfloat16" if jax.default_backend() == "gpu" else "float32"

    @classmethod
    def load(cls, weights: str | Path | None = None, working_size: int | None = None):
        """Read a file of weights, those that come with the package unless another is named.

        Args:
            weights: a `.safetensors` file that `train.py` wrote.
            working_size: see `__init__`; the size the weights were trained at unless given.

        Raises:
            checkpoint.WeightsError: the file is not one of this project's weights.
            ValueError: the working size is out of range.
        """
        path = Path(DEFAULT_WEIGHTS if weights is None else weights)
        header, summary = checkpoint.read_header(path)
        try:
            network = NetworkConfig(**header)
        except (TypeError, ValueError) as error:
            raise checkpoint.WeightsError(f"{path} holds another network: {error}") from None
        shapes = model.shapes(network)
        params = checkpoint.load_weights(path, shapes)
        size = summary.get("size")
        trained = size if isinstance(size, int) and 16 <= size <= 2048 else 64
        return cls(params, network, trained if working_size is None else working_size)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Colour a photograph.

        Args:
            image: grey `H W` or sRGB `H W 3`, uint8 or uint16, of any size from 1 × 1 up. A
                colour image's own colour is ignored.

        Returns:
            sRGB `H W 3` of the same type, at the same size, every pixel of the input's lightness.

        Raises:
            ValueError: the array has another shape or type, or no pixels.
        """
        image = np.asarray(image)
        if image.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"image is {image.dtype}: it must be uint8 or uint16")
        if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or not image.size:
            raise ValueError(f"image has the shape {image.shape}: it must be H W or H W 3")
        ab, box = self._ab(image)
        return self._full_resolution(image, ab, box)

    def _ab(self, image: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
        """Predicted ab `h w 2`, and how many of its rows and columns the picture fills."""
        height, width = image.shape[:2]
        rows, columns = working_shape(height, width, self.working_size, self.network.stride)
        inner = _inside(height, width, rows, columns)
        small = image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)
        small = Image.fromarray(np.ascontiguousarray(small))
        small = small.resize((inner[1], inner[0]), Image.Resampling.BICUBIC, reducing_gap=3)
        padding = ((0, rows - inner[0]), (0, columns - inner[1]), (0, 0))[: image.ndim]
        small = np.pad(np.asarray(small), padding, mode="edge")
        ab = np.asarray(_predict(self.params, self.network, small[None], self.dtype))[0]
        return ab, (inner[0] / rows * ab.shape[0], inner[1] / columns * ab.shape[1])

    def _full_resolution(
        self, image: np.ndarray, ab: np.ndarray, box: tuple[float, float]
    ) -> np.ndarray:
        """Scale ab up to the image and join it to the image's lightness, strip by strip."""
        height, width = image.shape[:2]
        out = np.empty((height, width, 3), image.dtype)
        planes = [Image.fromarray(np.ascontiguousarray(ab[..., i])) for i in range(2)]
        strip = max(1, _PIECE // width)
        for top in range(0, height, strip):
            rows = min(strip, height - top)
            window = (0, box[0] * top / height, box[1], box[0] * (top + rows) / height)
            scaled = [
                np.asarray(p.resize((width, rows), Image.Resampling.BICUBIC, window))
                for p in planes
            ]
            colours = np.stack(scaled, axis=-1).reshape(-1, 2)
            pixels = image[top : top + rows].reshape(-1, *image.shape[2:])
            joined = [
                _join_piece(pixels[start : start + _PIECE], colours[start : start + _PIECE])
                for start in range(0, len(pixels), _PIECE)
            ]
            out[top : top + rows] = np.concatenate(joined).reshape(rows, width, 3)
        return out


def _inside(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """The part of a working shape that a picture fills: all of it, unless it is far longer."""
    aspect = width / height
    if aspect > _WIDEST**1.125:
        return max(1, round(columns / aspect)), columns
    if aspect < _WIDEST**-1.125:
        return rows, max(1, round(rows * aspect))
    return rows, columns


def _join_piece(pixels: np.ndarray, colours: np.ndarray) -> Any:
    """`_join` on a piece filled up to the fixed length."""
    count = len(pixels)
    pixels = np.pad(pixels, ((0, _PIECE - count), *((0, 0),) * (pixels.ndim - 1)))
    colours = np.pad(colours, ((0, _PIECE - count), (0, 0)))
    return np.asarray(_join(pixels, colours))[:count]
