"""What a run is measured on: photographs it does not learn from, and two answers to beat."""

import jax
import jax.numpy as jnp
import numpy as np

from colorjax import color, metrics, step
from colorjax.data import Pool
from colorjax.model import Params


class Validation:
    """Held-out photographs, centre-cropped to the training size; lightness is the true one."""

    def __init__(
        self, config: step.StepConfig, pool: Pool, rows: np.ndarray, constant_ab: np.ndarray
    ):
        """Take photographs, and measure the two answers that need no network.

        Args:
            config: network and size.
            pool: where the photographs are.
            rows: which of them, at least one.
            constant_ab: one ab for everything, of shape 2: the training photographs' mean.
        """
        self._config, self.count = config, len(rows)
        batch = min(self.count, 64)
        # The last batch is filled up, so that one compiled program serves all.
        filled = np.resize(rows, -(-self.count // batch) * batch)
        self._batches = [pool.images[part] for part in np.split(filled, len(filled) // batch)]
        crops = [step.centre_crops(images, config.size) for images in self._batches]
        self.truth = np.concatenate(crops)[: self.count]
        self.psnr_grey = self.psnr(self._constant(np.zeros(2)))
        self.psnr_constant = self.psnr(self._constant(constant_ab))

    def _constant(self, ab: np.ndarray) -> jax.Array:
        lightness = color.lightness(jnp.asarray(self.truth))
        everywhere = jnp.broadcast_to(jnp.asarray(ab, jnp.float32), (self.count, 1, 1, 2))
        return step.colour_up(lightness, everywhere)

    def predict(self, params: Params) -> np.ndarray:
        """The photographs in the network's colours: sRGB `N S S 3` in 0…1, of 8-bit steps."""
        parts = [step.predict(self._config, params, images) for images in self._batches]
        return np.concatenate(parts)[: self.count]

    def psnr(self, prediction: np.ndarray | jax.Array) -> float:
        """Mean over the photographs of PSNR in RGB, in dB.

        A photograph counts 60 at most, which is about rounding's own: an all-black one is infinite.
        """
        each = metrics.psnr(jnp.asarray(prediction), jnp.asarray(self.truth))
        return float(jnp.minimum(each, 60).mean())


def mean_ab(pool: Pool, rows: np.ndarray) -> np.ndarray:
    """The mean ab, of shape 2, of up to a thousand photographs spread over the rows."""
    some = rows[:: max(1, len(rows) // 1000)][:1000]
    mean = jax.jit(lambda image: color.rgb_to_lab(image / 255.0).mean((0, 1)))
    return np.mean([mean(pool.images[row]) for row in some], axis=0)[1:]
