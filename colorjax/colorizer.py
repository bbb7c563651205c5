"""Weights and a photograph of any size → the photograph in colour, its lightness untouched.

The network sees a copy of about working size × working size pixels; the colour it predicts is
scaled up bicubically and joined to the photograph's own lightness at its own resolution, piece by
piece, so memory does not depend on what the network would need for all of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from math import log
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from colorjax import checkpoint, color, hints, model, palette
from colorjax.checkpoint import DEFAULT_WEIGHTS
from colorjax.hints import Hint
from colorjax.model import NetworkConfig, Params
from colorjax.palette import AS_PREDICTED, Decoding

_PIECE = 1 << 16  # pixels joined with their colour at a time: one compiled program for any size
_STRETCH = 1.1  # how far a picture's aspect may be changed to fill a working shape


@cache
def working_shapes(size: int, stride: int) -> tuple[tuple[int, int], ...]:
    """Choose nine shapes, rows and columns, of about `size`² pixels, aspects from 1:3 to 3:1.

    Nine shapes keep compilations few. Every picture of a batch has the same shape, so none is
    padded to fit another. Sides are multiples of `stride`. The search weighs an error of aspect
    three times an error of area.
    """

    def shape(aspect: float) -> tuple[int, int]:
        def error(shape: tuple[int, int]) -> float:
            rows, columns = shape
            return 3 * abs(log(columns / rows / aspect)) + abs(log(rows * columns / size**2))

        sides = range(stride, 2 * size + 2 * stride, stride)
        near = (
            (side, max(1, round(side * aspect / stride) + more) * stride)
            for side in sides
            for more in (-1, 0, 1)
        )
        return min(near, key=error)

    wide = [shape(3 ** (step / 4)) for step in range(5)]
    return (*wide, *((columns, rows) for rows, columns in wide[1:]))


@cache
def _lightness_of_bytes() -> np.ndarray:
    """Compute the lightness of the 256 grey values: a look-up saves a third of joining's time."""
    with jax.ensure_compile_time_eval():  # the first call comes while a function is traced
        return np.asarray(jax.jit(color.grey_lightness)(np.arange(256, dtype=np.float32) / 255))


@jax.jit
def _lightness(pixels: jax.Array) -> jax.Array:
    """Compute the lightness `N` of pixels `N` (grey) or `N 3`, uint8 or uint16."""
    if pixels.ndim == 1 and pixels.dtype == jnp.uint8:
        return jnp.take(_lightness_of_bytes(), pixels.astype(jnp.int32), mode="clip")
    values = pixels.astype(jnp.float32) / jnp.iinfo(pixels.dtype).max
    return color.lightness(values) if values.ndim == 2 else color.grey_lightness(values)


@partial(jax.jit, static_argnums=(1, 3))
def _predict(
    params: Params, network: NetworkConfig, lightness: jax.Array, dtype: str, decoding: Decoding
) -> tuple[jax.Array, model.Prediction]:
    """Predict ab `B h w 2` from lightness `B H W`, beside all that the network says."""
    prediction = model.predict(params, network, lightness, jnp.dtype(dtype))
    return palette.decode(prediction.output, network.head, decoding), prediction


_softmax, _entropy = jax.jit(jax.nn.softmax), jax.jit(palette.entropy)


@dataclass(frozen=True)
class Analysis:
    """What the network says of one photograph; hints start from it, as often as they change."""

    lightness: np.ndarray  # rows columns, of the network's copy, L* in 0…100
    content_fraction: tuple[float, float]  # shares of its rows and columns that the picture fills
    ab: np.ndarray  # h w 2, automatic
    output: np.ndarray  # of the network, that `palette.decode` makes ab of
    features: np.ndarray  # h w C
    labels: np.ndarray | None  # logits, of the network's labels; None where it has none

    @cached_property
    def probabilities(self) -> np.ndarray | None:
        """Compute the probabilities of the bins, `h w 261`; None from a network without."""
        return np.asarray(_softmax(self.output)) if self.output.shape[-1] == model.BINS else None

    @cached_property
    def confidence(self) -> np.ndarray | None:
        """Measure how sure the network is, `h w` in 0 (all bins alike) … 1 (one); None without."""
        return None if self.probabilities is None else 1 - np.asarray(_entropy(self.output))

    @cached_property
    def spread(self) -> np.ndarray | None:
        """Compute the standard deviation of the predicted distribution in ab, `h w`."""
        if self.probabilities is None:
            return None
        bins = palette.bins()
        mean = self.probabilities @ bins
        squares = self.probabilities @ (bins**2).sum(axis=1)
        return np.sqrt(np.maximum(squares - (mean**2).sum(axis=-1), 0))

    def with_hints(
        self, image: np.ndarray, ab: np.ndarray, given: Sequence[Hint], reach: float = 1.0
    ) -> np.ndarray:
        """Add hints to the photograph's automatic colour `h w 2`, which may be corrected already.

        Raises:
            hints.HintError: a hint lies outside the image.
        """
        if not given:
            return ab
        seen = self.lightness, self.features, self.spread
        return hints.apply(ab, *seen, given, image, self.content_fraction, reach)


@jax.jit
def _join(pixels: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Join pixels `N` (grey) or `N 3`, uint8 or uint16, with a and b `N`: `N 3` of their type."""
    rgb = color.fit_gamut(jnp.stack([_lightness(pixels), a, b], axis=-1))
    return jnp.round(jnp.iinfo(pixels.dtype).max * rgb).astype(pixels.dtype)


class Colorizer:
    """A trained network, ready to colour photographs.

    Example:
        colorizer = Colorizer.load()
        rgb = colorizer(grey)  # uint8 H W → uint8 H W 3
    """

    def __init__(self, params: Params, network: NetworkConfig, decoding: Decoding = AS_PREDICTED):
        """Hold parameters, the network they belong to, and how its output becomes colour.

        Raises:
            ValueError: a value of the decoding is out of range.
        """
        decoding.check()
        self.params, self.network, self.decoding = params, network, decoding
        self.dtype = "bfloat16" if jax.default_backend() == "gpu" else "float32"

    @classmethod
    def load(cls, weights: str | Path | None = None, **changes: float | None) -> "Colorizer":
        """Read a file of weights, those that come with the package unless another is named.

        Args:
            weights: a `.safetensors` file that `train.py` wrote.
            changes: values of `palette.Decoding` in place of the file's; None changes nothing.

        Raises:
            checkpoint.WeightsError: the file is no such weights, or a value is out of range, or
                the network lacks the bins that it is about.
        """
        path = Path(DEFAULT_WEIGHTS if weights is None else weights)
        params, network, decoding = checkpoint.load(path)
        changes = {name: value for name, value in changes.items() if value is not None}
        if network.head == "ab" and not changes.keys().isdisjoint(("temperature", "rarity_power")):
            raise checkpoint.WeightsError(
                f"{path} has no bins, hence no temperature or rarity to "
                "set: its network predicts ab itself"
            )
        try:
            return cls(params, network, replace(decoding, **changes))
        except ValueError as error:
            raise checkpoint.WeightsError(f"{path}: {error}") from None

    def __call__(
        self,
        image: np.ndarray,
        hints: Sequence[Hint] = (),
        *,
        reach: float = 1.0,
        analysis: Analysis | None = None,
    ) -> np.ndarray:
        """Colour a photograph.

        Args:
            image: grey `H W` or sRGB `H W 3`, uint8 or uint16, of any size from 1 × 1 up. A
                colour image's own colour is ignored.
            hints: colours that are known, in pixels of the image.
            reach: how far hints carry that say nothing of it, times what is usual.
            analysis: of this image, as `analyze` gives it: saves the network's time.

        Returns:
            sRGB `H W 3` of the same type, at the same size, every pixel of the input's lightness.

        Raises:
            ValueError: the array has another shape or type, or no pixels; a hint lies outside it.
        """
        image = np.asarray(image)
        analysis = analysis or self.analyze(image)
        ab = analysis.with_hints(image, analysis.ab, hints, reach)
        return self.merge(image, ab, analysis.content_fraction)

    def analyze(self, image: np.ndarray) -> Analysis:
        """Run the network once on a photograph."""
        lightness, content_fraction = self.to_network_input(image)
        ab, prediction = jax.device_get(self._predict(lightness[None]))
        output, labels, features = jax.tree.map(lambda array: array[0], prediction)
        return Analysis(lightness, content_fraction, ab[0], output, features, labels)

    def suggest(
        self, image: np.ndarray, x: float, y: float, analysis: Analysis | None = None
    ) -> list[str]:
        """Suggest the five likeliest different colours of a place, at its own lightness: "#rrggbb".

        Args:
            image: as for `__call__`.
            x: in pixels of the image, from its left.
            y: from its top.
            analysis: of this image, as `analyze` gives it: saves the network's time.

        Raises:
            hints.HintError: the place lies outside the image.
            ValueError: the network has no bins.
        """
        image = np.asarray(image)
        hints.check_inside([Hint(x, y, "#000000")], *image.shape[:2])
        analysis = analysis or self.analyze(image)
        if analysis.probabilities is None:
            raise ValueError("these weights have no bins, hence nothing to suggest")
        (height, width), fill = analysis.ab.shape[:2], analysis.content_fraction
        row = min(int((y + 0.5) / image.shape[0] * fill[0] * height), height - 1)
        column = min(int((x + 0.5) / image.shape[1] * fill[1] * width), width - 1)
        near = slice(max(0, row - 1), row + 2), slice(max(0, column - 1), column + 2)
        pixel = image[int(y), int(x)][None]
        lightness = float(hints.lightness_of(pixel)[0])
        return hints.suggest(analysis.probabilities[near].mean((0, 1)), lightness)

    def to_network_input(self, image: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
        """Shrink an image for the network: the first of three parts of `__call__`, to be batched.

        Returns:
            Lightness of the network's copy, `rows columns`, L* in 0…100, of one of nine shapes;
            and the fractions of its rows and columns that the picture fills.
        """
        image = np.asarray(image)
        if image.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"image is {image.dtype}: it must be uint8 or uint16")
        if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or not image.size:
            raise ValueError(f"image has the shape {image.shape}: it must be H W or H W 3")
        height, width = image.shape[:2]
        shapes = working_shapes(self.decoding.working_size, self.network.stride)
        rows, columns = min(shapes, key=lambda s: abs(log(s[1] / s[0] * height / width)))
        # Where filling all of it would stretch the picture by more, the rest repeats the border.
        stretch = columns / rows * height / width
        inner = (
            max(1, round(min(rows, rows * _STRETCH * stretch))),
            max(1, round(min(columns, columns * _STRETCH / stretch))),
        )
        small = image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)
        small = Image.fromarray(np.ascontiguousarray(small))
        small = small.resize((inner[1], inner[0]), Image.Resampling.BICUBIC, reducing_gap=3)
        padding = ((0, rows - inner[0]), (0, columns - inner[1]), (0, 0))[: image.ndim]
        small = np.pad(np.asarray(small), padding, mode="edge")
        pixels = small.reshape(-1, *small.shape[2:])
        lightness = color.in_pieces(_lightness, max(a * b for a, b in shapes), pixels)
        return lightness.reshape(rows, columns), (inner[0] / rows, inner[1] / columns)

    def _predict(self, lightness: np.ndarray) -> tuple[jax.Array, model.Prediction]:
        return _predict(self.params, self.network, lightness, self.dtype, self.decoding)

    def predict(self, lightness: np.ndarray) -> np.ndarray:
        """Run the network on copies of one shape: the second part.

        `B rows columns` as `to_network_input` gives them → ab `B h w 2`.
        """
        return np.asarray(self._predict(lightness)[0])

    def explain(self, analysis: Analysis) -> dict[str, float]:
        """Classify what a photograph shows: labels → probabilities, the likeliest first.

        Raises:
            ValueError: the network has learned no labels.
        """
        if analysis.labels is None:
            raise ValueError("these weights have learned no labels")
        found = np.asarray(_softmax(analysis.labels))
        return {self.network.labels[place]: float(found[place]) for place in np.argsort(-found)}

    def merge(
        self, image: np.ndarray, ab: np.ndarray, content_fraction: tuple[float, float]
    ) -> np.ndarray:
        """Scale ab `h w 2` up and join it to the image's lightness, in strips: the third part."""
        height, width = image.shape[:2]
        box = content_fraction[0] * ab.shape[0], content_fraction[1] * ab.shape[1]
        out = np.empty((height, width, 3), image.dtype)
        planes = [Image.fromarray(np.ascontiguousarray(ab[..., i])) for i in range(2)]
        strip = max(1, 4 * _PIECE // width)
        for top in range(0, height, strip):
            rows = min(strip, height - top)
            window = (0, box[0] * top / height, box[1], box[0] * (top + rows) / height)
            a, b = (
                np.asarray(p.resize((width, rows), Image.Resampling.BICUBIC, window)).ravel()
                for p in planes
            )
            pixels = image[top : top + rows].reshape(-1, *image.shape[2:])
            coloured = color.in_pieces(_join, _PIECE, pixels, a, b)
            out[top : top + rows] = coloured.reshape(rows, width, 3)
        return out


def neutral(analysis: Analysis) -> np.ndarray:
    """Shift ab `h w 2` so that the mean of the photograph's lightest tenth is neutral."""
    ab, (height, width) = analysis.ab, analysis.ab.shape[:2]
    light = analysis.lightness.reshape(height, len(analysis.lightness) // height, width, -1)
    filled = tuple(
        slice(max(1, round(fraction * side)))
        for fraction, side in zip(analysis.content_fraction, (height, width), strict=True)
    )
    light, colors = light.mean((1, 3))[filled], ab[filled]
    return ab - colors[light >= np.quantile(light, 0.9)].mean(axis=0)


def confidence_map(analysis: Analysis, height: int, width: int) -> np.ndarray:
    """Scale how sure the network is to the photograph's size: uint8 `height width`.

    Black is no idea, white is sure of one colour.

    Raises:
        ValueError: the network has no bins.
    """
    if analysis.confidence is None:
        raise ValueError("these weights have no bins, and do not say how sure they are")
    rows, columns = analysis.confidence.shape
    filled = analysis.content_fraction
    box = (0.0, 0.0, filled[1] * columns, filled[0] * rows)
    plane = Image.fromarray(np.float32(255) * analysis.confidence)
    scaled = plane.resize((width, height), Image.Resampling.BICUBIC, box)
    return np.clip(np.round(np.asarray(scaled)), 0, 255).astype(np.uint8)
