"""What a run is measured on: photographs it does not learn from, and two answers to beat.

And what is chosen on them after training: how vivid the colours of a network shall be.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from colorjax import color, metrics, palette, step
from colorjax.color import Array
from colorjax.data import Pool
from colorjax.model import Params

# Powers of the rarity weights that the network's probabilities are multiplied by, to choose among.
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
# What rare colours may cost at the colourfulness wanted, in dB.
_WORTH = 0.05
MOST_SATURATION = 4.0
# In points of AuC. At 10, multiplying the colours by 1.6 would count as better by more than
# adversarial training makes them; at 4 it costs as much AuC as it brings.
FULL_COLOR = 4.0
_BATCH = 64


@dataclass(frozen=True)
class Measured:
    """A network on the validation photographs. PSNR is in RGB, in dB, a mean over them."""

    samples: np.ndarray  # the first photographs, calibrated: sRGB `n S S 3` in 0…1
    validation_loss: float  # of the colours
    psnr: float  # of the colours as predicted
    psnr_calibrated: float  # at the share of the truth's colourfulness that was asked for
    colorfulness: float  # of the colours as predicted, as a share of the truth's
    rarity: float  # these two reach the share asked for: a power of the rarity weights,
    saturation: float  # and a factor on the colours
    auc: float  # of the colours as predicted, in %, at the network's output size
    label_accuracy: float | None  # share of the labelled ones whose label is found
    label_chance: float | None  # of always saying the most frequent one
    psnr_grey: float  # of no colour at all
    psnr_constant: float  # of one colour everywhere

    def figures(self) -> dict[str, float]:
        """All that there are but the samples, to five digits."""
        return {
            name: float(f"{value:.5g}")
            for name, value in vars(self).items()
            if name != "samples" and value is not None
        }

    def badness(self, adversarial: bool) -> float:
        """By which the best of a run's weights are chosen: the lower, the better.

        The loss; once there is a critic, the colours as people take them: colourfulness as far
        from the truth's as all of that is worth `FULL_COLOR` points of AuC.
        """
        if not adversarial:
            return self.validation_loss
        return FULL_COLOR * abs(1 - self.colorfulness) - self.auc


class Validation:
    """Held-out photographs, centre-cropped to the training size; lightness is the true one."""

    def __init__(
        self,
        config: step.StepConfig,
        pool: Pool,
        rows: np.ndarray,
        constant_ab: np.ndarray,
        rarity: Array,
        share: float = 0.0,
        labels: np.ndarray | None = None,
    ):
        """Take photographs, and measure the two answers that need no network.

        Args:
            config: network and size.
            pool: where the photographs are.
            rows: which of them, at least one.
            constant_ab: one ab for everything, of shape 2: the training photographs' mean.
            rarity: weights of the bins, `261`, of the training photographs.
            share: of the truth's colourfulness, that `measure` calibrates to; 0 leaves the
                colours as predicted.
            labels: of all photographs of the pool, as `batches.label_numbers` gives them.
        """
        self._labels = np.full(len(rows), -1) if labels is None else labels[rows]
        self._config, self._rarity, self._share = config, np.asarray(rarity), share
        self.count = len(rows)
        batch = min(self.count, _BATCH)
        # The last batch is filled up, so that one compiled program serves all.
        filled = np.resize(rows, -(-self.count // batch) * batch)
        self._batches = [pool.images[part] for part in np.split(filled, len(filled) // batch)]
        crops = [step.centre_crops(images, config.size) for images in self._batches]
        self.truth = np.concatenate(crops)[: self.count]
        small = [step.reduced_truth(config, images) for images in self._batches]
        self._small = np.concatenate(small)[: self.count]
        self._cf_truth = max(_colorfulness(self._small, self._small[..., 1:], 1.0), 1e-3)
        self.psnr_grey = float(_psnr(self.truth, np.zeros((1, 1, 1, 2))))
        self.psnr_constant = float(_psnr(self.truth, np.reshape(constant_ab, (1, 1, 1, 2))))

    def predict(self, params: Params) -> tuple[float, np.ndarray, np.ndarray | None]:
        """The objective's mean, ab `K N h w 2` for each of the powers, and labels `N`."""
        favours = self._share and self._config.network.head == "bins"
        powers = np.array(POWERS if favours else (0.0,), np.float32)
        parts = [
            jax.device_get(step.evaluate(self._config, params, self._rarity, images, powers))
            for images in self._batches
        ]
        losses = np.concatenate([part[0] for part in parts])[: self.count]
        ab = np.concatenate([part[1] for part in parts], axis=1)[:, : self.count]
        labels = [part[2] for part in parts]
        labels = None if labels[0] is None else np.concatenate(labels)[: self.count]
        return float(losses.mean()), ab, labels

    def measure(self, params: Params, samples: int = 0) -> Measured:
        """Measure a network, calibrate its colours, and show so many samples of them.

        Raises:
            FloatingPointError: its colours are not finite numbers.
        """
        loss, ab, labels = self.predict(params)
        if not (np.isfinite(loss) and np.isfinite(ab).all()):
            raise FloatingPointError("the network's colours are not finite")
        power, saturation = self._calibrate(ab) if self._share else (0, 1.0)
        calibrated = saturation * ab[power]
        shown = _coloured(self.truth[:samples], calibrated[:samples])
        return Measured(
            samples=np.asarray(shown),
            validation_loss=loss,
            psnr=float(_psnr(self.truth, ab[0])),
            psnr_calibrated=float(_psnr(self.truth, calibrated)),
            colorfulness=float(_colorfulness(self._small, ab[0], 1.0) / self._cf_truth),
            rarity=POWERS[power],
            saturation=saturation,
            auc=float(metrics.auc(np.sum([*map(_distances, self._small, ab[0])], axis=0))),
            **self._labelled(labels),
            psnr_grey=self.psnr_grey,
            psnr_constant=self.psnr_constant,
        )

    def _labelled(self, answers: np.ndarray | None) -> dict[str, float | None]:
        known = self._labels >= 0
        if answers is None or not known.any():
            return {"label_accuracy": None, "label_chance": None}
        right = (answers == self._labels)[known].mean()
        most = np.bincount(self._labels[known]).max() / known.sum()
        return {"label_accuracy": float(right), "label_chance": float(most)}

    def _calibrate(self, ab: np.ndarray) -> tuple[int, float]:
        """The power, and saturation for it, that favours rare colours at no more than 0.05 dB.

        It is the highest whose error at the colourfulness wanted is as near as that to the least
        of all. Saturation is found by bisection of the mean absolute colourfulness, at the
        network's output size; it stays within 4. A network that knows nothing yet would exceed
        that with every power: the answer is then the first power, and 4.
        """
        wanted, found = self._share * self._cf_truth, []
        for index, answer in enumerate(ab):
            low, high = 0.0, MOST_SATURATION
            for _ in range(14):
                middle = (low + high) / 2
                below = _colorfulness(self._small, answer, middle) < wanted
                low, high = (middle, high) if below else (low, middle)
            if high < MOST_SATURATION:
                found.append((float(_error(self._small, answer, high)), index, high))
        if not found:
            return 0, MOST_SATURATION
        least = min(found)[0]
        return max((index, high) for error, index, high in found if error <= least + _WORTH)


@jax.jit
def _psnr(truth: jax.Array, ab: jax.Array) -> jax.Array:
    """Mean PSNR of ab `N h w 2` or `1 1 1 2`, one picture after another, which bounds memory.

    A photograph counts 60 at most: an all-black one would be infinite.
    """

    def of_one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        return metrics.psnr(_coloured(pair[0][None], pair[1][None])[0], pair[0])

    ab = jnp.broadcast_to(ab, (len(truth), *ab.shape[1:]))
    return jnp.minimum(jax.lax.map(of_one, (truth, ab)), 60).mean()


def _coloured(truth: Array, ab: Array) -> jax.Array:
    return step.colour_up(color.lightness(truth), ab)


def _fitted(lab: jax.Array, ab: jax.Array, saturation: jax.Array) -> jax.Array:
    return color.fit_gamut(jnp.concatenate([lab[..., :1], saturation * ab], axis=-1))


@jax.jit
def _colorfulness(lab: jax.Array, ab: jax.Array, saturation: jax.Array) -> jax.Array:
    """Mean absolute colourfulness of ab times a saturation, at the lightness of `lab`."""
    return color.colorfulness(_fitted(lab, ab, saturation), absolute=True).mean()


def _distances(lab: np.ndarray, ab: np.ndarray) -> np.ndarray:
    """The distance histogram of a picture's ab against `lab`, by which AuC is measured: float64."""
    return np.asarray(_distance_histogram(lab, ab), np.float64)


@jax.jit
def _distance_histogram(lab: jax.Array, ab: jax.Array) -> jax.Array:
    fitted = color.rgb_to_lab(_fitted(lab, ab, jnp.float32(1)))
    return metrics.distance_histogram(fitted[..., 1:], lab[..., 1:])


@jax.jit
def _error(lab: jax.Array, ab: jax.Array, saturation: jax.Array) -> jax.Array:
    """Minus the mean PSNR of ab times a saturation against `lab`, in dB."""
    psnr = metrics.psnr(_fitted(lab, ab, saturation), color.fit_gamut(lab))
    return -jnp.minimum(psnr, 60).mean()


@jax.jit
def _colours_of(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A picture `S S 3` of uint8 → its mean ab, and how many of its pixels each bin has."""
    ab = color.rgb_to_lab(image / 255.0)[..., 1:]
    return ab.mean((0, 1)), palette.histogram(ab)


def colours(pool: Pool, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colours of up to 4,096 photographs, evenly spread over the rows.

    Returns:
        Their mean ab, of shape 2, and their pixels in each bin, `261`.
    """
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), 4096)).astype(int)]
    means, histograms = zip(*(_colours_of(pool.images[row]) for row in some), strict=True)
    return np.mean(means, axis=0), np.sum(histograms, axis=0)
