"""Weights in one file, and training state that can be resumed.

Weights are safetensors: parameters under their dotted names, and in the header, as JSON, the
network's configuration, how its output becomes colour and a summary of how it was trained, so that
one file is enough. They are data, never code. Training state is kept by orbax, atomically and asynchronously; orbax is
imported only there, so that colouring a photograph never loads it.
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from colorjax import model
from colorjax.model import NetworkConfig
from colorjax.palette import Decoding

Tree = dict[str, Any]


class WeightsError(ValueError):
    """What is wrong with a file of weights, as one sentence."""


_name = partial(jax.tree_util.keystr, simple=True, separator=".")


def _flat(tree: Tree) -> Tree:
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def save_weights(
    path: str | Path,
    params: Tree,
    network: Tree,
    summary: Tree,
    dtype: str = "float32",
    decoding: Decoding | None = None,
) -> None:
    """Write parameters whole or not at all.

    Args:
        path: of the file, `.safetensors` by custom.
        params: a nested dict of arrays.
        network: the network's configuration, JSON.
        summary: how they were trained, JSON.
        dtype: of the file's numbers; float16 halves its size.
        decoding: how their output becomes colour; without it the file is as older ones are, whose
            summary says so.
    """
    tensors = {name: np.asarray(value).astype(dtype) for name, value in _flat(params).items()}
    header = {"network": network, "summary": summary}
    if decoding is not None:
        values, weights = dict(vars(decoding)), decoding.bin_weights
        values["bin_weights"] = None if weights is None else [float(f"{w:.6g}") for w in weights]
        header["decoding"] = values
    metadata = {name: json.dumps(value) for name, value in header.items()}
    temporary = Path(f"{path}.tmp{os.getpid()}")
    try:
        temporary.write_bytes(safetensors.numpy.save(tensors, metadata))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_header(path: str | Path) -> tuple[NetworkConfig, Decoding, Tree]:
    """The network, how its output becomes colour, and the training summary of a file of weights.

    Raises:
        WeightsError: there is no such file, or it holds no weights of this project.
    """
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
        network, summary = json.loads(metadata["network"]), json.loads(metadata["summary"])
        decoding = json.loads(metadata["decoding"]) if "decoding" in metadata else None
        if not (isinstance(network, dict) and isinstance(summary, dict)):
            raise ValueError("its header is not train.py's")
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist") from None
    except KeyError:
        raise WeightsError(
            f"{path} holds no network's configuration: not weights that train.py wrote"
        ) from None
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} is not a file of weights: {error}") from None
    try:
        config = NetworkConfig(**network)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path} holds another network: {error}") from None
    try:
        return config, _decoding(decoding or _older(summary)), summary
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: {error}") from None


def _older(summary: Tree) -> Tree:
    """The decoding of files that have it in their summary, under these names."""
    names = {"rarity_power": "rarity", "bin_weights": "rarity_weights"}
    names |= {name: name for name in ("saturation", "temperature", "working_size")}
    found = {name: summary[old] for name, old in names.items() if old in summary}
    # In training the network saw crops, so things were larger.
    return {"working_size": 3 * summary.get("size", 64) // 2} | found


def _decoding(values: Tree) -> Decoding:
    weights = values.get("bin_weights")
    weights = None if weights is None else np.asarray(weights, np.float32)
    decoding = Decoding(**values | {"bin_weights": weights})
    decoding.check()
    return decoding


def load(path: str | Path) -> tuple[Tree, NetworkConfig, Decoding, Tree]:
    """What a file of weights holds: its parameters as float32, and what `read_header` gives.

    Raises:
        WeightsError: the file is not one of this project's weights.
    """
    header = read_header(path)
    return load_weights(path, model.shapes(header[0])), *header


def load_weights(path: str | Path, expected: Tree) -> Tree:
    """Read parameters as float32.

    Args:
        path: as `save_weights` wrote it.
        expected: a nested dict of anything that has a shape: what the network needs.

    Raises:
        WeightsError: a part is missing, is one too many, has another shape or is not finite.
    """
    shapes = _flat(expected)
    try:
        tensors = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} is not a file of weights: {error}") from None
    for name in shapes.keys() ^ tensors.keys():
        what = "lacks" if name in shapes else "holds a part that its network has not:"
        raise WeightsError(f"{path} {what} {name}")
    for name, tensor in tensors.items():
        if tensor.shape != shapes[name].shape:
            raise WeightsError(
                f"{path}: {name} is {tensor.shape}, its network needs {shapes[name].shape}"
            )
        if not np.issubdtype(tensor.dtype, np.floating):
            raise WeightsError(f"{path}: {name} is {tensor.dtype}, not floating-point numbers")
        with np.errstate(over="ignore"):  # converted by numpy: nothing to compile
            tensors[name] = tensor.astype(np.float32)
        if not np.isfinite(tensors[name]).all():
            raise WeightsError(f"{path}: {name} holds numbers that are not finite")
    return jax.device_put(jax.tree.map_with_path(lambda path, _: tensors[_name(path)], expected))


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """A full disk reaches us as one of many exceptions of orbax and tensorstore."""
    try:
        yield
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise OSError(f"a checkpoint could not be written: {first}") from error


class Checkpoints:
    """Training states in a directory: the newest and the best are kept.

    Saving copies the state and writes in the background; a checkpoint appears whole or not at all.
    """

    def __init__(self, directory: str | Path):
        """Open or create the directory."""
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as managers

        self._ocp = ocp
        # It warns of checkpoints without a value, which an interrupted run makes on purpose, and
        # prints tracebacks of its threads' faults, which `save` and `wait` raise.
        logging.getLogger("absl").setLevel(logging.CRITICAL)

        value = itemgetter("value")
        # Both: keeping only the best would delete the newest, and a resume would go back to it.
        best = managers.BestN(n=1, get_metric_fn=value, keep_checkpoints_without_metrics=False)
        keep = managers.AnyPreservationPolicy([managers.LatestN(1), best])
        # best_fn, too: without it values are not written, and after a resume there is no best.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep, best_fn=value, cleanup_tmp_directories=True
        )
        self._directory = Path(directory).absolute()
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def newest(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, progress: Tree, value: float | None = None) -> None:
        """Save in the background what decides the future.

        Args:
            step: of the state.
            state: a pytree of arrays.
            progress: JSON.
            value: what validation said of this state, higher is better; None without validation.

        Raises:
            OSError: the disk is full, or this or the checkpoint before could not be written.
        """
        ocp = self._ocp
        self.wait()
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise OSError(
                f"{self._directory} has {free / 1e6:.0f} MB free, a checkpoint needs "
                f"{needed / 1e6:.0f} MB"
            )
        # A copy, since the next step is given the state's memory while this is being written.
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.map(jnp.copy, state)),
            progress=ocp.args.JsonSave(progress),
        )
        metrics = None if value is None else {"value": value}
        with _as_os_error():
            self._manager.save(step, args=items, metrics=metrics, force=True)

    def restore(self, step: int, like: Any) -> tuple[Any, Tree]:
        """The state and progress saved at a step, placed and shaped as the pytree `like`.

        Raises:
            WeightsError: the checkpoint is damaged, or another version's.
        """
        ocp = self._ocp
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(shapes), progress=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=items)
        except Exception as error:  # of many kinds, and long
            damaged = self._directory / str(step)
            raise WeightsError(
                f"the checkpoint {damaged} is damaged, or of another version of colorjax: remove "
                "that folder to go on from the one before it, or start another run with --init"
            ) from error
        return restored["state"], restored["progress"]

    def wait(self) -> None:
        """Wait until everything saved is on disk; raises OSError if it could not be written."""
        with _as_os_error():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait as `wait` does, then release the directory."""
        with _as_os_error():
            self._manager.close()
