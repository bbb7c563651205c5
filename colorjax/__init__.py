"""Black-and-white photographs into colour, in JAX and Flax."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colorjax.colorizer import Colorizer
    from colorjax.hints import Hint

__all__ = ["Colorizer", "Hint"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: JAX takes seconds, in which Ctrl-C shall work."""
    if name not in __all__:
        raise AttributeError(f"module 'colorjax' has no attribute {name!r}")
    from colorjax import colorizer

    return getattr(colorizer, name)
