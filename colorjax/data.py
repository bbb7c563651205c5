"""A folder of photographs → a packed uint8 pool on disk.

`pack` decodes the folder once: one memory-mapped array `N S S 3` of uint8 sRGB, beside it an index
and a list of what was left out and why. Nothing here grows with the folder but the index.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

from colorjax import color
from colorjax.media import files
from colorjax.media.overlap import map_ahead

_VERSION = 2  # of the pool's layout: another number packs anew
_UNFINISHED = re.compile(r".*-\d+px-[0-9a-f]{16}\.tmp\d+")  # a pool that is being packed
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


def _fingerprint(folder: Path, paths: list[Path], settings: list) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, *settings]).encode())
    for path in paths:
        stat = path.stat()
        line = f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\0"
        digest.update(os.fsencode(line))  # names need not be text
    return digest.hexdigest()[:16]


def _load(directory: Path, side: int) -> Pool:
    index = json.loads((directory / "index.json").read_text())
    index["hashes"] = np.array(index["hashes"], np.uint64)
    shape = len(index["paths"]), side, side, 3
    if (directory / "images").stat().st_size != np.prod(shape):
        raise DataError(f"{directory} is damaged: delete it, and the photographs are packed anew")
    images = np.memmap(directory / "images", np.uint8, "r", shape=shape)
    return Pool(images=images, directory=directory, **index)


_colorfulness = jax.jit(lambda image: color.colorfulness(image / 255.0))


def _judge(
    path: Path, side: int, min_colorfulness: float
) -> tuple[Path, int, np.ndarray | None, str, str]:
    """A file's hash and pixels, or the cause and reason for leaving it out."""
    try:
        content = path.read_bytes()
        pixels = files.read_small(content, path, side)
    except files.TooSmallError as error:
        return path, 0, None, "too small", str(error)
    except files.FileError as error:
        return path, 0, None, "unreadable", str(error)
    except OSError as error:
        return path, 0, None, "unreadable", f"{path} cannot be read: {error.strerror}"
    if (found := float(_colorfulness(pixels))) < min_colorfulness:
        why = f"{path}: colourfulness {found:.1f} < {min_colorfulness:g}"
        return path, 0, None, "nearly grey", why
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return path, int.from_bytes(digest, "big"), pixels, "", ""


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
        DataError: the folder is missing, or holds no photograph that can be used; the disk is too
            full; the pool packed before is damaged.
        OSError: the pool cannot be written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file: give the folder that holds it" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}")
    paths = files.list_images(folder)
    if not paths:
        raise DataError(f"{folder} holds no photographs ({' '.join(sorted(files.SUFFIXES))})")

    fingerprint = _fingerprint(folder, paths, [side, min_colorfulness])
    name = f"{folder.resolve().name}-{side}px-{fingerprint}"
    directory = Path(cache) / name
    if (directory / "index.json").exists():
        pool = _load(directory, side)
        say(f"{len(pool)} photographs, packed before in {directory}")
        return pool

    # Packed under another name until it is whole; two runs may well pack one folder at once.
    for other in filter(_UNFINISHED.fullmatch, map(str, directory.parent.glob("*"))):
        with suppress(OSError):  # it may just have got its name
            written = max(os.stat(entry).st_mtime for entry in (other, *os.scandir(other)))
            if time.time() - written > 86400:  # by a run that was killed
                shutil.rmtree(other)
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
    pool = _load(directory, side)
    if pool.left_out:
        say(f"left out: {_counted(pool.left_out)}, listed in {directory / 'left-out.txt'}")
    return pool


def _counted(causes: dict[str, int]) -> str:
    return ", ".join(f"{count} {cause}" for cause, count in causes.items())


def _build(folder, paths, directory, side, min_colorfulness, fingerprint, say, progress) -> None:
    """Write what makes a pool into a directory of its own."""
    size, free = len(paths) * side * side * 3, shutil.disk_usage(directory).free
    if size > free:
        raise DataError(
            f"{directory} has {free / 1e9:.1f} GB free, and {len(paths)} photographs at {side} "
            f"pixels may need {size / 1e9:.1f} GB: set XDG_CACHE_HOME to a larger disk"
        )
    say(
        f"packing {len(paths)} photographs at {side} pixels, {size / 1e6:.0f} MB, in "
        f"{directory.parent}"
    )

    kept: dict[int, Path] = {}
    causes, left_out = Counter(), directory / "left-out.txt"
    waiting = min(4 * _THREADS, max(_THREADS, 2**27 // (3 * side * side)))  # to bound memory
    judge = partial(_judge, side=side, min_colorfulness=min_colorfulness)
    with (
        open(directory / "images", "wb") as images,
        open(left_out, "w", encoding="utf-8", errors="backslashreplace") as out,
        closing(map_ahead(judge, paths, _THREADS, waiting)) as judged,
    ):
        for done, (path, digest, pixels, cause, reason) in enumerate(judged, 1):
            progress(done, len(paths))
            if pixels is not None and digest in kept:
                cause, reason = "duplicates", f"{path}: the same as {kept[digest]}"
            if pixels is None or cause:
                causes[cause] += 1
                print(reason, file=out)
            else:
                images.write(pixels)
                kept[digest] = path
        images.flush()
        os.fsync(images.fileno())
    if not kept:
        raise DataError(f"{folder} holds no photograph that can be used: {_counted(causes)}")
    index = {
        "fingerprint": fingerprint,
        "left_out": causes,
        "hashes": list(kept),
        "paths": [str(path.relative_to(folder)) for path in kept.values()],
    }
    (directory / "index.json").write_text(json.dumps(index))
    say(f"{len(kept)} photographs packed")
