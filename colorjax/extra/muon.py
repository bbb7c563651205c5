"""Muon: momentum whose kernels' updates are made orthogonal, so that no direction is left behind.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". A kernel is a matrix
from what it sees, `size·size·channels`, to its features; all its singular values become about 1.
Biases, scales, and the first and last layers stay with Adam, as there.
"""

from collections import defaultdict
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

MOMENTUM = 0.95
# So that an update is as large as Adam's, and one learning rate serves both (Liu et al. 2025).
_RMS = 0.2


def scale_by_muon(outer: tuple[str, ...] = ()) -> optax.GradientTransformation:
    """Gradients → updates of unit scale: Muon's of the hidden kernels, Adam's of the rest.

    Args:
        outer: the network's parts, by their names, that stay with Adam whole.
    """
    muon = optax.chain(optax.trace(MOMENTUM, nesterov=True), optax.stateless(_orthogonalised))
    adam = optax.scale_by_adam(b2=0.99)
    return optax.partition({"muon": muon, "adam": adam}, partial(kinds, outer=outer))


def kinds(params: Any, outer: tuple[str, ...] = ()) -> Any:
    """Choose what updates each parameter: "muon" or "adam"."""

    def kind(path, parameter) -> str:
        hidden = parameter.ndim == 4 and getattr(path[0], "key", "") not in outer
        features = parameter.shape[-1] if hidden else 1
        return "muon" if min(features, parameter.size // features) >= 16 else "adam"

    return jax.tree_util.tree_map_with_path(kind, params)


def _orthogonalised(updates, _=None):
    """Make each kernel's update orthogonal, those of one shape together: few, large products."""
    leaves, tree = jax.tree.flatten(updates)
    alike = defaultdict(list)
    for place, leaf in enumerate(leaves):
        alike[leaf.shape].append(place)
    for shape, places in alike.items():
        matrices = jnp.stack([leaves[place].reshape(-1, shape[-1]) for place in places])
        scale = _RMS * max(matrices.shape[1:]) ** 0.5
        for place, matrix in zip(places, scale * orthogonal(matrices), strict=True):
            leaves[place] = matrix.reshape(shape)
    return jax.tree.unflatten(tree, leaves)


@jax.default_matmul_precision("highest")  # TF32 makes small eigenvalues negative: they grow
def orthogonal(matrices: jax.Array) -> jax.Array:
    """Bring matrices `N rows columns` near the orthogonal ones nearest to them.

    Jordan's Newton-Schulz iteration brings the singular values to 0.7…1.2; those below a
    thousandth of the norm stay smaller. It runs on the square, the product of a matrix with its
    transpose: with nine times as many columns as rows that takes 0.4 of the operations of running
    it on the matrix.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    x = matrices / (jnp.linalg.norm(matrices, axis=(1, 2), keepdims=True) + 1e-8)
    identity = jnp.broadcast_to(jnp.eye(x.shape[1]), (len(x), x.shape[1], x.shape[1]))

    def improve(_, state):
        factor, square = state
        polynomial = 3.4445 * identity - 4.7750 * square + 2.0315 * square @ square
        return polynomial @ factor, polynomial @ square @ polynomial

    return jax.lax.fori_loop(0, 5, improve, (identity, x @ x.mT))[0] @ x
