"""A run that several processes share, one a machine or one a GPU; alone, all of this does nothing.

Every process makes the same steps on its own part of each batch. What has to be the same in all of
them, the first one says. The first alone writes pictures, logs and weights; checkpoints are written
by all, into a folder that all of them see.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from colorjax.config import ConfigError


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Find the others, before anything else is done with JAX; all but the first say nothing more.

    Args:
        coordinator: HOST:PORT of the first process; "auto" asks the cluster (Slurm, Open MPI, …)
            for everything.
        processes: how many there are.
        process: which of them this is, from 0.

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
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - to the end of the process


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Return when all processes have come here."""
    multihost_utils.sync_global_devices(where)


def firsts(value: float) -> float:
    """What the first process has for this value."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))


def greatest(value: int) -> int:
    """The greatest that any process has for this value."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def own(tree: Any) -> Any:
    """A tree of arrays that every device holds whole → this process's, on one device of its own."""
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


def seconds_per_call(function: Callable[[], object], seconds: float) -> float:
    """Mean time of a call over about as many seconds, the first two (compilation) apart.

    All processes make as many calls, since each may wait for what the others send.
    """

    def timed(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(function())
        return (time.perf_counter() - start) / calls

    timed(2)
    return timed(max(3, greatest(int(seconds / timed(1)))))


class Interrupt:
    """Ctrl-C or SIGTERM asks the run to save and end; a second one ends it at once."""

    def __init__(self):
        """Listen from now on."""
        self._signal = 0
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}

    def _ask(self, number: int, _frame: Any) -> None:
        self._signal = number
        self.restore()

    def asked(self, together: bool) -> int:
        """The signal that came, or 0; of several processes' only when they ask `together`."""
        if jax.process_count() == 1:
            return self._signal
        return greatest(self._signal) if together else 0

    def restore(self) -> None:
        """Listen no more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
