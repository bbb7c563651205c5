"""Photographs that a run does not learn from: its network is measured and calibrated on them.

Calibration decides how vivid the network's colours are. Two answers need no network, and are to be
beaten: grey, and one colour everywhere.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from colorjax import color, loss, metrics, palette, step
from colorjax.color import Array
from colorjax.config import TrainConfig
from colorjax.data import Pool
from colorjax.model import Params
from colorjax.palette import Decoding

MAX_SATURATION = 4.0
_BATCH = 64


@dataclass(frozen=True)
class Measured:
    """A network on the validation photographs. PSNR is in RGB, in dB, a mean over them."""

    samples: np.ndarray  # the first photographs, calibrated: sRGB `n S S 3` in 0…1
    decoding: Decoding  # brings the colours to the colourfulness that was asked for
    validation_loss: float  # of the colours, as training minimises it
    psnr: float  # of the colours as predicted
    psnr_calibrated: float  # of the colours so decoded
    colorfulness: float  # of the colours as predicted, as a fraction of the truth's
    auc: float  # of the colours as predicted, in %, at the network's output size
    label_accuracy: float | None  # fraction of the labelled ones whose label is found
    label_chance: float | None  # of always saying the most frequent one
    psnr_grey: float  # of no colour at all
    psnr_constant: float  # of one colour everywhere

    def figures(self) -> dict[str, float]:
        """List all the numbers, to five digits."""
        values = vars(self) | {"saturation": self.decoding.saturation}
        return {
            name: float(f"{value:.5g}")
            for name, value in values.items()
            if name not in ("samples", "decoding") and value is not None
        }


def selection_score(measured: Measured) -> float:
    """How good weights are; a run keeps those of the highest score."""
    return -measured.validation_loss


def upsample_and_merge(lightness: Array, ab: Array) -> jax.Array:
    """Merge lightness `B H W` and ab `B h w 2`, scaled up bicubically: sRGB `B H W 3`, 8 bits."""
    ab = jax.image.resize(ab, (*lightness.shape, 2), "cubic")
    lab = jnp.concatenate([lightness[..., None], ab], axis=-1)
    return jnp.round(255 * color.fit_gamut(lab)) / 255


def centre_crops(images: Array, size: int) -> jax.Array:
    """Crop the centre of `B S S 3` uint8: `B size size 3` in 0…1."""
    start = (images.shape[1] - size) // 2
    return jnp.asarray(images[:, start : start + size, start : start + size], jnp.float32) / 255


@partial(jax.jit, static_argnums=0)
def evaluate(
    config: TrainConfig, params: Params, bin_weights: jax.Array, images: Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Run the network on the centre crops of `B S S 3` uint8 pictures.

    Returns:
        Each picture's loss `B`; its ab `B h w 2` as predicted; and the number of its likeliest
        label `B`, None from a network without labels.
    """
    rgb = centre_crops(images, config.size)
    lightness = color.lightness(rgb)
    output, labels, _ = step.predict(config, params, lightness)
    label = None if labels is None else labels.argmax(-1)
    truth = step.downsampled_lab(config, lightness, rgb)
    # Without the matched error, which is of all photographs together.
    losses = loss.color_loss(config.head, output, truth, bin_weights, config.huber)
    return losses, palette.decode(output, config.head), label


@partial(jax.jit, static_argnums=0)
def downsampled_truth(config: TrainConfig, images: Array) -> jax.Array:
    """Scale centre crops of `B S S 3` uint8 down to the network's output: Lab `B h w 3`."""
    rgb = centre_crops(images, config.size)
    return step.downsampled_lab(config, color.lightness(rgb), rgb)


class Validation:
    """Held-out photographs, centre-cropped to the training size; lightness is the true one."""

    def __init__(
        self,
        config: TrainConfig,
        pool: Pool,
        rows: np.ndarray,
        constant_ab: np.ndarray,
        bin_weights: Array,
        labels: np.ndarray | None = None,
    ):
        """Take these rows of the pool, and measure the two answers that need no network.

        `constant_ab`, of shape 2, is the one colour, and `bin_weights` are `261`: both of the
        training photographs. `labels` are of all photographs of the pool. `measure` calibrates to
        `config.colorfulness`, a fraction of the truth's; 0 leaves the colours as predicted.
        """
        self._labels = np.full(len(rows), -1) if labels is None else labels[rows]
        self._config, self._bin_weights = config, np.asarray(bin_weights)
        self.count = len(rows)
        batch = min(self.count, _BATCH)
        # The last batch is filled up, so that one compiled program serves all.
        padded = np.resize(rows, -(-self.count // batch) * batch)
        self._batches = [pool.images[part] for part in np.split(padded, len(padded) // batch)]
        crops = [centre_crops(images, config.size) for images in self._batches]
        self.truth = np.concatenate(crops)[: self.count]
        small = [downsampled_truth(config, images) for images in self._batches]
        self._small = np.concatenate(small)[: self.count]
        self._cf_truth = max(_colorfulness(self._small, self._small[..., 1:], 1.0), 1e-3)
        self.psnr_grey = float(_psnr(self.truth, np.zeros((1, 1, 1, 2))))
        self.psnr_constant = float(_psnr(self.truth, np.reshape(constant_ab, (1, 1, 1, 2))))

    def predict(self, params: Params) -> tuple[float, np.ndarray, np.ndarray | None]:
        """Predict all photographs: mean loss, ab `N h w 2`, labels `N` or None."""
        parts = [
            jax.device_get(evaluate(self._config, params, self._bin_weights, images))
            for images in self._batches
        ]
        losses, ab, labels = zip(*parts, strict=True)
        named = None if labels[0] is None else np.concatenate(labels)[: self.count]
        losses, ab = (np.concatenate(arrays)[: self.count] for arrays in (losses, ab))
        return float(losses.mean()), ab, named

    def measure(self, params: Params, samples: int = 0) -> Measured:
        """Measure a network, calibrate its colours, and show so many samples of them.

        Raises:
            FloatingPointError: its colours are not finite numbers.
        """
        value, ab, labels = self.predict(params)
        if not (np.isfinite(value) and np.isfinite(ab).all()):
            raise FloatingPointError("the network's colours are not finite")
        if weight := self._config.matched:
            value += weight * float(_matched_error(ab, self._small))
        saturation = self._calibrate(ab) if self._config.colorfulness else 1.0
        calibrated = saturation * ab
        distances = [*map(_distance_histogram, self._small, ab)]
        return Measured(
            samples=np.asarray(_colored(self.truth[:samples], calibrated[:samples])),
            decoding=Decoding(
                saturation=saturation,
                bin_weights=self._bin_weights if self._config.head == "bins" else None,
                working_size=self._config.working_size,
            ),
            validation_loss=value,
            psnr=float(_psnr(self.truth, ab)),
            psnr_calibrated=float(_psnr(self.truth, calibrated)),
            colorfulness=float(_colorfulness(self._small, ab, 1.0) / self._cf_truth),
            auc=float(metrics.auc(np.sum(jax.device_get(distances), axis=0, dtype=np.float64))),
            **self._label_accuracy(labels),
            psnr_grey=self.psnr_grey,
            psnr_constant=self.psnr_constant,
        )

    def _label_accuracy(self, answers: np.ndarray | None) -> dict[str, float | None]:
        labelled = self._labels >= 0
        if answers is None or not labelled.any():
            return {"label_accuracy": None, "label_chance": None}
        right = (answers == self._labels)[labelled].mean()
        most = np.bincount(self._labels[labelled]).max() / labelled.sum()
        return {"label_accuracy": float(right), "label_chance": float(most)}

    def _calibrate(self, ab: np.ndarray) -> float:
        """Find by bisection the saturation that brings the colours to the target colourfulness.

        That is the mean absolute colourfulness at the network's output size. Multiplying chroma
        costs less PSNR than favouring rare colours does. A network that knows nothing yet gets the
        largest saturation.
        """
        target = self._config.colorfulness * self._cf_truth
        low, high = 0.0, MAX_SATURATION
        for _ in range(14):
            middle = (low + high) / 2
            below = _colorfulness(self._small, ab, middle) < target
            low, high = (middle, high) if below else (low, middle)
        return high


@jax.jit
def _matched_error(ab: jax.Array, lab: jax.Array) -> jax.Array:
    return loss.matched_error(ab, lab).mean()


@jax.jit
def _psnr(truth: jax.Array, ab: jax.Array) -> jax.Array:
    """Average the PSNR of ab `N h w 2` or `1 1 1 2`, one picture after another: less memory.

    A photograph counts 60 dB at most; an all-black one would be infinite.
    """

    def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        return metrics.psnr(_colored(pair[0][None], pair[1][None])[0], pair[0])

    ab = jnp.broadcast_to(ab, (len(truth), *ab.shape[1:]))
    return jnp.minimum(jax.lax.map(one, (truth, ab)), 60).mean()


def _colored(truth: Array, ab: Array) -> jax.Array:
    return upsample_and_merge(color.lightness(truth), ab)


def _fitted(lab: jax.Array, ab: jax.Array, saturation: jax.Array) -> jax.Array:
    return color.fit_gamut(jnp.concatenate([lab[..., :1], saturation * ab], axis=-1))


@jax.jit
def _colorfulness(lab: jax.Array, ab: jax.Array, saturation: jax.Array) -> jax.Array:
    """Average the absolute colourfulness of ab times a saturation, at the lightness of `lab`."""
    return color.colorfulness(_fitted(lab, ab, saturation), absolute=True).mean()


@jax.jit
def _distance_histogram(lab: jax.Array, ab: jax.Array) -> jax.Array:
    """Count a picture's pixels by the distance of ab from `lab`, for AuC."""
    fitted = color.rgb_to_lab(_fitted(lab, ab, jnp.float32(1)))
    return metrics.distance_histogram(fitted[..., 1:], lab[..., 1:])
