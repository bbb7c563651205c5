"""Black-and-white photographs into colour, in JAX and Flax."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colorjax.color import fit_gamut, lab_to_rgb, rgb_to_lab
    from colorjax.colorizer import Colorizer
    from colorjax.hints import Hint
    from colorjax.media.files import Photograph, read, write

_MODULES = {
    "Colorizer": "colorizer",
    "Hint": "hints",
    "Photograph": "media.files",
    "read": "media.files",
    "write": "media.files",
    "rgb_to_lab": "color",
    "lab_to_rgb": "color",
    "fit_gamut": "color",
}
__all__ = [
    "Colorizer",
    "Hint",
    "Photograph",
    "fit_gamut",
    "lab_to_rgb",
    "read",
    "rgb_to_lab",
    "write",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: JAX takes seconds, in which Ctrl-C shall work."""
    if name not in _MODULES:
        raise AttributeError(f"module 'colorjax' has no attribute {name!r}")
    return getattr(import_module(f"colorjax.{_MODULES[name]}"), name)
