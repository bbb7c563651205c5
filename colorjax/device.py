"""What a process asks of the machine before it computes: caches, CPU devices, memory."""

import contextlib
import ctypes
import os
from pathlib import Path

import jax

# Of glibc's malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX.
_MALLOPT = {-1: -1, -4: 0, -8: 1}


def cache_directory() -> Path:
    """Where packed photographs and compiled programs are kept; it may be deleted at any time.

    `$XDG_CACHE_HOME/colorjax`, by default `~/.cache/colorjax`.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "colorjax"


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, unless the user has set a place for them."""
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def use_two_cpu_devices() -> None:
    """Let JAX see a CPU as two devices, before it looks, unless the user has said how many.

    One device leaves a core idle for a quarter of a training step, much of which does not divide.
    """
    is_set = jax.config.values["jax_num_cpu_devices"] >= 0
    is_set = is_set or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not is_set and (os.cpu_count() or 1) > 1:
        with contextlib.suppress(RuntimeError):  # it has looked already
            jax.config.update("jax_num_cpu_devices", 2)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell an error of too little memory, Python's or XLA's, from others."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def keep_memory() -> None:
    """Let a process keep the memory that it frees: on Linux with glibc; elsewhere nothing happens.

    Else the next step or batch on a CPU faults each page in again: an eighth of a training step's
    time, up to a quarter of a folder's.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _MALLOPT.items():
            mallopt(parameter, value)
