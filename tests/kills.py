"""Kill a small run again and again at random moments, resume it, and compare: bits may not differ.

    python tests/kills.py            # 100 kills
    python tests/kills.py --kills 5 --seed 1

Killed while it packs, trains, validates or writes, the run must end with the parameters, and all
else that decides how training goes on, of one that nothing interrupted.
"""

import argparse
import json
import random
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


def start(*argv: object) -> subprocess.Popen:
    """train.py in a process of its own."""
    command = [sys.executable, ROOT / "train.py", *argv]
    return subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    """Wait for its end, which must be a good one."""
    error = process.communicate(timeout=600)[1]
    if process.returncode:
        raise AssertionError(f"train.py ended with {process.returncode}: {error}")


def kill_again_and_again(
    photographs: Path, folder: Path, kills: int, steps: int, seed: int
) -> dict:
    """Kill a run so often; what became of it, once it is known to equal one left alone.

    Raises:
        AssertionError: it does not.
    """
    chance = random.Random(seed)
    whole, killed = folder / "whole", folder / "killed"
    common = ["--data", photographs, *SMALL, "--steps", steps]
    begun = time.monotonic()
    finish(start(*common, "--out", whole))
    seconds = time.monotonic() - begun
    died, ended = [], 0
    while len(died) < kills:
        again = (killed / "config.json").exists()
        if not again and killed.exists():  # killed before it had written what it is
            for path in killed.iterdir():
                path.unlink()
        process = start(*(["--resume"] if again else common), "--out", killed)
        time.sleep(chance.uniform(0, 1.2 * seconds))
        if process.poll() is None:
            process.kill()
            process.communicate()
            died.append(_step(killed))
        else:  # it has come to its end: another begins, and is killed in its turn
            finish(process)
            ended += 1
            _same(whole, killed)
            for path in sorted(killed.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            killed.rmdir()
    again = (killed / "config.json").exists()
    finish(start(*(["--resume"] if again else common), "--out", killed))
    _same(whole, killed)
    return {"kills": kills, "at steps": sorted(died), "runs that came to their end": ended + 1}


def _step(out: Path) -> int:
    """The step of the newest state, 0 without one."""
    for name in ("newest", "previous"):
        if (path := out / f"{name}.safetensors").exists():
            return int(safetensors.numpy.load_file(path)["step"])
    return 0


def _same(one: Path, other: Path) -> None:
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


def main() -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="(default: 100)")
    parser.add_argument("--steps", type=int, default=40, help="of the run (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number in range(40):
            photograph = folder / "photographs" / f"{number}.png"
            photograph.parent.mkdir(exist_ok=True)
            Image.fromarray(conftest.picture(number)).save(photograph)
        result = kill_again_and_again(
            folder / "photographs", folder, options.kills, options.steps, options.seed
        )
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
