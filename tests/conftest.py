"""Four CPU devices, caches of the tests' own, and a small folder of photographs."""

import os
import signal
import tempfile
from pathlib import Path

# Before jax starts: packed photographs stay among the tests, shared by pytest's workers and the
# processes they start; compiled programs are kept for the next time.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="colorjax-tests-")
    os.environ["XDG_CACHE_HOME"] = _CACHE.name
_PROGRAMS = Path(__file__).parents[1] / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_PROGRAMS))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # test_gpu.py says how to run on a GPU
os.environ["JAX_NUM_CPU_DEVICES"] = "4"  # in subprocesses too: sums are split by it

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background of a script
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
from PIL import Image

from colorjax import device

device.use_compilation_cache()


def picture(seed: int, height: int = 40, width: int = 52) -> np.ndarray:
    """A colourful scene, `H W 3` uint8: smooth ground, a disc, some texture; unlike any other."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    ground, sky, disc = random.uniform(0, 255, (3, 3))
    scene = ground + (sky - ground) * y[..., None]
    centre, radius = random.uniform(0.2, 0.6, 2), random.uniform(0.1, 0.3)
    inside = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2)[..., None]
    scene = np.where(inside, disc, scene) + random.normal(0, 6, (height, width, 1))
    return np.clip(scene, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """A folder of 40 colourful photographs in several formats, sizes and subfolders."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(40):
        suffix = ("jpg", "png", "webp", "tif", "bmp")[number % 5]
        place = folder / ("flowers" if number % 2 else "nested/deeper")
        place.mkdir(parents=True, exist_ok=True)
        size = (40, 52) if number % 3 else (60, 36)
        Image.fromarray(picture(number, *size)).save(place / f"{number:03}.{suffix}")
    return folder


def refused(capsys, main, argv, *words) -> None:
    """The command ends with status 2 and one sentence on stderr that holds the words."""
    with_usage = False
    capsys.readouterr()
    try:
        status = main([str(word) for word in argv])
    except SystemExit as stop:  # argparse's own refusals, which print the usage before
        status, with_usage = stop.code, True
    error = capsys.readouterr().err.strip()
    assert status == 2 and "Traceback" not in error
    assert with_usage or len(error.splitlines()) == 1
    for word in words:
        assert str(word) in error
