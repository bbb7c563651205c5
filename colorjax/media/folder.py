"""A folder of photographs → the same tree in colour, one after another and overlapped.

Threads read and shrink, the network takes pictures of one working shape in batches, threads join
and write. How much is held in memory is bounded by pixels, not by the number of photographs.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from colorjax.colorizer import Colorizer
from colorjax.media import files

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
    failures: list[str] = field(default_factory=list)  # one sentence each
    notes: Counter[str] = field(default_factory=Counter)  # what could not be kept, and how often


@dataclass(frozen=True)
class _Shrunk:
    """A photograph that waits for the network."""

    target: Path
    photograph: files.Photograph
    lightness: np.ndarray
    filled: tuple[float, float]

    @property
    def pixels(self) -> int:
        height, width = self.photograph.pixels.shape[:2]
        return height * width


def pairs(source: str | Path, target: str | Path) -> list[Pair]:
    """Each photograph in `source` and its subfolders, and where it goes: `target` with that tree.

    Names stay; a kind of file that cannot be written in colour (GIF, PGM, PBM, PNM) gets `.png`
    after its name. What lies in `target` is left out, should that be inside `source`.

    Raises:
        files.FileError: a photograph would take another one's place.
    """
    source, target = Path(source), Path(target)
    paths, inside = files.list_images(source), target.resolve()
    if inside.is_relative_to(source.resolve()):
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


def colorize_folder(
    colorizer: Colorizer,
    todo: Iterable[Pair],
    quality: int = 95,
    max_megapixels: float = 500,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Colour photographs, going on after those that fail.

    Args:
        colorizer: of the network.
        todo: as `pairs` gives them; folders are made as needed.
        quality: of JPEG.
        max_megapixels: larger photographs are refused.
        overwrite: replace what is there.
        progress: called with the number of photographs done or failed.

    Interrupted, it finishes what it is writing: every file is whole or not there.
    """
    outcome, waiting, held, done = Outcome(), iter(todo), 0, 0
    reading: set[Future] = set()
    predicting: dict[Future, list[_Shrunk]] = {}
    writing: dict[Future, _Shrunk] = {}
    shapes: dict[tuple[int, ...], list[_Shrunk]] = defaultdict(list)
    exhausted = False

    def read(pair: Pair) -> _Shrunk:
        photograph = files.read(pair[0], max_megapixels)
        return _Shrunk(pair[1], photograph, *colorizer.to_network_input(photograph.pixels))

    def predict(group: list[_Shrunk]) -> np.ndarray:
        lightness = np.stack([shrunk.lightness for shrunk in group])
        return colorizer.predict(np.resize(lightness, (BATCH, *lightness.shape[1:])))[0]

    def write(shrunk: _Shrunk, ab: np.ndarray) -> tuple[str, ...]:
        photograph = shrunk.photograph
        pixels = colorizer.merge(photograph.pixels, ab, shrunk.filled)
        shrunk.target.parent.mkdir(parents=True, exist_ok=True)
        notes = files.write(shrunk.target, replace(photograph, pixels=pixels), quality, overwrite)
        return (*photograph.notes, *notes)

    with (
        ThreadPoolExecutor(_THREADS) as readers,
        ThreadPoolExecutor(1) as network,
        ThreadPoolExecutor(_THREADS) as writers,
    ):
        try:
            while True:
                while not exhausted and held < _HELD and len(reading) < 2 * _THREADS:
                    if (pair := next(waiting, None)) is None:
                        exhausted = True
                    else:
                        reading.add(readers.submit(read, pair))
                largest = max(shapes.values(), key=len, default=[])
                # A full batch goes at once, behind the one that the network is at; a smaller one
                # when nothing else can be done.
                stuck = not predicting and (not reading or held >= _HELD)
                if largest and (stuck or (len(largest) >= BATCH and len(predicting) < 2)):
                    group = largest[:BATCH]
                    del largest[:BATCH]
                    predicting[network.submit(predict, group)] = group
                elif not reading and not predicting and not writing:
                    return outcome
                finished, _ = wait({*reading, *predicting, *writing}, return_when=FIRST_COMPLETED)
                for future in finished:
                    if group := predicting.pop(future, None):
                        for shrunk, ab in zip(group, future.result(), strict=False):
                            writing[writers.submit(write, shrunk, ab)] = shrunk
                        continue
                    written = writing.pop(future, None)
                    reading.discard(future)
                    try:
                        result = future.result()
                    except (files.FileError, OSError, MemoryError) as error:
                        outcome.failures.append(str(error) or "out of memory")
                    else:
                        if isinstance(result, _Shrunk):
                            shapes[result.lightness.shape].append(result)
                            held += result.pixels
                            continue
                        outcome.coloured += 1
                        outcome.notes.update(result)
                    held -= written.pixels if written else 0
                    done += 1
                    progress(done)
        except BaseException:
            for pool in (readers, network, writers):
                pool.shutdown(cancel_futures=True)
            raise
