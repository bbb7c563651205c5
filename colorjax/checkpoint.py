"""Weights and resumable training state, each in one file.

Both are safetensors files: arrays by dotted name, and a JSON header. The header of weights holds
the network's configuration, the decoding and a training summary, so one file is enough. The header
of a state holds the run's progress. Files are data, never code, and appear whole or not at all.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import safetensors
import safetensors.numpy

from colorjax import model
from colorjax.model import NetworkConfig
from colorjax.palette import Decoding

DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "colorjax.safetensors"

Tree = dict[str, Any]


class WeightsError(ValueError):
    """What is wrong with a file of weights, as one sentence."""


_name = partial(jax.tree_util.keystr, simple=True, separator=".")


def _flat(tree: Any) -> Tree:
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def save_weights(
    path: str | Path,
    params: Tree,
    network: Tree,
    summary: Tree,
    dtype: str = "float32",
    decoding: Decoding | None = None,
) -> None:
    """Write parameters, a nested dict of arrays, whole or not at all.

    `network` and `summary` are JSON: the network's configuration, and how it was trained. `dtype`
    is of the file's numbers; float16 halves its size. Without `decoding` the file is as older ones
    are, whose summary has that.
    """
    tensors = {name: np.asarray(value).astype(dtype) for name, value in _flat(params).items()}
    header = {"network": network, "summary": summary}
    if decoding is not None:
        values, weights = dict(vars(decoding)), decoding.bin_weights
        del values["warmth"], values["tint"]  # a person's, not the weights'
        values["bin_weights"] = None if weights is None else [float(f"{w:.6g}") for w in weights]
        header["decoding"] = values
    replace_file(Path(path), _content(tensors, header))


def _content(tensors: Tree, header: Tree) -> bytes:
    return safetensors.numpy.save(tensors, {k: json.dumps(v) for k, v in header.items()})


def replace_file(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Write a file beside its place, and move it there once it is on the disk.

    What was there is moved to `previous`, or replaced.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_header(path: str | Path) -> tuple[NetworkConfig, Decoding, Tree]:
    """Read a file of weights' header: network, decoding, and summary of its training.

    Raises:
        WeightsError: there is no such file, or it holds no weights of this project.
    """
    with _reading(path, "a file of weights"):
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
        if not {"network", "summary"} <= metadata.keys():
            raise WeightsError(
                f"{path} holds no network's configuration: not weights that train.py wrote"
            )
        network, summary = json.loads(metadata["network"]), json.loads(metadata["summary"])
        decoding = json.loads(metadata["decoding"]) if "decoding" in metadata else None
        if not (isinstance(network, dict) and isinstance(summary, dict)):
            raise ValueError("its header is not train.py's")
    try:
        config = NetworkConfig(**network)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path} holds another network: {error}") from None
    try:
        return config, _decoding(decoding or _older(summary)), summary
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: {error}") from None


def _older(summary: Tree) -> Tree:
    """Find the decoding in an older file's summary, which has it under these names."""
    names = {"rarity_power": "rarity", "bin_weights": "rarity_weights"}
    names |= {name: name for name in ("saturation", "temperature", "working_size")}
    found = {name: summary[old] for name, old in names.items() if old in summary}
    # In training the network saw crops, so things were larger.
    return {"working_size": 3 * summary.get("size", 64) // 2} | found


def _decoding(values: Tree) -> Decoding:
    weights = values.get("bin_weights")
    values["bin_weights"] = None if weights is None else np.asarray(weights, np.float32)
    decoding = Decoding(**values)
    decoding.check()
    return decoding


def load(path: str | Path) -> tuple[Tree, NetworkConfig, Decoding]:
    """Read a file of weights: parameters as float32, network, decoding.

    Raises:
        WeightsError: the file is not one of this project's weights.
    """
    network, decoding, _ = read_header(path)
    return load_weights(path, model.shapes(network)), network, decoding


def load_weights(path: str | Path, expected: Tree) -> Tree:
    """Read parameters as float32; `expected` is a nested dict of what has the network's shapes.

    Raises:
        WeightsError: a part is missing, is one too many, has another shape or is not finite.
    """
    return _fitted(path, _read(path), expected)


def load_encoder(path: str | Path, expected: Tree) -> Tree:
    """Read an encoder's parameters, from a file of them alone or from a network's weights.

    Raises:
        WeightsError: as `load_weights`.
    """
    tensors, prefix = _read(path), "encoder."
    inner = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return _fitted(path, inner or tensors, expected)


def _read(path: str | Path) -> Tree:
    with _reading(path, "a file of weights"):
        return safetensors.numpy.load_file(path)


@contextmanager
def _reading(path: str | Path, what: str) -> Iterator[None]:
    """Say in a sentence why a file cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist") from None
    except WeightsError:
        raise
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} is not {what}: {error}") from None


def _fitted(path: str | Path, tensors: Tree, expected: Tree) -> Tree:
    shapes = _flat(expected)
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


State = TypeVar("State")


def save_state(path: str | Path, state: Any, progress: Tree) -> None:
    """Write a training state, a pytree of arrays, and how far its run has come, JSON.

    The state before it stays beside it as `previous.safetensors`, for a disk that damages files.

    Raises:
        OSError: the disk is full, or the file cannot be written; what was there is intact.
    """
    path = Path(path)
    tensors = {name: np.asarray(leaf) for name, leaf in _flat(state).items()}
    content = _content(tensors, {"progress": progress})
    replace_file(path, content, path.with_name("previous.safetensors"))


def read_steps(path: str | Path) -> tuple[int, int]:
    """Read how many steps a saved state has done, and of how many.

    Raises:
        WeightsError: it is no training state, or damaged.
    """
    with _reading(path, "a training state"), safetensors.safe_open(path, "numpy") as file:
        return int(file.get_tensor("step")), int(file.get_tensor("total_steps"))


def restore_state(path: str | Path, like: State) -> tuple[State, Tree]:
    """Read a state and its run's progress, placed and shaped as the pytree `like`.

    Raises:
        WeightsError: there is no such file, or it is damaged, or another version's.
    """
    tensors, expected = _read(path), _flat(like)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            progress = json.loads(file.metadata()["progress"])
    except (KeyError, TypeError, ValueError):
        raise WeightsError(f"{path} is not a training state") from None
    found, needed = ({k: (v.shape, v.dtype) for k, v in of.items()} for of in (tensors, expected))
    if found != needed:
        raise WeightsError(f"{path} is the state of another network or of another version")

    def placed(path: tuple, leaf: Any) -> Any:
        return jax.device_put(tensors[_name(path)], leaf.sharding)

    return jax.tree.map_with_path(placed, like), progress
