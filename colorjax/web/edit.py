"""What a person asks of a photograph's colour: checked, as JSON, as a file of hints, as options."""

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from colorjax.hints import Hint, HintError, check_inside
from colorjax.media import hint_files
from colorjax.palette import Decoding

_HINTS = 500  # of a photograph, at most
_RANGES = {"saturation": (0, 4), "warmth": (-60, 60), "tint": (-60, 60), "rarity": (-4, 4)}


class RequestError(ValueError):
    """A request that cannot be met, as one sentence for the person."""


@dataclass(frozen=True)
class Edit:
    """What a person asks of a photograph's colour; None is what the weights say."""

    hints: tuple[Hint, ...] = ()
    saturation: float | None = None
    warmth: float = 0.0
    tint: float = 0.0
    rarity: float | None = None

    @classmethod
    def from_json(cls, value: Any, size: tuple[int, int]) -> "Edit":
        """Check what a page sent or a file holds, for a photograph of `size`, width and height."""
        if not isinstance(value, dict):
            raise RequestError("an edit is an object with hints and numbers")
        numbers: dict[str, float] = {}
        for name, (low, high) in _RANGES.items():
            if (given := value.get(name)) is not None:
                numbers[name] = number(given, name, low, high)
        points = value.get("hints", [])
        if not isinstance(points, list) or len(points) > _HINTS:
            raise RequestError(f"hints are a list of at most {_HINTS}")
        try:
            hints = hint_files.of_points(points) if points else []
            check_inside(hints, size[1], size[0])
        except HintError as error:
            raise RequestError(str(error)) from None
        return cls(tuple(hints), **numbers)

    def to_json(self) -> dict[str, Any]:
        """Convert it to plain data: what was not set is left out."""
        hints = [
            {name: entry for name, entry in asdict(hint).items() if entry is not None}
            for hint in self.hints
        ]
        numbers = {name: value for name in _RANGES if (value := getattr(self, name)) is not None}
        return {"hints": hints, **numbers}

    @classmethod
    def from_file(cls, data: bytes, size: tuple[int, int], own: Decoding) -> "Edit":
        """Read what `to_file` wrote, or the points of another file of hints in JSON.

        Args:
            data: the file's content.
            size: of the photograph, width and height.
            own: what the weights say; the rarity is left out where they know none.
        """
        try:
            value = json.loads(data)
            edit = cls.from_json({**value.get("edit", {}), "hints": value["points"]}, size)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = str(error) if isinstance(error, RequestError) else "it is no JSON with points"
            raise RequestError(f"these hints cannot be read: {why}") from None
        return replace(edit, rarity=None) if own.bin_weights is None else edit

    def to_file(self) -> bytes:
        """Write a file that `--hints` reads, too."""
        numbers = self.to_json()
        points = numbers.pop("hints")
        return json.dumps({"points": points, "edit": numbers}, indent=1).encode()

    def decoding(self, own: Decoding) -> Decoding:
        """Combine what the weights say with what the person says."""
        if own.bin_weights is None and self.rarity:
            raise RequestError("these weights do not know which colours are rare")
        return replace(
            own,
            saturation=own.saturation if self.saturation is None else self.saturation,
            rarity_power=own.rarity_power if self.rarity is None else self.rarity,
            warmth=self.warmth,
            tint=self.tint,
        )

    def options(self, own: Decoding) -> list[str]:
        """List the command line's options for its numbers, where the weights say others."""
        usual = {"saturation": own.saturation, "rarity": own.rarity_power}
        numbers = {name: getattr(self, name) for name in _RANGES}
        return [
            f"--{name}={value:g}"
            for name, value in numbers.items()
            if value is not None and value != usual.get(name, 0)
        ]


def number(value: Any, name: str, low: float, high: float) -> float:
    """Check that a value is a number from low to high."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RequestError(f"{name} is {value!r}: it must be a number")
    if not low <= value <= high:
        raise RequestError(f"{name} is {value:g}: it must be from {low:g} to {high:g}")
    return float(value)
