import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorjax import color, palette

# Float32 carries about 7 digits: sums of 261 shares of 1 are good to a few 1e-7.
SHARES = 2e-6

encode = jax.jit(palette.encode)
nearest = jax.jit(palette.nearest)
rgb_to_lab = jax.jit(color.rgb_to_lab)


def index_of(a: float, b: float) -> int:
    return int(np.flatnonzero((palette.bins() == (a, b)).all(axis=1))[0])


def one_bin(a: float, b: float, count: int = 1) -> np.ndarray:
    counts = np.zeros(261, np.int32)
    counts[index_of(a, b)] = count
    return counts


def colours() -> jax.Array:
    rgb = np.random.default_rng(0).uniform(size=(5000, 3))
    return rgb_to_lab(jnp.asarray(rgb, jnp.float32))[:, 1:]


def test_bins_are_the_nodes_nearest_to_all_8_bit_colours():
    levels = jnp.arange(256) / 255.0

    @jax.jit
    def occupied(red):
        rgb = jnp.stack(jnp.broadcast_arrays(red, *jnp.meshgrid(levels, levels)), axis=-1)
        ab = color.rgb_to_lab(rgb)[..., 1:]
        node = jnp.round(ab / 10).astype(jnp.int32) + 11
        return 23 * node[..., 0] + node[..., 1], jnp.abs(ab).max()

    seen = np.zeros(23 * 23, bool)
    for red in levels:
        nodes, reach = occupied(red)
        assert reach < 110  # so that the tables over ±110 miss none
        seen[np.asarray(nodes)] = True
    nodes = 10 * (np.argwhere(seen.reshape(23, 23)) - 11)
    assert len(nodes) == 261
    np.testing.assert_array_equal(palette.bins(), nodes)


def test_bins_keep_their_order_and_cannot_be_written_to():
    # A network's outputs are in this order: were it to change, its weights would be worthless.
    bins = palette.bins()
    assert bins.dtype == np.float32
    np.testing.assert_array_equal(bins[[0, 1, 260]], [(-90, 80), (-80, 40), (100, -50)])
    assert index_of(0, 0) == 98
    with pytest.raises(ValueError, match="read-only"):
        bins[0] = 0


def test_tables_can_first_be_built_inside_jit():
    palette.bins.cache_clear()
    palette.soft_encoding.cache_clear()
    targets = jax.jit(palette.encode)(jnp.zeros((2, 2)))
    assert targets.shape == (2, 261) and palette.bins().shape == (261, 2)


def test_encode_by_hand():
    # At (0, 0): itself, and four at a distance of 10: weights 1 and e^(−100 / 50).
    near = np.exp(-2.0)
    # At (3, 0): (0, 0), (10, 0), (0, ±10) are at squares 9, 49, 109; for the fifth place (10, ±10)
    # tie at 149 and have half of it each.
    weights = np.exp(-np.array([9, 49, 109, 109]) / 50)
    half = np.exp(-149 / 50) / 2
    total = weights.sum() + 2 * half
    cases = {
        (0, 0): {(0, 0): 1 / (1 + 4 * near)}
        | dict.fromkeys([(10, 0), (-10, 0), (0, 10), (0, -10)], near / (1 + 4 * near)),
        (3, 0): dict(zip([(0, 0), (10, 0), (0, 10), (0, -10)], weights / total, strict=True))
        | dict.fromkeys([(10, 10), (10, -10)], half / total),
    }
    for ab, shares in cases.items():
        expected = np.zeros(261)
        for bin_ab, share in shares.items():
            expected[index_of(*bin_ab)] = share
        # ab is rounded first: ±0.4 changes nothing.
        for shift in (-0.4, 0.0, 0.4):
            targets = encode(jnp.asarray(ab, jnp.float32) + shift)
            np.testing.assert_allclose(targets, expected, atol=SHARES)


def test_encode_against_sorting_every_distance():
    ab = np.round(np.asarray(colours()))
    squares = ((ab[:, None] - palette.bins()[None]) ** 2).sum(axis=-1)
    fifth = np.sort(squares)[:, 4:5]
    untied = (squares == fifth).sum(axis=1) == 1
    assert untied.sum() > 500
    weights = np.where(squares <= fifth, np.exp(-squares / 50), 0)
    expected = weights / weights.sum(axis=1, keepdims=True)
    targets = np.asarray(encode(jnp.asarray(ab)))
    np.testing.assert_allclose(targets[untied], expected[untied], atol=SHARES)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=SHARES)
    assert (targets[(squares > fifth)] == 0).all()


def test_encode_far_outside_the_gamut_stays_a_distribution():
    axis = np.linspace(-200, 200, 41)
    targets = encode(np.stack(np.meshgrid(axis, axis), axis=-1))
    assert targets.shape == (41, 41, 261)
    # There exponents reach 225, where float32 steps by 1.5e-5, which e^x makes a relative error.
    np.testing.assert_allclose(targets.sum(axis=-1), 1, atol=1e-4)


def test_encode_has_no_gradient():
    grey = index_of(0, 0)
    gradient = jax.jit(jax.grad(lambda ab: palette.encode(ab)[:, grey].sum()))(colours())
    np.testing.assert_array_equal(gradient, 0)


def test_nearest_is_the_bin_of_least_distance():
    ab = colours()
    squares = ((np.asarray(ab)[:, None] - palette.bins()[None]) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(nearest(ab), squares.argmin(axis=1))


def test_nearest_takes_colours_outside_the_gamut_in():
    ab = jnp.array([(104.0, -56.0), (-300.0, 300.0), (300.0, 0.0)])
    # Nodes (100, −60), (−110, 110) and (110, 0), whose nearest bins are these.
    expected = [index_of(100, -60), index_of(-90, 80), index_of(90, 0)]
    reached = palette.bins()[np.asarray(nearest(ab))]
    np.testing.assert_array_equal(reached, palette.bins()[expected])


def test_histogram_counts_every_pixel_once():
    ab = jnp.array([[(0.0, 0.0), (4.9, -4.9)], [(5.1, 0.0), (-90.0, 80.0)]])
    counts = jax.jit(palette.histogram)(ab)
    np.testing.assert_array_equal(counts, one_bin(0, 0, 2) + one_bin(10, 0) + one_bin(-90, 80))
    assert counts.dtype == jnp.int32


def test_rarity_weights_by_hand():
    counts = one_bin(0, 0, 3) + one_bin(60, 0)
    # All bins around both lie in the gamut, so its mass is spread by the kernel
    # 1, e^−2 (4 times), e^−4 (4), e^−8 (4), e^−10 (8), e^−16 (4), …, and p̃ is 3 : 1.
    kernel = np.exp(-(np.add.outer(np.arange(-3, 4) ** 2, np.arange(-3, 4) ** 2)) * 2.0).sum()
    smooth = np.array([0.75, 0.25]) / kernel
    for mix in (0.0, 0.5, 1.0):
        raw = 1 / ((1 - mix) * smooth + mix / 261)
        expected = raw / (raw @ [0.75, 0.25])
        weights = palette.bin_weights(counts, mix)
        found = [weights[index_of(0, 0)], weights[index_of(60, 0)]]
        # What the kernel leaves out, from a distance of 4 bins on, is below 1e-13.
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    # Wholly balanced, both colours weigh the same in the sum: ¾ · ⅔ = ¼ · 2.
    np.testing.assert_allclose(
        palette.bin_weights(counts, 0)[np.flatnonzero(counts)], [2 / 3, 2], rtol=1e-5
    )


def test_favoured_multiplies_probabilities_by_a_power_of_the_weights():
    logits = np.random.default_rng(0).standard_normal((2, 3, 261)).astype(np.float32)
    weights = palette.bin_weights(one_bin(0, 0, 3) + one_bin(60, 0))
    share = np.exp(logits) * np.asarray(weights) ** 1.5
    expected = share / share.sum(axis=-1, keepdims=True)
    found = jax.nn.softmax(palette.adjust_logits(logits, weights, 1.5))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_array_equal(palette.adjust_logits(logits, weights, 0.0), logits)


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_rarity_weights_are_1_in_the_mean_and_finite(mix):
    ab = colours()
    counts = palette.histogram(ab)
    weights = jax.jit(palette.bin_weights)(counts, mix)
    assert np.isfinite(palette.bin_weights(one_bin(-90, 80), mix)).all()
    # Float32 sums of 5,000 weights.
    np.testing.assert_allclose(weights[nearest(ab)].mean(), 1, rtol=1e-4)
    if mix == 1:
        np.testing.assert_allclose(weights, 1, rtol=1e-5)


def test_rarity_weights_take_counts_beyond_int32():
    small = np.arange(1, 262)
    # 261 · 262 / 2 · 10^9 pixels; only the proportions count.
    large = palette.bin_weights(small.astype(np.int64) * 10**9)
    np.testing.assert_allclose(large, palette.bin_weights(small), rtol=1e-5)


def test_annealed_mean_by_hand():
    logits = np.full(261, -1e4, np.float32)
    logits[index_of(0, 0)], logits[index_of(60, 20)] = 0, np.log(3)
    mean = jax.jit(palette.annealed_mean)
    # Shares ¼ and ¾; at a temperature of ½ they are squared first: 1/10 and 9/10.
    np.testing.assert_allclose(mean(logits, 1.0), (45, 15), rtol=1e-6)
    np.testing.assert_allclose(mean(logits, 0.5), (54, 18), rtol=1e-6)
    np.testing.assert_allclose(mean(logits, 0.01), (60, 20), rtol=1e-6)
    everything = mean(np.zeros((2, 3, 261), np.float32), 1.0)
    # A mean of values up to 108 in float32.
    np.testing.assert_allclose(everything[1, 2], palette.bins().mean(axis=0), atol=1e-4)


def test_annealed_mean_decodes_what_encode_encodes():
    ab = colours()
    with np.errstate(divide="ignore"):
        logits = jnp.asarray(np.maximum(np.log(encode(ab)), -1e4))
    distance = np.linalg.norm(palette.annealed_mean(logits) - ab, axis=-1)
    # Rounding to whole numbers, up to 0.7, and five bins of a Gaussian as wide as half a cell
    # pull by up to about 2; only at the gamut's tips are all bins on one side.
    assert distance.mean() < 1.5 and distance.max() < 5


def test_decode_is_the_annealed_mean_of_adjusted_logits_times_the_saturation():
    logits = np.random.default_rng(0).normal(0, 3, (2, 4, 5, 261)).astype(np.float32)
    weights = np.linspace(0.5, 2, 261).astype(np.float32)
    plain = palette.decode(logits, "bins")
    np.testing.assert_array_equal(plain, palette.annealed_mean(logits))
    decoding = palette.Decoding(1.5, 0.7, 0.5, weights)
    expected = palette.annealed_mean(palette.adjust_logits(logits, weights, 0.5), 0.7)
    found = jax.jit(palette.decode, static_argnums=1)(logits, "bins", decoding)
    np.testing.assert_allclose(found, 1.5 * expected, atol=1e-4)  # of up to 160
    ab = logits[..., :2]
    np.testing.assert_array_equal(palette.decode(ab, "ab"), ab)
    np.testing.assert_allclose(palette.decode(ab, "ab", decoding), 1.5 * ab, rtol=1e-6)


def test_entropy_by_hand():
    logits = np.full((4, 261), -1e4, np.float32)
    logits[0, 7] = 0  # one bin: 0
    logits[1, [7, 8]] = 5  # two alike: log 2 / log 261
    logits[2] = 3  # all alike: 1
    logits[3, [7, 8]] = np.log([1, 3])  # ¼ log 4 + ¾ log 4/3
    nats = np.array([0, np.log(2), np.log(261), np.log(4) - 0.75 * np.log(3)])
    found = jax.jit(palette.entropy)(logits)
    np.testing.assert_allclose(found, nats / np.log(261), atol=SHARES)
    assert (found >= 0).all() and (found <= 1).all()


def test_gradients_are_finite_and_low_precision_is_widened():
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 30, (8, 261)), jnp.bfloat16)
    for function in (palette.annealed_mean, palette.entropy):
        assert function(logits).dtype == jnp.float32
        gradient = jax.jit(jax.grad(lambda x, f=function: f(x).sum()))(logits.astype(jnp.float32))
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
