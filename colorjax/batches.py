"""A pool of photographs → what trains and what validates, labels, batches on the device.

Batch k is a pure function of the run's seed and k, so training needs no iterator state.
"""

from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from colorjax.data import DataError, Pool

FEWEST = 20  # photographs that make a label


def split(pool: Pool, val_pool: Pool, fraction: float, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `pool` to train on, and rows of `val_pool` to validate on, at least one.

    Where both are the same pool, a fraction of it validates. Sides are chosen by the files'
    content, so a photograph stays on its own whatever is added to the folder; what both pools hold
    is not trained on.

    Raises:
        DataError: too few are left for one batch.
    """
    if val_pool is pool:
        held_out = np.argsort(pool.hashes, kind="stable")
        held_out = held_out[: max(1, int((pool.hashes < fraction * 2.0**64).sum()))]
        rows = np.setdiff1d(np.arange(len(pool)), held_out)
    else:
        held_out = np.argsort(val_pool.hashes, kind="stable")
        rows = np.flatnonzero(~np.isin(pool.hashes, val_pool.hashes))
    if len(rows) < batch:
        raise DataError(
            f"there are {len(rows)} photographs to train on besides {len(held_out)} to validate, "
            f"fewer than one batch of {batch}: add photographs, or set a smaller --batch"
        )
    return rows, held_out


def label_names(pool: Pool, rows: np.ndarray) -> tuple[str, ...]:
    """What photographs are of, by the first folder of their paths, in alphabetical order.

    Of the folders that hold 20 of these rows at least; not of `unlabelled`.
    """
    counts = Counter(_folder(pool.paths[row]) for row in rows)
    return tuple(sorted(name for name in counts if name and counts[name] >= FEWEST))


def label_numbers(pool: Pool, names: tuple[str, ...]) -> np.ndarray:
    """The place of each photograph's label in the names, int32 `N`; −1 where it has none."""
    places = {name: place for place, name in enumerate(names)}
    return np.array([places.get(_folder(path), -1) for path in pool.paths], np.int32)


def _folder(path: str) -> str:
    first, *rest = Path(path).parts
    name = first if rest and first != "unlabelled" else ""
    return name.encode(errors="backslashreplace").decode()  # a folder's name need not be text


def put(array: np.ndarray, rows: np.ndarray, sharding=None) -> jax.Array:
    """Some rows of an array on the device, or each device's share of them there.

    A process reads what its own devices are given, nothing else.
    """
    if sharding is None:
        return jax.device_put(array[rows])
    shape = (len(rows), *array.shape[1:])
    return jax.make_array_from_callback(shape, sharding, lambda at: array[rows[at[0]]])  # type: ignore


def batches(
    pool: Pool,
    labels: np.ndarray,
    rows: np.ndarray,
    batch: int,
    seed: int,
    first: int,
    last: int,
    sharding=None,
) -> Generator[tuple[jax.Array, jax.Array]]:
    """Batches `first` up to `last` on the device, each gathered one ahead.

    Photographs `B S S 3` uint8, and their labels, int32 `B`.

    Each epoch takes all rows in a new order that follows from the seed, less what is left over
    after the last whole batch.

    Args:
        pool: where from.
        labels: as `label_numbers` gives them.
        rows: which of its photographs.
        batch: B, at most as many as there are rows.
        seed: of the run.
        first: the step of the first batch.
        last: the step before which to end.
        sharding: where to put them.
    """
    epoch, order = -1, rows

    def gather(step: int) -> tuple[jax.Array, jax.Array]:
        nonlocal epoch, order
        per_epoch = len(rows) // batch
        if epoch != step // per_epoch:
            epoch = step // per_epoch
            order = np.random.default_rng((seed, epoch)).permutation(rows)
        place = step % per_epoch * batch
        taken = order[place : place + batch]
        return put(pool.images, taken, sharding), put(labels, taken, sharding)

    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(gather, first)
        for step in range(first, last):
            result = ahead.result()
            ahead = thread.submit(gather, step + 1)
            yield result
