"""Colour without flicker: a film's ab, filtered over time where its lightness stands still."""

import numpy as np

# Chosen with experiments/flicker.py.
MIN_BLEND, MOTION_SCALE = 0.1, 6.0
# The histogram distance beyond which a frame belongs to another scene: within the films that
# flicker.py was run on it is at most 0.10, between them 0.20 and more.
CUT = 0.16


def histogram_distance(previous: np.ndarray, lightness: np.ndarray) -> float:
    """Measure half the L1 distance between two frames' lightness histograms: 0…1.

    Frames are `rows columns`. It is the smaller of two distances: of the frames as they are, and of
    both scaled to the same mean, since an old projector's brightness flickers.
    """
    pairs = (previous, lightness), [x * (50 / max(x.mean(), 1)) for x in (previous, lightness)]
    distances = []
    for pair in pairs:
        one, other = (np.histogram(np.clip(x, 0, 159), 40, (0, 160))[0] / x.size for x in pair)
        distances.append(float(np.abs(other - one).sum() / 2))
    return min(distances)


class TemporalFilter:
    """An exponential moving average of ab that forgets faster where lightness changes.

    The new colour's weight at each place is w = min_blend + (1 − min_blend) (1 − exp(−(d / s)²)),
    where s is `motion_scale` and d is the place's change of lightness beyond the median change of
    the whole frame, which absorbs an old film's flickering brightness. A cut begins anew.
    """

    def __init__(self, min_blend: float = MIN_BLEND, motion_scale: float = MOTION_SCALE):
        """Set up the filter before a first frame.

        Args:
            min_blend: the new colour's weight where nothing moves, 0…1; 1 filters nothing.
            motion_scale: the change of L* at which the new colour gets most of the weight.
        """
        self.min_blend, self.motion_scale = min_blend, motion_scale
        self.lightness = self.ab = np.zeros(0)

    def is_cut(self, lightness: np.ndarray) -> bool:
        """Tell whether the next frame, of this lightness, begins a scene, as the first does."""
        same_shape = self.lightness.shape == lightness.shape
        return not same_shape or histogram_distance(self.lightness, lightness) > CUT

    def __call__(self, lightness: np.ndarray, ab: np.ndarray) -> np.ndarray:
        """Filter the colour of the next frame.

        Args:
            lightness: of the network's copy, `rows columns`, L* in 0…100.
            ab: predicted for it, `h w 2`, where h and w divide rows and columns.
        """
        if self.is_cut(lightness):
            self.ab = ab
        else:
            (rows, columns), change = ab.shape[:2], lightness - self.lightness
            change -= np.median(change)
            change = change.reshape(rows, len(change) // rows, columns, -1).mean((1, 3))
            weight = 1 - (1 - self.min_blend) * np.exp(-((change / self.motion_scale) ** 2))
            self.ab = self.ab + weight[..., None] * (ab - self.ab)
        self.lightness = lightness
        return self.ab
