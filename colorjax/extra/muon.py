"""Muon: momentum whose kernels' updates are made orthogonal, so that no direction is left behind.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". A kernel is a matrix
from what it sees, `size·size·channels`, to its features; all its singular values become about 1.
Biases, scales, and the first and last layers stay with Adam, as there.
"""

from collections import defaultdict

import jax
import jax.numpy as jnp
import optax

MOMENTUM = 0.95
_POLYNOMIAL, _ROUNDS = (3.4445, -4.7750, 2.0315), 5  # Jordan's, of the Newton-Schulz iteration
# So that an update is as large as Adam's, and one learning rate serves both (Liu et al. 2025).
_RMS = 0.2


def scale_by_muon() -> optax.GradientTransformation:
    """Gradients of a network → updates of unit scale: Muon's of its hidden kernels, else Adam's."""
    muon = optax.chain(optax.trace(MOMENTUM, nesterov=True), optax.stateless(_orthogonalised))
    return optax.partition({"muon": muon, "adam": optax.scale_by_adam(b2=0.99)}, _kinds)


def _kinds(params):
    def kind(path, parameter) -> str:
        first, second = (getattr(part, "key", "") for part in (path * 2)[:2])
        outer = first in ("stem", "head", "classifier")
        # A pretrained encoder has blocks; the U-Net's has levels, by number.
        outer = outer or (first == "encoder" and second in ("stem", "blocks"))
        hidden = parameter.ndim == 4 and not outer and min(_sides(parameter)) >= 16
        return "muon" if hidden else "adam"

    return jax.tree_util.tree_map_with_path(kind, params)


def _sides(kernel: jax.Array) -> tuple[int, int]:
    return kernel.size // kernel.shape[-1], kernel.shape[-1]


def _orthogonalised(updates, _=None):
    """Each kernel's update, those of one shape together: a program of few, large products."""
    leaves, tree = jax.tree.flatten(updates)
    alike = defaultdict(list)
    for place, leaf in enumerate(leaves):
        alike[leaf.shape].append(place)
    for places in alike.values():
        matrices = jnp.stack([leaves[place].reshape(_sides(leaves[place])) for place in places])
        scale = _RMS * max(matrices.shape[1:]) ** 0.5
        for place, matrix in zip(places, scale * orthogonal(matrices), strict=True):
            leaves[place] = matrix.reshape(leaves[place].shape)
    return jax.tree.unflatten(tree, leaves)


@jax.default_matmul_precision("highest")  # a GPU's TF32 makes small eigenvalues negative: they grow
def orthogonal(matrices: jax.Array) -> jax.Array:
    """Matrices `N rows columns` → about the orthogonal ones nearest to them.

    A Newton-Schulz iteration brings the singular values to 0.7…1.2; those below a thousandth of
    the norm stay smaller. It runs on the product of a matrix with itself, which is the smaller:
    with three times as many columns as rows, half the operations of running it on the matrix.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.swapaxes(1, 2)).swapaxes(1, 2)
    a, b, c = _POLYNOMIAL
    x = matrices / (jnp.linalg.norm(matrices, axis=(1, 2), keepdims=True) + 1e-8)
    identity = jnp.broadcast_to(jnp.eye(x.shape[1]), (len(x), x.shape[1], x.shape[1]))

    def improve(_, state):
        factor, square = state
        polynomial = a * identity + b * square + c * square @ square
        return polynomial @ factor, polynomial @ square @ polynomial

    start = identity, x @ x.swapaxes(1, 2)
    return jax.lax.fori_loop(0, _ROUNDS, improve, start)[0] @ x
