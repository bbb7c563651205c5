"""A run that several processes share, one a machine or one a GPU.

Every process runs the same program on its part of each batch. The first one writes the run's
directory; the others write into temporary ones. All of them must see the same photographs and, to
resume, the run's directory.
"""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from colorjax.config import ConfigError, resolve


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Find the others, before anything else is done with JAX.

    `coordinator` is HOST:PORT of the first of `processes`; `process` is the place of this one, from
    0. "auto" asks the cluster (Slurm, Open MPI, …) for all three.

    Raises:
        ConfigError: they cannot be joined.
    """
    named = f"--coordinator {coordinator}"
    if coordinator is None:
        raise ConfigError("--processes and --process need --coordinator HOST:PORT of the first")
    if coordinator != "auto":
        if ":" not in coordinator:
            raise ConfigError(f"{named}: it must be HOST:PORT, or 'auto'")
        if processes is None or process is None:
            raise ConfigError(f"{named} needs --processes N and --process I")
        if not 0 <= process < processes:
            raise ConfigError(f"--process {process}: it must be from 0 to {processes - 1}")
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(coordinator, processes, process)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{named}: the processes cannot be joined: {reason}") from error


def silenced(given: dict[str, Any]) -> dict[str, Any]:
    """Let all processes but the first say nothing and write elsewhere: their command line."""
    if jax.process_index() == 0:
        return given
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - to the end of the process
    elsewhere = Path(tempfile.mkdtemp(prefix="colorjax-process-"))
    atexit.register(shutil.rmtree, elsewhere, ignore_errors=True)
    if given.get("resume"):
        out = given.get("out") or resolve(given).out
        for source in Path(out).glob("*.*"):
            if source.name == "config.json" or source.suffix == ".safetensors":
                shutil.copy(source, elsewhere)
    return given | {"out": str(elsewhere)}


def max_over_processes(value: Any) -> Any:
    """Take the greatest of all processes' values for a number, which all of them go by."""
    return type(value)(np.max(multihost_utils.process_allgather(np.asarray(value))))
