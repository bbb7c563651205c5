"""A folder of photographs → a packed uint8 pool on disk → batches on the device.

`load_pool` decodes the folder once: one memory-mapped array `N S S 3` of uint8 sRGB, beside it an
index and a list of what was left out and why. Nothing here grows with the folder but the index.
Batch k is a pure function of the run's seed and k, so training needs no iterator state.
"""

import hashlib
import json
import os
import shlex
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import jax
import numpy as np

from colorjax import color, palette
from colorjax.media import files
from colorjax.media.overlap import map_ahead

FEWEST = 20  # photographs that make a label
VALIDATED = 256  # photographs validated on, at most
_VERSION = 3  # of the pool's layout: another number packs anew
_THREADS = os.cpu_count() or 1  # that decode: Pillow does so, and scales, without the GIL


class DataError(ValueError):
    """What is wrong with a folder of photographs, as one sentence."""


@dataclass(frozen=True)
class Pool:
    """A packed folder: `images` is `N S S 3` uint8, memory-mapped; the rest has N entries."""

    images: np.ndarray
    hashes: np.ndarray  # uint64, of each file's content
    paths: list[str]  # relative to the folder
    left_out: dict[str, int]  # photographs left out, by cause
    fingerprint: str  # of the folder's names, sizes and times, and how they were packed
    directory: Path

    def __len__(self) -> int:
        """The number of photographs."""
        return len(self.images)


@dataclass(frozen=True)
class Entry:
    """A file of the folder, and what became of it; without a cause it has the pool's next row."""

    path: str  # relative to the folder
    size: int  # in bytes
    modified: int  # in nanoseconds
    hash: int = 0  # of its content
    cause: str = ""  # of leaving it out
    reason: str = ""  # the same as a sentence


def _fingerprint(entries: list[Entry], settings: list) -> str:
    digest = hashlib.sha256(json.dumps(settings).encode())
    for entry in entries:  # names need not be text
        digest.update(os.fsencode(f"{entry.path}\0{entry.size}\0{entry.modified}\0"))
    return digest.hexdigest()[:16]


def _load(directory: Path, side: int, fingerprint: str) -> tuple[Pool, list[Entry]]:
    entries = [Entry(*row) for row in json.loads((directory / "index.json").read_text())]
    packed = [entry for entry in entries if not entry.cause]
    shape = len(packed), side, side, 3
    if (directory / "images").stat().st_size != np.prod(shape):
        raise DataError(f"{directory} is damaged: delete it, and the photographs are packed anew")
    pool = Pool(
        images=np.memmap(directory / "images", np.uint8, "r", shape=shape),
        hashes=np.array([entry.hash for entry in packed], np.uint64),
        paths=[entry.path for entry in packed],
        left_out=dict(Counter(entry.cause for entry in entries if entry.cause)),
        fingerprint=fingerprint,
        directory=directory,
    )
    return pool, entries


_colorfulness = jax.jit(lambda image: color.colorfulness(image / 255.0))

Judged = tuple[Entry, np.ndarray | None]  # an entry, and its pixels unless it is left out


def _judge(entry: Entry, folder: Path, side: int, min_colorfulness: float) -> Judged:
    """Read a file: its entry, completed, and its pixels `S S 3`."""

    def left_out(cause: str, reason: str) -> Judged:
        return replace(entry, cause=cause, reason=reason), None

    path = folder / entry.path
    try:
        content = path.read_bytes()
        pixels = files.read_small(content, path, side)
    except files.TooSmallError as error:
        return left_out("too small", str(error))
    except files.FileError as error:
        return left_out("unreadable", str(error))
    except OSError as error:
        return left_out("unreadable", f"{path} cannot be read: {error.strerror}")
    if (actual := float(_colorfulness(pixels))) < min_colorfulness:
        return left_out("nearly grey", f"{path}: colourfulness {actual:.1f} < {min_colorfulness:g}")
    digest = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
    return replace(entry, hash=digest), pixels


def load_pool(
    folder: str | Path,
    side: int,
    cache: str | Path,
    min_colorfulness: float = 15,
    say: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Pool:
    """Decode a folder of photographs into a pool, or reuse the one packed before.

    A folder in which some photographs are new has only those decoded. The folder may be of any
    nesting; `cache` is the directory of the pools, one folder each. Each photograph's short side is
    scaled to `side` and its centre square kept. Those less colourful than `min_colorfulness`
    (Hasler and Süsstrunk's number) are left out: a network that learns from grey photographs
    answers with grey. `say` gets a line about each thing done; `progress` gets the numbers of files
    decoded and of all files.

    Raises:
        DataError: the folder is missing, or holds no photograph that can be used; the disk is too
            full; the pool packed before is damaged.
        OSError: the pool cannot be written.
    """
    folder, cache = Path(folder), Path(cache)
    if not folder.is_dir():
        what = "is a file: give the folder that holds it" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}")
    stats = ((str(path.relative_to(folder)), path.stat()) for path in files.list_images(folder))
    entries = [Entry(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    if not entries:
        raise DataError(f"{folder} holds no photographs ({' '.join(sorted(files.SUFFIXES))})")
    settings = [_VERSION, side, float(min_colorfulness)]
    fingerprint = _fingerprint(entries, settings)
    # What a folder is called is for people: it may have been renamed since.
    for index in cache.glob(f"*-{side}px-{fingerprint}/index.json"):
        pool, _ = _load(index.parent, side, fingerprint)
        say(f"{len(pool)} photographs, packed before in {index.parent}")
        return pool

    origin = [*settings, str(folder.resolve())]
    kind = f"{folder.resolve().name}-{side}px-"
    directory = cache / (kind + fingerprint)
    others = [path for path in cache.glob("*") if path.name.startswith(kind)]
    earlier = _earlier([path for path in others if ".tmp-" not in path.name], settings)
    judge = partial(_judge, folder=folder, side=side, min_colorfulness=min_colorfulness)
    cache.mkdir(parents=True, exist_ok=True)
    # Packed under another name until it is whole.
    with tempfile.TemporaryDirectory(
        prefix=f"{directory.name}.tmp-", dir=cache, ignore_cleanup_errors=True
    ) as building:
        say(f"packing {len(entries)} photographs at {side} pixels in {cache}")
        _check_space(cache, len(entries), side)
        # So many wait to be written, to bound memory.
        waiting = min(4 * _THREADS, max(_THREADS, 2**27 // (3 * side * side)))
        judged = map_ahead(lambda x: earlier(x) or judge(x), entries, _THREADS, waiting)
        done = _write(Path(building), judged, lambda count: progress(count, len(entries)))
        if all(entry.cause for entry in done):
            causes = Counter(entry.cause for entry in done)
            raise DataError(f"{folder} holds no photograph that can be used: {_counted(causes)}")
        (Path(building) / "settings.json").write_text(json.dumps(origin))
        try:
            os.rename(building, directory)
        except OSError:
            if not (directory / "index.json").exists():  # else another run was first
                raise
    pool, _ = _load(directory, side, fingerprint)
    say(f"{len(pool)} photographs packed")
    if pool.left_out:
        say(f"left out: {_counted(pool.left_out)}, listed in {directory / 'left-out.txt'}")
    if unused := [path for path in others if _is_unused(path, origin)]:
        size = sum(file.stat().st_size for path in unused for file in path.glob("*")) / 1e6
        say(
            f"pools of this folder as it was before, {size:.0f} MB, are no longer used; remove "
            f"them with\n  {shlex.join(['rm', '-r', *map(str, unused)])}"
        )
    return pool


def _is_unused(pool: Path, origin: list) -> bool:
    """Tell a pool of this origin, or one whose packing was killed, from those of others."""
    if ".tmp-" not in pool.name:
        return _origin(pool) == origin
    try:  # a packing that goes on writes all the time
        newest = max(entry.stat().st_mtime for entry in (pool, *pool.glob("*")))
    except FileNotFoundError:  # it has ended by now
        return False
    return time.time() - newest > 86400


def _origin(pool: Path) -> list:
    """Read a pool's settings, and the folder it is of; older ones do not say that."""
    try:
        return json.loads((pool / "settings.json").read_text())
    except (OSError, ValueError):  # half packed, or damaged
        return []


def _earlier(pools: list[Path], settings: list) -> Callable[[Entry], Judged | None]:
    """Look files up in the newest earlier pool of these settings; None for new or changed ones."""
    for directory in sorted(pools, key=lambda path: path.stat().st_mtime, reverse=True):
        if _origin(directory)[: len(settings)] != settings:
            continue
        try:
            pool, entries = _load(directory, settings[1], "")
        except (OSError, ValueError):  # damaged
            continue
        rows = iter(pool.images)
        known = {
            (entry.path, entry.size, entry.modified): (entry, None if entry.cause else next(rows))
            for entry in entries
            if entry.cause != "duplicates"  # of what may have gone
        }
        return lambda entry: known.get((entry.path, entry.size, entry.modified))
    return lambda entry: None


def _counted(causes: dict[str, int]) -> str:
    return ", ".join(f"{count} {cause}" for cause, count in causes.items())


def _check_space(directory: Path, count: int, side: int) -> None:
    size, free = count * side * side * 3, shutil.disk_usage(directory).free
    if size > free:
        raise DataError(
            f"{directory} has {free / 1e9:.1f} GB free, and {count} photographs at {side} "
            f"pixels may need {size / 1e9:.1f} GB: set XDG_CACHE_HOME to a larger disk"
        )


def _write(
    directory: Path, judged: Generator[Judged], progress: Callable[[int], None]
) -> list[Entry]:
    """Write a pool into an empty directory: pixels, index, what was left out."""
    done: list[Entry] = []
    kept: dict[int, str] = {}
    with open(directory / "images", "wb") as images, closing(judged):
        for entry, pixels in judged:
            if pixels is not None and entry.hash in kept:
                reason = f"{entry.path}: the same as {kept[entry.hash]}"
                entry = replace(entry, hash=0, cause="duplicates", reason=reason)
            elif pixels is not None:
                images.write(pixels.tobytes())
                kept[entry.hash] = entry.path
            done.append(entry)
            progress(len(done))
        images.flush()
        os.fsync(images.fileno())
    reasons = "".join(f"{entry.reason}\n" for entry in done if entry.cause)
    (directory / "left-out.txt").write_text(reasons, "utf-8", "backslashreplace")
    rows = [list(vars(entry).values()) for entry in done]
    (directory / "index.json").write_text(json.dumps(rows))
    return done


def split(pool: Pool, val_pool: Pool, fraction: float, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose rows of `pool` to train on, and from one to 256 rows of `val_pool` to validate on.

    If both are the same pool, a fraction of it validates. The files' content decides which, so a
    photograph stays on its side when others are added, unless there are more than 256. What both
    pools hold is not trained on.

    Raises:
        DataError: too few are left for one batch.
    """
    held_out = np.argsort(val_pool.hashes, kind="stable")
    if val_pool is pool:
        held_out = held_out[: max(1, int((pool.hashes < fraction * 2.0**64).sum()))][:VALIDATED]
        rows = np.setdiff1d(np.arange(len(pool)), held_out)
    else:
        held_out = held_out[:VALIDATED]
        rows = np.flatnonzero(~np.isin(pool.hashes, val_pool.hashes))
    if len(rows) < batch:
        raise DataError(
            f"there are {len(rows)} photographs to train on besides {len(held_out)} to validate, "
            f"fewer than one batch of {batch}: add photographs, or set a smaller --batch"
        )
    return rows, held_out


def label_names(pool: Pool, rows: np.ndarray) -> tuple[str, ...]:
    """List the labels: first folders of the photographs' paths, in alphabetical order.

    A label needs 20 of these rows; `unlabelled` is none.
    """
    counts = Counter(_folder(pool.paths[row]) for row in rows)
    return tuple(sorted(name for name in counts if name and counts[name] >= FEWEST))


def label_numbers(pool: Pool, names: tuple[str, ...]) -> np.ndarray:
    """Give the place of each photograph's label among the names: int32 `N`, −1 for none."""
    places = {name: place for place, name in enumerate(names)}
    return np.array([places.get(_folder(path), -1) for path in pool.paths], np.int32)


def _folder(path: str) -> str:
    first, *rest = Path(path).parts
    name = first if rest and first != "unlabelled" else ""
    return name.encode(errors="backslashreplace").decode()  # a folder's name need not be text


@jax.jit
def _statistics(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Measure a picture `S S 3` of uint8: its mean ab, and its pixels in each bin."""
    ab = color.rgb_to_lab(image / 255.0)[..., 1:]
    return ab.mean((0, 1)), palette.histogram(ab)


def color_statistics(pool: Pool, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure the colours of up to 4,096 photographs, evenly spread over the rows.

    Returns:
        Their mean ab, of shape 2, and their pixels in each bin, `261`.
    """
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), 4096)).astype(int)]
    means, histograms = zip(*(_statistics(pool.images[row]) for row in some), strict=True)
    return np.mean(means, axis=0), np.sum(histograms, axis=0)


def device_put_rows(array: np.ndarray, rows: np.ndarray, sharding=None) -> jax.Array:
    """Put rows of an array on the device, or on each device its part of them.

    A process reads what its own devices get, nothing else.
    """
    if sharding is None:
        return jax.device_put(array[rows])
    shape = (len(rows), *array.shape[1:])
    return jax.make_array_from_callback(shape, sharding, lambda at: array[rows[at[0]]])  # type: ignore - it wants a dtype, too


def batches(
    pool: Pool,
    labels: np.ndarray,
    rows: np.ndarray,
    batch: int,
    seed: int,
    first: int,
    last: int,
    sharding=None,
) -> Generator[tuple[jax.Array, jax.Array]]:
    """Yield batches `first` up to `last` of a run on the device, each gathered one ahead.

    A batch is photographs `B S S 3` uint8 of the pool and their labels, int32 `B`. Each epoch takes
    all rows in a new order that follows from the seed, but for those left over after its last whole
    batch.
    """
    per_epoch = len(rows) // batch

    @lru_cache(1)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(rows)

    def gather(step: int) -> tuple[jax.Array, jax.Array]:
        epoch, place = divmod(step, per_epoch)
        chosen = order(epoch)[place * batch : (place + 1) * batch]
        images = device_put_rows(pool.images, chosen, sharding)
        return images, device_put_rows(labels, chosen, sharding)

    with closing(map_ahead(gather, range(first, last), threads=1, most=1)) as gathered:
        yield from gathered
