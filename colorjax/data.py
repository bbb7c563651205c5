"""A folder of photographs → a packed uint8 pool on disk.

`pack` decodes the folder once: one memory-mapped array `N S S 3` of uint8 sRGB, beside it an index
and a list of what was left out and why. Nothing here grows with the folder but the index.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import jax
import numpy as np
from numpy.lib import format as npy

from colorjax import color, files

_VERSION = 1  # of the pool's layout: another number packs anew
_CHUNK = 2**26  # bytes of photographs decoded and judged at a time


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


def _fingerprint(folder: Path, paths: list[Path], settings: list) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, *settings]).encode())
    for path in paths:
        stat = path.stat()
        line = f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\0"
        digest.update(os.fsencode(line))  # names need not be text
    return digest.hexdigest()[:16]


def _load(directory: Path) -> Pool:
    index = json.loads((directory / "index.json").read_text())
    return Pool(
        images=np.load(directory / "images.npy", mmap_mode="r"),
        hashes=np.load(directory / "hashes.npy"),
        paths=index["paths"],
        left_out=index["left_out"],
        fingerprint=index["fingerprint"],
        directory=directory,
    )


_colorfulness = jax.jit(lambda images: color.colorfulness(images / 255.0))


def _decode(path: Path, side: int) -> tuple[int, np.ndarray] | files.FileError:
    """A file's content hash and pixels, or why it can't be used."""
    try:
        content = path.read_bytes()
        digest = hashlib.blake2b(content, digest_size=8).digest()
        return int.from_bytes(digest, "big"), files.read_small(content, str(path), side)
    except files.FileError as error:
        return error
    except OSError as error:
        return files.FileError(f"{path} cannot be read: {error.strerror}")


def _judged(
    paths: list[Path], side: int, min_colorfulness: float
) -> Iterator[tuple[Path, int, np.ndarray | None, str, str]]:
    """Each path with its hash and pixels, or with the cause and reason for leaving it out."""
    seen: dict[int, Path] = {}
    chunk = max(1, min(256, _CHUNK // (3 * side * side)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes and scales without the GIL
        waiting = iter(paths)
        pending = [(path, pool.submit(_decode, path, side)) for path in islice(waiting, chunk)]
        while pending:
            ahead = [(path, pool.submit(_decode, path, side)) for path in islice(waiting, chunk)]
            results = [(path, future.result()) for path, future in pending]
            images = np.zeros((chunk, side, side, 3), np.uint8)
            for row, (_, result) in enumerate(results):
                if not isinstance(result, files.FileError):
                    images[row] = result[1]
            colorful = np.asarray(_colorfulness(images))
            for row, (path, result) in enumerate(results):
                if isinstance(result, files.FileError):
                    small = isinstance(result, files.TooSmallError)
                    yield path, 0, None, "too small" if small else "unreadable", str(result)
                elif result[0] in seen:
                    yield path, 0, None, "duplicates", f"{path}: the same as {seen[result[0]]}"
                elif colorful[row] < min_colorfulness:
                    reason = f"{path}: colourfulness {colorful[row]:.1f} < {min_colorfulness:g}"
                    yield path, 0, None, "nearly grey", reason
                else:
                    seen[result[0]] = path
                    yield path, result[0], result[1], "", ""
            pending = ahead


def pack(
    folder: str | Path,
    side: int,
    cache: str | Path,
    min_colorfulness: float = 15,
    say: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Pool:
    """Decode a folder of photographs into a pool, or reuse the one packed before.

    Args:
        folder: of any nesting.
        side: S; each photograph's short side is scaled to it and its centre square kept.
        cache: the directory in which pools are kept, one folder each.
        min_colorfulness: less colourful photographs are left out (Hasler and Süsstrunk's number):
            a network that learns from grey photographs answers with grey.
        say: told in a line what is done.
        progress: called with how many files of how many have been decoded.

    Raises:
        DataError: the folder is missing, or holds no photograph that can be used.
        OSError: the pool cannot be written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file: give the folder that holds it" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}")
    paths = files.list_images(folder)
    if not paths:
        kinds = " ".join(sorted(files.SUFFIXES))
        raise DataError(f"{folder} holds no photographs ({kinds})")

    fingerprint = _fingerprint(folder, paths, [side, min_colorfulness])
    name = f"{folder.resolve().name}-{side}px-{fingerprint}"
    directory = Path(cache) / name
    if (directory / "index.json").exists():
        pool = _load(directory)
        say(f"{len(pool)} photographs, packed before in {directory}")
        return pool

    # Packed under another name until it is whole; two runs may well pack one folder at once.
    building = directory.with_name(f"{name}.tmp{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        _build(folder, paths, building, side, min_colorfulness, fingerprint, say, progress)
        try:
            os.rename(building, directory)
        except OSError:
            if not (directory / "index.json").exists():  # else the other run was first
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    pool = _load(directory)
    if pool.left_out:
        say(f"left out: {_counted(pool.left_out)}, listed in {directory / 'left-out.txt'}")
    return pool


def _counted(causes: dict[str, int]) -> str:
    return ", ".join(f"{count} {cause}" for cause, count in causes.items())


def _build(folder, paths, directory, side, min_colorfulness, fingerprint, say, progress) -> None:
    """Write what makes a pool into a directory of its own."""
    size = len(paths) * side * side * 3
    free = shutil.disk_usage(directory).free
    if size > free:
        raise DataError(
            f"{directory} has {free / 1e9:.1f} GB free, and {len(paths)} photographs at {side} "
            f"pixels may need {size / 1e9:.1f} GB: set XDG_CACHE_HOME to a larger disk"
        )
    say(f"packing {len(paths)} photographs at {side} pixels, {size / 1e6:.0f} MB, in "
        f"{directory.parent}")  # fmt: skip

    kept, hashes, causes = [], [], Counter()
    left_out = directory / "left-out.txt"
    with (
        open(directory / "images.npy", "wb") as images,
        open(left_out, "w", encoding="utf-8", errors="backslashreplace") as out,
    ):
        npy.write_array_header_1_0(images, _header(0, side))
        judged = enumerate(_judged(paths, side, min_colorfulness), 1)
        for done, (path, digest, pixels, cause, reason) in judged:
            progress(done, len(paths))
            if pixels is None:
                causes[cause] += 1
                print(reason, file=out)
            else:
                images.write(pixels.tobytes())
                kept.append(str(path.relative_to(folder)))
                hashes.append(digest)
        images.seek(0)  # numpy leaves room in a header for its first axis to grow
        npy.write_array_header_1_0(images, _header(len(kept), side))
    if not kept:
        raise DataError(f"{folder} holds no photograph that can be used: {_counted(causes)}")
    np.save(directory / "hashes.npy", np.array(hashes, np.uint64))
    index = {"fingerprint": fingerprint, "left_out": dict(causes), "paths": kept}
    (directory / "index.json").write_text(json.dumps(index))
    say(f"{len(kept)} photographs packed")


def _header(count: int, side: int) -> dict:
    return {"descr": "|u1", "fortran_order": False, "shape": (count, side, side, 3)}
