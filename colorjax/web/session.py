"""The photographs of one sitting, and what is done with them; no word of HTTP.

What is uploaded lies in a directory that only its owner may enter, under names of our own, and
goes when the session closes. Of every photograph a thumbnail of its lightness and the person's edit
are kept. Of the last few the pixels and what the network says of them are kept, too: from these any
edit's colour follows in milliseconds. Rows come first: `H W`.
"""

import secrets
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from colorjax import color, palette
from colorjax.colorizer import Analysis, Colorizer
from colorjax.hints import Hint, HintError
from colorjax.media import files
from colorjax.media.film import FILM_SUFFIXES
from colorjax.web import frame
from colorjax.web.edit import Edit, RequestError, number
from colorjax.web.item import Item, named

PREVIEW_SIDE = 1600  # pixels a side at most of what the page draws
THUMBNAIL_SIDE = 200
DETAIL_SIDE = 4096  # pixels a side at most of a part at full resolution
_KEPT = 3  # photographs whose pixels and analysis are kept
_EXAMPLE = Path(__file__).parent / "page" / "example.jpg"


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
        colorizer: Colorizer,
        given: Sequence[Path] = (),
        max_megapixels: float = 500,
        max_bytes: int = 4 * 2**30,
        weights: str | None = None,
    ):
        """Start with nothing read yet.

        Args:
            colorizer: the network.
            given: photographs named on the command line, to be read where they lie.
            max_megapixels: larger photographs are refused before they are decoded.
            max_bytes: larger uploads are refused while they come.
            weights: the file of the network, for the command; None for the default.
        """
        self.directory = Path(tempfile.mkdtemp(prefix="colorjax-"))  # mode 0700
        self.colorizer, self.weights = colorizer, weights
        self.max_megapixels, self.max_bytes = max_megapixels, max_bytes
        self.items: dict[str, Item] = {}
        self.given, self._given = tuple(given), dict[int, str]()  # number → id, once it is read
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._lock, self._beginning = threading.RLock(), threading.Lock()

    def __enter__(self) -> "Session":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove every uploaded file."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def new_path(self, suffix: str = "") -> Path:
        """Make a name of our own in the session's directory."""
        return self.directory / f"{secrets.token_hex(16)}{suffix}"

    def get(self, id: str) -> Item:
        """Find an item by its id."""
        if id not in self.items:
            raise RequestError("this photograph is no longer here: add it again")
        return self.items[id]

    def begin(self) -> None:
        """Read the example, where no photographs were given."""
        with self._beginning:
            if not (self.given or self.items):
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
            raise RequestError("no such photograph was named on the command line")
        if self._given.get(number) not in self.items:
            path = self.given[number]
            self._given[number] = self.add(path, path.name, given=True).id
        return self.items[self._given[number]]

    def add(self, source: Path, name: str, given: bool = False, example: bool = False) -> Item:
        """Read a photograph, or a film's frame.

        Raises:
            RequestError: it is no picture, damaged or too large.
        """
        film, notes = None, ()
        with named(source, name):
            if Path(name).suffix.lower() in FILM_SUFFIXES:
                film = frame.read(source)
                pixels = film.pixels
            else:
                photograph = files.read(source, self.max_megapixels)
                pixels, notes = photograph.pixels, photograph.notes
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
        if given and item.kept_path.is_file():
            if kept := item.read_kept(self.colorizer.decoding):
                item.edit, item.keep = kept, True
            else:
                item.notes = (*notes, f"{item.kept_path.name} holds no hints that can be read")
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
            raise RequestError(f"{item.name} is no film")
        with named(item.source, item.name):
            item.film = frame.read(item.source, number(time, "time", 0, 1e6))
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
        pixels = item.film.pixels if item.film else self.read(item).pixels
        opened = self._analyzed(pixels)
        self._remember(item.id, opened)
        return opened

    def read(self, item: Item) -> files.Photograph:
        """Read a photograph anew, with all that it carries."""
        with named(item.source, item.name):
            return files.read(item.source, self.max_megapixels)

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
            raise RequestError("this part lies outside the photograph")
        return _grey(part, DETAIL_SIDE)

    def color(self, id: str, edit: Edit, remember: bool = True) -> np.ndarray:
        """Compute the photograph's ab under an edit, float32 `h w 2` at the network's size."""
        item = self.get(id)
        if remember and edit != item.edit:
            item.edit = edit
            if item.keep:
                item.write_kept()
        opened, decoding = self._opened(item), edit.decoding(self.colorizer.decoding)
        ab = np.asarray(_decode(opened.analysis.output, self.colorizer.network.head, decoding))
        hints = edit.hints
        if film := item.film:  # those of other frames lie at other places
            hints = [hint for hint in hints if abs((hint.time or 0) - film.time) < 0.05]
        return opened.analysis.with_hints(opened.pixels, ab, hints)

    def suggest(self, id: str, x: float, y: float) -> list[str]:
        """Suggest likely colours of a place of the upright photograph, `#rrggbb` each."""
        opened = self._opened(self.get(id))
        try:
            return self.colorizer.suggest(opened.pixels, x, y, opened.analysis)
        except HintError as error:
            raise RequestError(str(error)) from None
        except ValueError:  # a network without bins has one colour in mind
            return []


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
