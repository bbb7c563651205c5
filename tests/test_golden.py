"""Three training steps of each network come out as they always did."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import picture

from colorjax import color, palette, step
from colorjax.config import TrainConfig

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
# AdamW: of Muon, test_muon.py says what it must compute.
CONFIGS = {
    name: TrainConfig(
        size=16, width=16, lr=2e-3, optimizer="adamw", schedule="cosine", dtype="float32", **values
    )
    for name, values in {
        "paper": {"network": "paper", "head": "ab"},
        "unet": {"network": "unet", "head": "ab"},
        "bins": {"network": "unet", "label_names": ("cat", "dog")},
    }.items()
}


def three_steps(name: str):
    """The state after three steps, and what they reported."""
    images = np.stack([picture(number, 18, 18) for number in range(6)])
    histogram = palette.histogram(color.rgb_to_lab(images / 255.0)[..., 1:])
    config, results = CONFIGS[name], []
    state = step.create_state(config, 20, histogram=histogram)
    labels = np.array([0, 1, -1, 0, 1, 1], np.int32)
    for _ in range(3):
        state, result = step.train_step(config, state, images, labels)
        results.append({key: float(value) for key, value in result.items()})
    return state, results


def summary(state, results) -> dict[str, float]:
    """Few numbers that any change of the arithmetic moves."""
    numbers = {f"{key} {i}": value for i, r in enumerate(results) for key, value in r.items()}
    for path, leaf in jax.tree.leaves_with_path(state.params):
        values = np.asarray(leaf, np.float64).ravel()
        # Weighed unevenly, so that signs and order count.
        weighed = values * (2 + np.cos(np.arange(values.size)))
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        numbers[name] = float(f"{np.linalg.norm(weighed):.9g}")
    return numbers


@pytest.mark.parametrize("name", CONFIGS)
def test_three_steps_are_those_of_always(name):
    actual = summary(*three_steps(name))
    assert actual.keys() == GOLDEN[name].keys()
    for key, expected in GOLDEN[name].items():
        # Adam divides by a gradient's size, so that rounding grows where gradients are near zero:
        # between two versions of jax biases, which begin at zero, differ by up to 8e-4.
        rtol = 1e-5 if key.endswith("kernel") else 2e-3
        np.testing.assert_allclose(actual[key], expected, rtol=rtol, err_msg=key)
