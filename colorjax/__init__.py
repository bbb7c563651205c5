"""Black-and-white photographs into colour, in JAX and Flax."""

from colorjax.colorizer import Colorizer
from colorjax.media.files import Photograph, read, write

__all__ = ["Colorizer", "Photograph", "read", "write"]
