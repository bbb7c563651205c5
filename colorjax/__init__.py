"""Black-and-white photographs into colour, in JAX and Flax."""

from colorjax.colorizer import Colorizer
from colorjax.hints import Hint

__all__ = ["Colorizer", "Hint"]
