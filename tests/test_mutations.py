"""What `mutations.py` does for long, briefly; and what hypothesis thinks up."""

import mutations
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colorjax.media import files

# pytest takes away the filters that `files` sets.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")

# Disks take their time; one folder serves all examples of a test.
relaxed = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_damaged_files_are_coloured_or_refused(tmp_path):
    outcome = mutations.run(200, 1, tmp_path)
    assert outcome["coloured"] > 30 and outcome["refused"] > 30


@relaxed
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    colour=st.booleans(),
    alpha=st.booleans(),
    deep=st.booleans(),
    suffix=st.sampled_from(["png", "tif", "webp", "bmp", "ppm"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_written_losslessly_is_read_again(
    tmp_path, shape, colour, alpha, deep, suffix, seed
):
    random, dtype = np.random.default_rng(seed), np.uint16 if deep else np.uint8
    top = np.iinfo(dtype).max
    pixels = random.integers(0, top + 1, (*shape, 3) if colour else shape).astype(dtype)
    opacity = random.integers(0, top + 1, shape).astype(dtype) if alpha else None
    path = tmp_path / f"a.{suffix}"
    notes = files.write(path, files.Photograph(pixels, opacity), overwrite=True)
    again = files.read(path)
    deep_kept = deep and suffix in ("png", "tif")
    expected = pixels if deep_kept or not deep else np.round(pixels / 257).astype(np.uint8)
    found = again.pixels
    if found.ndim == 3 and not colour:
        found = found[..., 0]
    np.testing.assert_array_equal(found, expected)
    assert bool(notes) == ((deep and not deep_kept) or (alpha and suffix in ("bmp", "ppm")))
    if alpha and suffix in ("png", "tif", "webp") and opacity.min() < top and deep_kept == deep:
        np.testing.assert_array_equal(again.alpha, opacity)
