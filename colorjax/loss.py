"""What training minimises: pure functions of predicted and true ab, a mean over everything."""

import jax

from colorjax.model import AB_SCALE


def mean_squared_error(ab: jax.Array, target: jax.Array) -> jax.Array:
    """The paper's: mean squared error of ab / 128, predicted and true ab both `B h w 2`."""
    return (((ab - target) / AB_SCALE) ** 2).mean()
