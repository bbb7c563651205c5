"""Kill a small run again and again at random moments, resume it, and compare: bits may not differ.

    python tests/kills.py            # 10 kills
    python tests/kills.py --kills 100 --seed 1

A process is killed some time after the first state that it writes, within half of what a run left
alone takes from there to its end: while it trains, validates or writes, which it does after every
second step. The run must end with the parameters, and all else that decides how training goes on,
of the one left alone. Once it has come to its end, another is begun.
"""

import argparse
import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import conftest  # before jax: devices and caches of the tests' own
import numpy as np
import safetensors.numpy
from PIL import Image

ROOT = Path(__file__).parents[1]
SMALL = "--network unet --width 16 --size 16 --batch 8 --devices 1 --validate-every 2".split()
WAIT = 300  # seconds for a run to begin, which compiles once


def start(*argv: object) -> subprocess.Popen:
    """train.py in a process of its own."""
    return subprocess.Popen(
        [str(word) for word in (sys.executable, ROOT / "train.py", *argv)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    """Wait for its end, which must be a good one."""
    error = process.communicate(timeout=WAIT)[1]
    if process.returncode:
        raise AssertionError(f"train.py ended with {process.returncode}: {error}")


def await_state(process: subprocess.Popen, out: Path) -> None:
    """Wait for the first state that a process writes, or for its end."""
    newest, deadline = out / "newest.safetensors", time.monotonic() + WAIT
    before = newest.stat().st_ino if newest.exists() else 0
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # for a moment between two there is none
            if newest.stat().st_ino != before:
                return
        if time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"no state in {WAIT} s")
        time.sleep(0.005)


def kill_again_and_again(
    photographs: Path, folder: Path, kills: int, steps: int, seed: int
) -> None:
    """Kill a run so often, and see that it comes to the end of one left alone.

    Raises:
        AssertionError: it does not.
    """
    chance = random.Random(seed)
    whole, killed = folder / "whole", folder / "killed"
    common = ["--data", photographs, *SMALL, "--steps", steps]
    process = start(*common, "--out", whole)
    await_state(process, whole)
    begun = time.monotonic()
    finish(process)
    pace, done = time.monotonic() - begun, 0
    print(f"left alone it takes {pace:.1f} s from its first state to its end", flush=True)
    while done < kills:
        process = start(*(["--resume"] if killed.exists() else common), "--out", killed)
        await_state(process, killed)
        try:
            process.wait(delay := chance.uniform(0, pace / 2))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            done += 1
            partial = [path.name for path in killed.glob("*.tmp*")]
            print(
                f"kill {done}: {delay:.2f} s after a state, at that of step {_step(killed)}"
                + (f", {', '.join(partial)} half written" if partial else ""),
                flush=True,
            )
        else:
            _compare(process, whole, killed)
            shutil.rmtree(killed)
    if killed.exists():
        _compare(start("--resume", "--out", killed), whole, killed)


def _step(out: Path) -> int:
    """The step of the newest state, 0 without one."""
    for name in ("newest", "previous"):
        if (path := out / f"{name}.safetensors").exists():
            return int(safetensors.numpy.load_file(path)["step"])
    return 0


def _compare(process: subprocess.Popen, one: Path, other: Path) -> None:
    """Wait for a run's end, which must be the other's in bits."""
    finish(process)
    for name in ("newest.safetensors", "weights.safetensors"):
        expected, actual = (safetensors.numpy.load_file(out / name) for out in (one, other))
        if expected.keys() != actual.keys():
            raise AssertionError(f"{name} holds other parts")
        for key in expected:
            np.testing.assert_array_equal(actual[key], expected[key], err_msg=f"{name} {key}")
    logs = [(out / "log.jsonl").read_text().splitlines() for out in (one, other)]
    validated = [[line for line in log if "psnr" in json.loads(line)] for log in logs]
    if validated[0] != validated[1]:
        raise AssertionError("their validations differ")
    print("at its end it equals the run left alone", flush=True)


def main() -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=10, help="(default: 10)")
    parser.add_argument("--steps", type=int, default=40, help="of the run (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number in range(40):
            photograph = folder / "photographs" / f"{number}.png"
            photograph.parent.mkdir(exist_ok=True)
            Image.fromarray(conftest.picture(number)).save(photograph)
        kill_again_and_again(
            folder / "photographs", folder, options.kills, options.steps, options.seed
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
