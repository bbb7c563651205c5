"""A folder of photographs → the same tree in colour.

Threads read and shrink, the network takes pictures of one working shape in batches, threads merge
and write. How much is held in memory is bounded by pixels, not by the number of photographs.
"""

import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Condition

import numpy as np

from colorjax.colorizer import Colorizer
from colorjax.media import files
from colorjax.media.overlap import map_ahead, prefetch

# Pictures of one shape that the network takes at a time: always so many, if need be with copies,
# so that each of the nine shapes is compiled but once.
BATCH = 8
_HELD = 48_000_000  # pixels read and not yet written, beyond which no further file is opened
_THREADS = 2  # that read, and as many that write

Pair = tuple[Path, Path]  # a photograph, and the file to write


@dataclass
class Outcome:
    """What became of a folder."""

    coloured: int = 0
    elsewhere: int = 0  # photographs that another run wrote meanwhile
    failures: list[str] = field(default_factory=list)  # one sentence each
    partial: list[Path] = field(default_factory=list)  # photographs coloured as far as they go
    notes: Counter[str] = field(default_factory=Counter)  # what could not be kept, and how often


@dataclass
class _Item:
    """A photograph on its way through the stages."""

    source: Path
    target: Path
    photograph: files.Photograph | None = None
    lightness: np.ndarray | None = None  # `rows columns`, of the network's copy
    content_fraction: tuple[float, float] = (1.0, 1.0)
    ab: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    partial: bool = False
    error: str = ""  # why it could not be read or written

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep what goes wrong inside as this photograph's error."""
        try:
            yield
        except (files.FileError, OSError, MemoryError) as error:
            self.error = str(error) or f"{self.source}: there is too little memory"

    @property
    def size(self) -> int:
        return 0 if self.photograph is None else math.prod(self.photograph.pixels.shape[:2])


def pairs(
    source: str | Path, target: str | Path, paths: Iterable[Path] | None = None
) -> list[Pair]:
    """Pair each photograph of `source` with its place in `target`, in the same tree.

    Names stay; a kind of file that cannot be written in colour (GIF, PGM, HEIC, …) gets `.png`
    after its name. What lies in `target` is left out, should that be inside `source`.

    Args:
        source: a folder.
        target: another one.
        paths: the photographs in the first; by their suffixes, unless given.

    Raises:
        files.FileError: the target holds the source, or a photograph would take another's place.
    """
    source, target = Path(source), Path(target)
    inside = target.resolve()
    if source.resolve().is_relative_to(inside):
        raise files.FileError(
            f"{target} holds {source}, whose originals could be overwritten: name another folder"
        )
    paths = files.list_images(source) if paths is None else paths
    paths = [path for path in paths if not path.resolve().is_relative_to(inside)]
    found, taken = [], {path.resolve() for path in paths}
    for path in paths:
        out = target / path.relative_to(source)
        if path.suffix.lower() not in files.OUTPUT_SUFFIXES:
            out = out.with_name(f"{out.name}.png")
        if (place := out.resolve()) in taken:
            raise files.FileError(f"{path} cannot become {out}: another photograph has that name")
        taken.add(place)
        found.append((path, out))
    return found


class _Held:
    """The number of pixels in memory, shared by the stages."""

    def __init__(self):
        self._pixels, self._changed = 0, Condition()

    def add(self, pixels: int) -> None:
        with self._changed:
            self._pixels += pixels
            self._changed.notify_all()

    def is_full(self, seconds: float = 0) -> bool:
        """Tell whether nothing more may be read, after waiting so long for that to change."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._pixels < _HELD, seconds)


def _predicted(
    colorizer: Colorizer, items: Generator[_Item | None], held: _Held
) -> Generator[_Item | None]:
    """Give items their ab, in batches of one shape; None passes through while memory is full."""
    waiting: defaultdict[tuple[int, ...], list[_Item]] = defaultdict(list)

    def predict(shape: tuple[int, ...]) -> list[_Item]:
        group = waiting.pop(shape)
        lightness = np.stack([item.lightness for item in group if item.lightness is not None])
        ab = colorizer.predict(np.resize(lightness, (BATCH, *shape)))
        for item, colour in zip(group, ab, strict=False):
            item.ab = colour
        return group

    with closing(items):
        for item in items:
            if item is None and waiting and held.is_full():
                yield from predict(max(waiting, key=lambda shape: len(waiting[shape])))
            elif item is None:
                held.is_full(0.1)  # until a writer has made room
                yield None
            elif item.lightness is None:
                yield item
            else:
                waiting[shape := item.lightness.shape].append(item)
                if len(waiting[shape]) == BATCH:
                    yield from predict(shape)
        for shape in list(waiting):
            yield from predict(shape)


def colorize_folder(
    colorizer: Colorizer,
    todo: Iterable[Pair],
    quality: int = 95,
    max_megapixels: float = 500,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Colour photographs, going on after those that fail.

    Several runs may share the work: each passes over what another has written.

    Args:
        colorizer: of the network.
        todo: as `pairs` gives them; folders are made as needed.
        quality: of JPEG.
        max_megapixels: larger photographs are refused.
        overwrite: replace what is there.
        progress: called with the number of photographs done or failed.

    Interrupted, it finishes what it is writing: every file is whole or not there.
    """
    outcome, held, left = Outcome(), _Held(), deque(todo)

    def pending() -> Iterator[Pair | None]:
        """What to read; None while memory is full, for the network to make room."""
        met = 0
        while left:
            if held.is_full():
                yield None
                continue
            if outcome.elsewhere > met:  # another run is ahead: take another way
                met = outcome.elsewhere
                random.shuffle(left)
            yield left.popleft()

    def read(pair: Pair | None) -> _Item | None:
        if pair is None:
            return None
        item = _Item(*pair)
        with item.guarded():
            if not overwrite and item.target.exists():
                raise files.FileError(f"{item.target} exists")
            item.photograph = files.read(item.source, max_megapixels)
            pixels = item.photograph.pixels
            item.lightness, item.content_fraction = colorizer.to_network_input(pixels)
            held.add(item.size)
        return item

    def write(item: _Item | None) -> _Item | None:
        if item and item.photograph and item.ab is not None:
            with item.guarded():
                photograph = item.photograph
                pixels = colorizer.merge(photograph.pixels, item.ab, item.content_fraction)
                item.target.parent.mkdir(parents=True, exist_ok=True)
                coloured = replace(photograph, pixels=pixels)
                notes = files.write(item.target, coloured, quality, overwrite)
                item.notes, item.partial = (*photograph.notes, *notes), photograph.partial
            held.add(-item.size)
            item.photograph = None
        return item

    stages = prefetch(
        _predicted(colorizer, map_ahead(read, pending(), _THREADS, 2 * _THREADS - 1), held), 1
    )
    with closing(map_ahead(write, stages, _THREADS, _THREADS)) as written:
        for done, item in enumerate((item for item in written if item), 1):
            if not item.error:
                outcome.coloured += 1
                outcome.notes.update(item.notes)
                outcome.partial += [item.source] if item.partial else []
            elif not overwrite and item.target.exists():
                outcome.elsewhere += 1
            else:
                outcome.failures.append(item.error)
            progress(done)
    return outcome
