"""Colour without flicker: a film's ab, filtered over time where its lightness stands still."""

import numpy as np

# Chosen with benchmarks/flicker.py: how much of a new colour a still place takes, and the change
# of lightness at which it takes most of it.
LEAST, CHANGE = 0.1, 6.0
# Share of pixels that change place in a histogram of lightness, beyond which it is another scene:
# within the films that flicker.py was run on at most 0.10, between them 0.20 and more.
CUT = 0.16


def moved(previous: np.ndarray, lightness: np.ndarray) -> float:
    """How many pixels change place in a histogram of lightness, 0…1; of two `rows columns`.

    As they are, or both brought to the same mean, whichever is less: an old projector's brightness
    flickers.
    """
    pairs = (previous, lightness), [x * (50 / max(x.mean(), 1)) for x in (previous, lightness)]
    apart = []
    for pair in pairs:
        shares = [np.histogram(np.clip(x, 0, 159), 40, (0, 160))[0] / x.size for x in pair]
        apart.append(float(np.abs(shares[1] - shares[0]).sum() / 2))
    return min(apart)


class Steady:
    """Filters colour over time, less where the picture changes.

    A place takes the share w = least + (1 − least) (1 − exp(−(d / change)²)) of its new colour,
    where d is how much its lightness changed beyond the median of the whole frame, which the
    flickering brightness of an old film moves; and all of it when another scene begins.
    """

    def __init__(self, least: float = LEAST, change: float = CHANGE):
        """Set the share of a still place, 0…1, where 1 filters nothing; and the change of L*."""
        self.least, self.change = least, change
        self.lightness = self.ab = np.zeros(0)

    def __call__(self, lightness: np.ndarray, ab: np.ndarray) -> np.ndarray:
        """The colour of the next frame.

        Args:
            lightness: of the network's copy, `rows columns`, L* in 0…100.
            ab: predicted for it, `h w 2`, where h and w divide rows and columns.
        """
        if self.lightness.shape != lightness.shape or moved(self.lightness, lightness) > CUT:
            self.ab = ab
        else:
            (rows, columns), change = ab.shape[:2], lightness - self.lightness
            change -= np.median(change)
            change = change.reshape(rows, len(change) // rows, columns, -1).mean((1, 3))
            share = 1 - (1 - self.least) * np.exp(-((change / self.change) ** 2))
            self.ab = self.ab + share[..., None] * (ab - self.ab)
        self.lightness = lightness
        return self.ab
