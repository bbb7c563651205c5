"""Whether training works on a device, in bfloat16 beside float32.

JAX_PLATFORMS=cuda python -m pytest -m gpu -n 0
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_benchmarks import benchmark

from colorjax import step
from colorjax.extra import muon

pytestmark = pytest.mark.gpu
throughput = benchmark("throughput")


@pytest.fixture(scope="module")
def shape(request):
    """Width, pixels a side, photographs: small on a CPU."""
    gpu = jax.default_backend() == "gpu"
    if not gpu and request.config.getoption("-m") != "gpu":
        pytest.skip("there is no GPU")
    return (64, 64, 16) if gpu else (16, 32, 4)


def photographs(size, batch):
    random, side = np.random.default_rng(0), size * 9 // 8
    coarse = random.integers(0, 256, (batch, 6, 6, 3)).astype(np.float32)
    return jax.image.resize(coarse, (batch, side, side, 3), "linear").astype(jnp.uint8)


def settings_of(preset, width, size):
    return replace(throughput.settings_of(preset, width, size, "float32"), film=0, degradation=0)


@pytest.mark.parametrize("preset", ["paper", "unet", "vivid", "lite"])
def test_bfloat16_gives_the_output_loss_and_gradient_of_float32(preset, shape):
    width, size, batch = shape
    settings, random = settings_of(preset, width, size), np.random.default_rng(0)
    state, images = step.create_state(settings), photographs(size, batch)
    params = jax.tree.map(  # none is zero, so that all layers count
        lambda p: p + 0.02 * random.standard_normal(p.shape, np.float32), state.params
    )

    def objective(params, dtype):
        typed = replace(settings, dtype=dtype)
        lightness, truth = step.make_inputs_and_targets(typed, jax.random.key(0), images)
        prediction = step.predict(typed, params, lightness)
        loss = step.ordinary_loss(typed, prediction, truth, state.bin_weights, None)
        return loss, prediction.output

    value = jax.jit(jax.value_and_grad(objective, has_aux=True), static_argnums=1)
    (loss, output), gradient = value(params, "float32")
    (loss16, output16), gradient16 = value(params, "bfloat16")
    for half, full in ((output16, output), (gradient16, gradient)):
        error = optax.tree.norm(jax.tree.map(jnp.subtract, half, full))
        assert float(error / optax.tree.norm(full)) < 0.1  # 8 bits, a dozen layers
    assert abs(float(loss16 - loss)) < 0.02 * abs(float(loss))  # a mean of many


@pytest.mark.parametrize("preset", [*throughput.HEADS])
def test_ten_steps_in_bfloat16_stay_finite_and_learn(preset, shape):
    width, size, batch = shape
    settings = replace(settings_of(preset, width, size), dtype="bfloat16")
    algorithm = throughput.algorithm_of(preset)
    state, losses = algorithm.create_state(settings, 1000), []
    for _ in range(10):
        state, result = algorithm.train_step(settings, state, photographs(size, batch))
        losses.append(float(result["loss"]))
    assert bool(step.is_finite(state)) and np.isfinite(losses).all()
    if preset != "gan":  # whose loss rises and falls with its adversary's
        assert sum(losses[-3:]) < sum(losses[:3])  # each step crops anew


@pytest.mark.usefixtures("shape")
def test_muon_is_right_in_the_devices_arithmetic():
    """A GPU's TF32 would make directions of small gradients run away."""
    random = np.random.default_rng(1)
    left, right = (np.linalg.qr(random.standard_normal((n, 64)))[0] for n in (576, 64))
    matrix = left * np.logspace(0, -6, 64) @ right.T
    values = np.linalg.svd(muon.orthogonal(jnp.asarray(matrix[None], jnp.float32))[0])[1]
    assert values.max() < 1.25
