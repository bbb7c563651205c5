"""The photographs of one sitting, and what is done with them; no word of HTTP.

What is uploaded lies in a directory that only its owner may enter, under names of our own, and
goes when the session closes. Of every photograph a thumbnail of its lightness and the person's edit
are kept. Of the last few the pixels and what the network says of them are kept, too: from these any
edit's colour follows in milliseconds. Rows come first: `H W`.
"""

import io
import json
import math
import os
import re
import secrets
import shutil
import tempfile
import threading
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from colorjax import color, palette
from colorjax.colorizer import Analysis, Colorizer
from colorjax.hints import Hint, HintError, check_inside
from colorjax.media import files, hint_files
from colorjax.media.film import FILM_SUFFIXES, FilmError
from colorjax.web import frame

PREVIEW_SIDE = 1600  # pixels a side at most of what the page draws
THUMBNAIL_SIDE = 200
DETAIL_SIDE = 4096  # pixels a side at most of a part at full resolution
_KEPT = 3  # photographs whose pixels and analysis are kept
_HINTS = 500  # of a photograph, at most
_EXAMPLE = Path(__file__).parent / "page" / "example.jpg"
_RANGES = {"saturation": (0, 4), "warmth": (-60, 60), "tint": (-60, 60), "rarity": (-4, 4)}


class SessionError(ValueError):
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
            raise SessionError("an edit is an object with hints and numbers")
        numbers: dict[str, float] = {}
        for name, (low, high) in _RANGES.items():
            if (number := value.get(name)) is not None:
                numbers[name] = _number(number, name, low, high)
        points = value.get("hints", [])
        if not isinstance(points, list) or len(points) > _HINTS:
            raise SessionError(f"hints are a list of at most {_HINTS}")
        try:
            hints = hint_files.of_points(points) if points else []
            check_inside(hints, size[1], size[0])
        except HintError as error:
            raise SessionError(str(error)) from None
        return cls(tuple(hints), **numbers)

    def to_json(self) -> dict[str, Any]:
        """Convert it to plain data: what was not set is left out."""
        hints = [
            {name: entry for name, entry in asdict(hint).items() if entry is not None}
            for hint in self.hints
        ]
        numbers = {name: number for name in _RANGES if (number := getattr(self, name)) is not None}
        return {"hints": hints, **numbers}


def _number(value: Any, name: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SessionError(f"{name} is {value!r}: it must be a number")
    if not low <= value <= high:
        raise SessionError(f"{name} is {value:g}: it must be from {low:g} to {high:g}")
    return float(value)


@dataclass
class Item:
    """A photograph, or a film by one of its frames."""

    id: str
    name: str  # as the person knows it; never part of a path
    source: Path
    given: bool  # named on the command line: read where it lies, hints may be kept beside it
    size: tuple[int, int]  # width, height
    thumbnail: np.ndarray  # grey sRGB values of its lightness, uint8 H W
    content_fraction: tuple[float, float]  # of ab's rows and columns that it fills
    notes: tuple[str, ...] = ()
    film: frame.Frame | None = None
    example: bool = False  # of ours, shown while there is no photograph
    edit: Edit = field(default_factory=Edit)
    keep: bool = False

    def to_json(self) -> dict[str, Any]:
        """Tell what the page knows of it."""
        return {
            "id": self.id,
            "name": self.name,
            "width": self.size[0],
            "height": self.size[1],
            "fraction": self.content_fraction,
            "notes": self.notes,
            "film": self.film and {"time": self.film.time, "duration": self.film.duration},
            "given": self.given,
            "example": self.example,
            "edit": self.edit.to_json(),
            "keep": self.keep,
        }


@dataclass
class _Open:
    """A photograph at hand: what takes long to make anew."""

    pixels: np.ndarray
    preview: np.ndarray  # grey sRGB values of its lightness, uint8 H W
    analysis: Analysis


class Session:
    """Photographs, by ids of our own, until it is closed; to be used as a context."""

    def __init__(
        self,
        load: Callable[[], Colorizer],
        given: Sequence[Path] = (),
        max_megapixels: float = 500,
        max_bytes: int = 4 * 2**30,
        weights: str | None = None,
    ):
        """Start with nothing read yet.

        Args:
            load: gives the network, once, when the first photograph comes.
            given: photographs named on the command line, to be read where they lie.
            max_megapixels: larger photographs are refused before they are decoded.
            max_bytes: larger uploads are refused while they come.
            weights: the file of the network, for the command; None for the default.
        """
        self.directory = Path(tempfile.mkdtemp(prefix="colorjax-"))  # mode 0700
        self.max_megapixels, self.max_bytes = max_megapixels, max_bytes
        self.weights = weights
        self.items: dict[str, Item] = {}
        self.given, self._given = tuple(given), dict[int, str]()  # number → id, once it is read
        self._load, self._colorizer = load, None
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._lock, self._beginning = threading.RLock(), threading.Lock()

    def __enter__(self) -> "Session":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove every uploaded file."""
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def colorizer(self) -> Colorizer:
        """Return the network, loaded when it is first asked for."""
        return self.load()

    def load(self) -> Colorizer:
        """Load the network, unless that is done."""
        with self._lock:
            self._colorizer = self._colorizer or self._load()
            return self._colorizer

    def new_path(self, suffix: str = "") -> Path:
        """Make a name of our own in the session's directory."""
        return self.directory / f"{secrets.token_hex(16)}{suffix}"

    def get(self, id: str) -> Item:
        """Find an item by its id."""
        if id not in self.items:
            raise SessionError("this photograph is no longer here: add it again")
        return self.items[id]

    def begin(self) -> None:
        """Read the example, where no photographs were given, and load the network."""
        with self._beginning:
            if not (self.colorizer and self.given or self.items):
                self.add(_EXAMPLE, "Example", example=True)

    def warm(self) -> None:
        """Compile the network for every shape, the example's first: a photograph then takes less.

        Nine shapes take some seconds each where they were never compiled before on this machine.
        """
        self.begin()
        for step in (1, -1, 2, -2, 0, 3, -3, 4, -4):  # aspects as in `colorizer.working_shapes`
            rows, columns = round(240 / 3 ** (step / 8)), round(240 * 3 ** (step / 8))
            self.colorizer.analyze(np.zeros((rows, columns), np.uint8))
            if not self.directory.exists():  # closed
                return

    def waiting(self) -> list[dict[str, Any]]:
        """List photographs given and not read yet: number and name."""
        return [
            {"number": number, "name": path.name}
            for number, path in enumerate(self.given)
            if number not in self._given
        ]

    def add_given(self, number: Any) -> Item:
        """Read one of the photographs given, unless that is done."""
        if not isinstance(number, int) or not 0 <= number < len(self.given):
            raise SessionError("no such photograph was named on the command line")
        if self._given.get(number) not in self.items:
            path = self.given[number]
            self._given[number] = self.add(path, path.name, given=True).id
        return self.items[self._given[number]]

    def add(self, source: Path, name: str, given: bool = False, example: bool = False) -> Item:
        """Read a photograph, or a film's frame.

        Raises:
            SessionError: it is no picture, damaged or too large.
        """
        film, notes = None, ()
        try:
            if Path(name).suffix.lower() in FILM_SUFFIXES:
                film = frame.read(source)
                pixels = film.pixels
            else:
                photograph = files.read(source, self.max_megapixels)
                pixels, notes = photograph.pixels, photograph.notes
        except (files.FileError, FilmError) as error:
            # The reader knows our own name for the file, the person knows theirs.
            raise SessionError(str(error).replace(str(source), name)) from None
        except MemoryError:
            raise SessionError(f"{name} does not fit into memory: scale it down") from None
        opened = self._analyzed(pixels)
        item = Item(
            secrets.token_urlsafe(12),
            name,
            source,
            given,
            (pixels.shape[1], pixels.shape[0]),
            _grey(opened.preview, THUMBNAIL_SIDE),
            opened.analysis.content_fraction,
            notes,
            film,
            example,
        )
        self._read_kept(item)
        with self._lock:
            self.items[item.id] = item
        self._remember(item.id, opened)
        # The first hint compiles what the next ones use: better now than at a click.
        self.suggest(item.id, 0, 0)
        self.color(item.id, replace(item.edit, hints=(Hint(0, 0, "#808080"),)), remember=False)
        return item

    def remove(self, id: str) -> None:
        """Forget a photograph, and remove its upload."""
        item = self.get(id)
        with self._lock:
            self.items.pop(id, None)
            self._open.pop(id, None)
        if not (item.given or item.example):
            item.source.unlink(missing_ok=True)

    def set_frame(self, id: str, time: float) -> Item:
        """Take another frame of a film; its hints stay."""
        item = self.get(id)
        if not item.film:
            raise SessionError(f"{item.name} is no film")
        try:
            item.film = frame.read(item.source, _number(time, "time", 0, 1e6))
        except FilmError as error:
            raise SessionError(str(error).replace(str(item.source), item.name)) from None
        self._remember(id, self._analyzed(item.film.pixels))
        return item

    def _analyzed(self, pixels: np.ndarray) -> _Open:
        return _Open(pixels, _grey(pixels, PREVIEW_SIDE), self.colorizer.analyze(pixels))

    def _remember(self, id: str, opened: _Open) -> None:
        with self._lock:
            self._open[id] = opened
            self._open.move_to_end(id)
            while len(self._open) > _KEPT:
                self._open.popitem(last=False)

    def _opened(self, item: Item) -> _Open:
        with self._lock:
            if item.id in self._open:
                self._open.move_to_end(item.id)
                return self._open[item.id]
        pixels = item.film.pixels if item.film else self._read(item).pixels
        opened = self._analyzed(pixels)
        self._remember(item.id, opened)
        return opened

    def _read(self, item: Item) -> files.Photograph:
        try:
            return files.read(item.source, self.max_megapixels)
        except files.FileError as error:
            raise SessionError(str(error).replace(str(item.source), item.name)) from None

    def preview(self, id: str, side: int) -> np.ndarray:
        """Shrink a photograph's lightness to grey, uint8 `H W`, no side longer than asked."""
        item, side = self.get(id), max(16, min(side, PREVIEW_SIDE))
        small = side <= THUMBNAIL_SIDE and not item.film
        return _grey(item.thumbnail if small else self._opened(item).preview, side)

    def detail(self, id: str, left: int, top: int, width: int, height: int) -> np.ndarray:
        """Cut out a part at full resolution, as grey values, uint8 `H W`."""
        pixels = self._opened(self.get(id)).pixels
        part = pixels[max(0, top) :, max(0, left) :][: min(height, DETAIL_SIDE)]
        part = part[:, : min(width, DETAIL_SIDE)]
        if not part.size:
            raise SessionError("this part lies outside the photograph")
        return _grey(part, DETAIL_SIDE)

    def color(self, id: str, edit: Edit, remember: bool = True) -> np.ndarray:
        """Compute the photograph's ab under an edit, float32 `h w 2` at the network's size."""
        item = self.get(id)
        if remember and edit != item.edit:
            item.edit = edit
            if item.keep:
                self._write_kept(item)
        opened, decoding = self._opened(item), self._decoding(edit)
        ab = np.asarray(_decode(opened.analysis.output, self.colorizer.network.head, decoding))
        hints = edit.hints
        if film := item.film:  # those of other frames lie at other places
            hints = [hint for hint in hints if abs((hint.time or 0) - film.time) < 0.05]
        return opened.analysis.with_hints(opened.pixels, ab, hints)

    def _decoding(self, edit: Edit) -> palette.Decoding:
        """Combine what the weights say with what the person says."""
        own = self.colorizer.decoding
        if own.bin_weights is None and edit.rarity:
            raise SessionError("these weights do not know which colours are rare")
        return replace(
            own,
            saturation=own.saturation if edit.saturation is None else edit.saturation,
            rarity_power=own.rarity_power if edit.rarity is None else edit.rarity,
            warmth=edit.warmth,
            tint=edit.tint,
        )

    def edit_of(self, data: bytes, size: tuple[int, int]) -> Edit:
        """Read a file of hints, whose rarity is left out where the weights know none."""
        edit = edit_of_file(data, size)
        return replace(edit, rarity=None) if self.colorizer.decoding.bin_weights is None else edit

    def suggest(self, id: str, x: float, y: float) -> list[str]:
        """Suggest likely colours of a place of the upright photograph, `#rrggbb` each."""
        opened = self._opened(self.get(id))
        try:
            return self.colorizer.suggest(opened.pixels, x, y, opened.analysis)
        except HintError as error:
            raise SessionError(str(error)) from None
        except ValueError:  # a network without bins has one colour in mind
            return []

    def save(
        self, id: str, suffix: str | None = None, quality: int = 95
    ) -> tuple[Path, str, list[str]]:
        """Colour a photograph at its own resolution, into a file of our own.

        Returns:
            The file, to be removed by the caller; the name it should have; and what its format
            could not keep.
        """
        item = self.get(id)
        if item.film:
            raise SessionError(f"{item.name} is a film: the command beside it colours it")
        suffix = suffix or output_suffix(item.name)
        if suffix not in files.OUTPUT_SUFFIXES:
            raise SessionError(f"{suffix} is no format to save in")
        target, edit, own = self.new_path(suffix), item.edit, self.colorizer
        photograph = self._read(item)
        # As colorize.py does it, from the pixels on: the same bytes.
        colorizer = Colorizer(own.params, own.network, self._decoding(edit))
        pixels = colorizer(photograph.pixels, edit.hints)
        try:
            notes = files.write(target, replace(photograph, pixels=pixels), quality)
        except files.FileError as error:
            raise SessionError(str(error).replace(str(target), item.name)) from None
        return target, f"{Path(item.name).stem}-coloured{suffix}", notes

    def save_all(self, ids: Iterable[str], suffix: str | None = None) -> tuple[Path, list[str]]:
        """Save photographs into one ZIP, of names that do not clash; films are left out.

        Returns:
            The file, to be removed by the caller; and what the format could not keep.
        """
        target, taken, lost = self.new_path(".zip"), set(), Counter[str]()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for id in ids:
                if self.get(id).film:
                    continue
                path, name, notes = self.save(id, suffix)
                lost.update(notes)
                stem, ending, count = Path(name).stem, Path(name).suffix, 1
                while name.lower() in taken:
                    count += 1
                    name = f"{stem}-{count}{ending}"
                taken.add(name.lower())
                archive.write(path, name)
                path.unlink()
        notes = [f"{note} ({n} photographs)" if n > 1 else note for note, n in lost.items()]
        return target, notes

    def set_keep(self, id: str, keep: bool) -> None:
        """Keep the hints in a file beside the photograph from now on, or no longer."""
        item = self.get(id)
        if not item.given:
            raise SessionError(
                f"{item.name} was dropped, and a page does not learn where it lies: "
                "save its hints as a file"
            )
        if keep and not item.keep and kept_path(item).exists():
            self._read_kept(item, replace_edit=False)
            if not item.keep:
                raise SessionError(f"{kept_path(item)} holds something else: move it first")
        item.keep = keep
        if keep:
            self._write_kept(item)

    def _read_kept(self, item: Item, replace_edit: bool = True) -> None:
        if not item.given or not (path := kept_path(item)).is_file():
            return
        try:
            edit = self.edit_of(path.read_bytes(), item.size)
        except (SessionError, OSError):
            item.notes = (*item.notes, f"{path.name} holds no hints that can be read")
            return
        item.keep = True
        if replace_edit:
            item.edit = edit

    def _write_kept(self, item: Item) -> None:
        path = kept_path(item)
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            temporary.write_bytes(_hints_json(item.edit))
            os.replace(temporary, path)
        except OSError as error:
            item.keep = False
            raise SessionError(f"{path} could not be written: {error.strerror}") from None
        finally:
            temporary.unlink(missing_ok=True)

    def command(self, id: str) -> str:
        """Write the command for the same colours: a photograph's, or the whole film's."""
        item = self.get(id)
        path, edit = Path(str(item.source) if item.given else item.name), item.edit
        suffix = output_suffix(item.name)
        if item.film:
            suffix = ".mkv" if path.suffix.lower() == ".mkv" else ".mp4"
        words = ["colorjax", str(path), f"{path.stem}-coloured{suffix}"]
        if edit.hints:
            words += ["--hints", str(kept_path(item)) if item.keep else f"{item.name}.hints.json"]
        if self.weights:
            words += ["--weights", self.weights]
        decoding = self.colorizer.decoding
        own = {"saturation": decoding.saturation, "rarity": decoding.rarity_power}
        for name in _RANGES:
            value = getattr(edit, name)
            if value is not None and value != own.get(name, 0):
                words.append(f"--{name}={value:g}")
        return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w@%+=:,./-]+", word) else "'" + word.replace("'", "'\\''") + "'"


def kept_path(item: Item) -> Path:
    """Name the file in which a photograph's hints are kept."""
    return item.source.with_name(item.source.name + ".hints.json")


def _hints_json(edit: Edit) -> bytes:
    value = edit.to_json()
    points = value.pop("hints")
    return json.dumps({"points": points, "edit": value}, indent=1).encode()


def edit_of_file(data: bytes, size: tuple[int, int]) -> Edit:
    """Read an edit that `_hints_json` wrote, or the points of another hints file in JSON."""
    try:
        value = json.load(io.BytesIO(data))
        return Edit.from_json({**value.get("edit", {}), "hints": value["points"]}, size)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = str(error) if isinstance(error, SessionError) else "it is no JSON with points"
        raise SessionError(f"these hints cannot be read: {why}") from None


def output_suffix(name: str) -> str:
    """Choose the format to save in: the file's own where it holds colour."""
    suffix = Path(name).suffix.lower()
    return suffix if suffix in files.OUTPUT_SUFFIXES else ".png"


_decode = jax.jit(palette.decode, static_argnums=1)


def _grey(pixels: np.ndarray, side: int) -> np.ndarray:
    """Convert pixels `H W` or `H W 3` to grey of their lightness, uint8, no longer than side.

    Grey pixels that are small enough come back unchanged.
    """
    if pixels.dtype == np.uint16:
        pixels = (pixels // 257 + (pixels % 257 > 128)).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2)
    small = np.asarray(image)
    if small.ndim == 3:
        grey = color.lightness_to_grey(color.lightness(small.astype(np.float32) / 255))
        small = np.clip(np.round(255 * np.asarray(grey)), 0, 255).astype(np.uint8)
    return small
