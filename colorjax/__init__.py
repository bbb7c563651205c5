"""Black-and-white photographs into colour, in JAX and Flax."""

from colorjax.colorizer import Colorizer

__all__ = ["Colorizer"]
