"""Damaged pictures through `colorize.main`, in one process: each is coloured or gets a sentence.

    python tests/mutations.py [COUNT] [SEED]

Real files of every format have some bytes changed, cut out, repeated or cut off. A traceback, more
than one line, an output beside a refusal, a minute without an answer or memory that grows by half a
gigabyte ends it with the name of the file, which is kept.
"""

import argparse
import contextlib
import io
import resource
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from pictures import EXAMPLES

import colorize
from colorjax import checkpoint, model
from colorjax.media import files
from colorjax.model import NetworkConfig

SECONDS, GROWTH = 60, 512  # for one file; MiB in all


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """Some bytes changed, most near the front where the headers are; some taken out or repeated."""
    changed = bytearray(data)
    for _ in range(random.integers(1, 6)):
        place = int(random.integers(0, min(len(data), (64, 1024, len(data))[random.integers(3)])))
        changed[place] = (0, 255, 128, random.integers(0, 256))[random.integers(4)]
    start, length = (int(random.integers(0, limit)) for limit in (len(changed), 99))
    match random.integers(0, 10):
        case 0:
            del changed[start : start + length]
        case 1:
            changed[start:start] = changed[start : start + length]
        case 2:
            del changed[start:]
    return bytes(changed)


def peak() -> int:
    """The most memory this process ever had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class Hung(BaseException):
    """Not an Exception, which the command would answer with a sentence."""


def hung(*_) -> None:
    raise Hung(f"no answer in {SECONDS} s")


def run(count: int, seed: int, place: Path, say=lambda text: None) -> Counter:
    """Colour so many damaged files; how many were coloured and how many refused.

    Raises:
        AssertionError: one of them was answered in another way.
    """
    random, outcome = np.random.default_rng(seed), Counter()
    weights, source, out = place / "w.safetensors", place / "in.bin", place / "out.png"
    header = {"kind": "unet", "width": 16}
    checkpoint.save_weights(weights, model.init(0, NetworkConfig(**header)), header, {"size": 16})
    names = list(EXAMPLES)
    argv = [str(source), str(out), "--weights", str(weights), "--max-megapixels", "1"]
    before = signal.signal(signal.SIGALRM, hung)
    most = 0
    try:
        for number in range(count):
            name = names[number % len(names)]
            source.write_bytes(mutated(EXAMPLES[name], random))
            said, error = io.StringIO(), io.StringIO()
            signal.alarm(SECONDS)
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(error):
                status = colorize.main(argv)
            signal.alarm(0)
            lines = error.getvalue().strip().splitlines()
            where = f"mutation {number} ({name}) of seed {seed}: {source}"
            if status in (0, 1):  # 1: part of it is missing
                assert len(lines) == status and files.read(out).pixels.size, f"{where}: {lines}"
                out.unlink()
                outcome["coloured"] += 1
            else:
                assert status == 2 and len(lines) == 1, f"{where}: status {status}, {lines}"
                assert lines[0].startswith(f"colorize.py: {source} "), f"{where}: {lines}"
                assert not out.exists(), f"{where}: refused, but written"
                outcome["refused"] += 1
            if number == len(names):
                most = peak() + GROWTH  # everything is loaded and compiled
            assert not most or peak() < most, f"{where}: {peak()} MiB"
            if number % 500 == 499:
                say(f"{number + 1}: {dict(outcome)}, {peak()} MiB")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return outcome


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("count", type=int, nargs="?", default=10_000)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mutations-"))
    print(dict(run(options.count, options.seed, folder, print)))
