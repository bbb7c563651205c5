"""A training run's configuration, its presets, and the two command lines."""

import argparse
import contextlib
import ctypes
import dataclasses
import json
import os
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from colorjax.model import NetworkConfig

# Of glibc's malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX.
_MALLOPT = {-1: -1, -4: 0, -8: 1}


def cache_directory() -> Path:
    """Where packed photographs and compiled programs are kept, and may be deleted at any time.

    `$XDG_CACHE_HOME/colorjax`, by default `~/.cache/colorjax`.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "colorjax"


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, unless the user has set a place for them."""
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def use_two_cores() -> None:
    """Let JAX see a CPU as two devices, before it looks, unless the user has said how many.

    One device leaves a core idle for a quarter of a training step, much of which does not divide.
    """
    said = jax.config.values["jax_num_cpu_devices"] >= 0
    said = said or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not said and (os.cpu_count() or 1) > 1:
        with contextlib.suppress(RuntimeError):  # it has looked already
            jax.config.update("jax_num_cpu_devices", 2)


def keep_memory() -> None:
    """Let a process keep the memory that it frees: on Linux with glibc; elsewhere nothing happens.

    Else the next training step on a CPU faults each page in again: an eighth of its time.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _MALLOPT.items():
            mallopt(parameter, value)


class ConfigError(ValueError):
    """What is wrong with the arguments, as one sentence."""


def _option(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run does; `config.json` in its directory."""

    data: str = _option("", "folder of colour photographs, of any nesting")
    out: str = _option("", "run directory to write (default: runs/PRESET)")
    preset: str = _option(
        "vivid", "a set of defaults for the options below", ("paper", "unet", "vivid", "gan")
    )
    network: str = _option(
        "unet",
        "the paper's network, a U-Net, or a decoder on a pretrained encoder",
        ("paper", "unet", "lite"),
    )
    head: str = _option("bins", "what it predicts: ab, or which of 261 colours", ("ab", "bins"))
    width: int = _option(64, "channels of the first level; 32 is 3 times as fast")
    size: int = _option(64, "pixels a side that the network is trained on")
    batch: int = _option(64, "photographs a step")
    epochs: float = _option(30, "passes over the photographs")
    steps: int = _option(0, "steps, instead of --epochs")
    minutes: float = _option(0, "time to fill, instead of --epochs")
    rarity: float = _option(
        0.5, "weight of rare colours: 0 as often as they occur, 0.95 nearly as the rest"
    )
    huber: float = _option(1.0, "weight of the decoded colour's error, beside cross-entropy")
    labels: bool = _option(
        False, "learn what a photograph shows, too: the name of its folder, the first below --data"
    )
    adversarial: float = _option(0.0, "share of the run, its last, with an adversarial network")
    critic_weight: float = _option(1.0, "of what the adversarial network says")
    critic_lr: float = _option(8e-4, "its learning rate; the network's beside it is a quarter")
    colorfulness: float = _option(
        0.6, "share of the truth's that colours are calibrated to; 0: as predicted"
    )
    optimizer: str = _option("muon", "RMSprop is older recipes'", ("muon", "adamw", "rmsprop"))
    lr: float = _option(2e-3, "highest learning rate (default: 0.002 with Muon, else 0.001)")
    encoder_lr: float = _option(4e-4, "of the pretrained encoder; 0: frozen")
    frozen_blocks: int = _option(0, "of the encoder's 16 blocks, the first ones, left as they are")
    schedule: str = _option(
        "cosine",
        "of the rate: a cosine to zero, or constant and falling over the last tenth",
        ("cosine", "wsd"),
    )
    weight_decay: float = _option(0.01, "of kernels")
    clip: float = _option(1.0, "largest gradient norm")
    film: float = _option(0.3, "share of photographs seen as old film would have recorded them")
    ageing: float = _option(0.2, "share of photographs faded, grained, blurred or compressed")
    min_colorfulness: float = _option(15, "photographs less colourful than this are left out")
    seed: int = _option(0, "of everything random")
    init: str = _option("", "weights to start from: fine-tuning")
    val: str = _option("", "folder of photographs to validate on, instead of a share of --data")
    val_fraction: float = _option(0.02, "share of --data kept for validation")
    validate_every: int = _option(0, "steps between validations (default: a 20th of the run)")
    patience: int = _option(0, "stop after as many validations without improvement; 0: never")
    dtype: str = _option(
        "auto",
        "of the network's computation; auto: bfloat16 on a GPU",
        ("auto", "float32", "bfloat16"),
    )
    devices: int = _option(
        0,
        "devices to split each batch over (default: all GPUs; a CPU is two, "
        "where the batch is even)",
    )

    def __post_init__(self) -> None:
        """Check ranges: ConfigError names the option, its value and what it may be."""
        positive = ("size", "batch", "epochs", "lr", "clip", "critic_lr")
        zero_or_more = (
            "steps",
            "minutes",
            "weight_decay",
            "min_colorfulness",
            "seed",
            "patience",
            "validate_every",
            "devices",
            "huber",
            "critic_weight",
            "encoder_lr",
            "frozen_blocks",
        )
        shares = ("film", "ageing", "colorfulness", "adversarial")
        for names, holds, what in (
            (positive, lambda v: 0 < v < float("inf"), "above 0"),
            (zero_or_more, lambda v: 0 <= v < float("inf"), "0 or more"),
            (shares, lambda v: 0 <= v <= 1, "between 0 and 1"),
            (("val_fraction",), lambda v: 0 < v < 1, "above 0 and below 1"),
            # At 1 a colour that no photograph of the sample shows would count without bound.
            (("rarity",), lambda v: 0 <= v <= 0.95, "between 0 and 0.95"),
            (("size",), lambda v: v % 16 == 0 and v <= 1024, "a multiple of 16 up to 1024"),
            (("seed",), lambda v: v < 2**32, "below 2^32"),
            (("steps",), lambda v: v < 2**31, "below 2^31"),
        ):
            for name in names:
                if not holds(getattr(self, name)):
                    raise ConfigError(f"{_flag(name)} {getattr(self, name)}: it must be {what}")
        for name in ("rarity", "huber"):
            if self.head == "ab" and getattr(self, name) != getattr(TrainConfig, name):
                raise ConfigError(
                    f"--{name} is for networks with bins, and --head ab (as presets "
                    "paper and unet have it) has none"
                )
        for name in ("critic_weight", "critic_lr"):
            if not self.adversarial and getattr(self, name) != getattr(TrainConfig, name):
                what = "is for adversarial training: add --preset gan or --adversarial"
                raise ConfigError(f"{_flag(name)} {what}")
        if self.labels and self.network == "paper":
            raise ConfigError("--labels is for the unet, and --network paper is another")
        try:
            self.network_config  # noqa: B018 - it checks its own values
        except ValueError as error:
            raise ConfigError(f"--{error}") from None

    @property
    def network_config(self) -> NetworkConfig:
        """The network to train; the paper's has one width."""
        if self.network == "paper":
            return NetworkConfig("paper", head=self.head)
        return NetworkConfig(self.network, self.width, self.head)

    @property
    def pool_side(self) -> int:
        """Pixels a side of the packed photographs: an eighth more than are trained on."""
        return self.size * 9 // 8


# What a preset sets; whatever the command line says stands above it.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": dict(network="paper", head="ab", colorfulness=0.0, optimizer="adamw", lr=3e-4),
    "unet": {"head": "ab", "colorfulness": 0.0},
    "vivid": {},
    "gan": {"adversarial": 0.1, "colorfulness": 0.0, "patience": 5},
}

PATHS = ("data", "val", "init")

# May differ between a run and its resumption: they do not change what is computed.
FREE_ON_RESUME = ("out", "devices")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def train_parser() -> argparse.ArgumentParser:
    """The command line of train.py; what is not given is absent from the result."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Train a network to colour photographs, on a folder of your own.",
        epilog="examples:\n"
        "  python train.py --data photos --minutes 30\n"
        "  python train.py --data photos --preset paper --size 128 --out runs/paper\n"
        "  python train.py --out runs/paper --resume\n"
        "  python train.py --data photos --init runs/paper/weights.safetensors --out runs/more",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    length = parser.add_mutually_exclusive_group()
    types = typing.get_type_hints(TrainConfig)
    for option in dataclasses.fields(TrainConfig):
        text = option.metadata["help"]
        if option.default and "default" not in text:
            text += f" (default: {option.default})"
        if types[option.name] is bool:
            parser.add_argument(_flag(option.name), action="store_true", help=text)
            continue
        target = length if option.name in ("epochs", "steps", "minutes") else parser
        target.add_argument(
            _flag(option.name),
            type=types[option.name],
            choices=option.metadata["choices"] or None,
            help=text,
            metavar=None if option.metadata["choices"] else types[option.name].__name__.upper(),
        )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    several = parser.add_argument_group("several machines", "the same command on each of them")
    several.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="of the first process, or 'auto': ask Slurm, Open MPI or Kubernetes for all three",
    )
    several.add_argument("--processes", type=int, metavar="N", help="how many there are")
    several.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")
    return parser


def resolve(given: dict[str, Any], saved: dict[str, Any] | None = None) -> TrainConfig:
    """What was given on the command line, completed.

    Args:
        given: options by name, those of the command line only.
        saved: the configuration of the run to be resumed: it completes what is not given, and
            nothing given may differ from it.

    Raises:
        ConfigError: a value out of range, or different from the saved one.
    """
    names = {option.name for option in dataclasses.fields(TrainConfig)}
    if saved is not None:
        for name, value in given.items():
            same = value == saved.get(name)
            if name in PATHS and saved.get(name) and value:
                same = str(Path(value).resolve()) == saved[name]
            same = same or (name == "dtype" and value == "auto")
            if name not in FREE_ON_RESUME and not same:
                raise ConfigError(
                    f"{_flag(name)} {value} differs from the run's {saved.get(name)!r}: leave it "
                    "out to resume, or start another run with another --out"
                )
        free = {name: given[name] for name in FREE_ON_RESUME if name in given}
        try:
            return TrainConfig(**{k: v for k, v in saved.items() if k in names} | free)
        except TypeError as error:
            raise ConfigError(f"config.json is not a run's: {error}") from None
    preset = given.get("preset", TrainConfig.preset)
    if preset not in PRESETS:
        raise ConfigError(f"--preset {preset}: it must be one of {', '.join(PRESETS)}")
    for name in ("steps", "minutes"):  # where 0 stands for "not given"
        if given.get(name, 1) == 0:
            raise ConfigError(f"{_flag(name)} {given[name]}: it must be above 0")
    values: dict[str, Any] = {"out": f"runs/{preset}"} | PRESETS[preset]
    if values.get("adversarial") and given.get("init") and "adversarial" not in given:
        # What came before has been trained already; as long as the phase of a whole run.
        values |= {"adversarial": 1.0, "epochs": values["adversarial"] * TrainConfig.epochs}
    values |= given
    if values.get("optimizer", TrainConfig.optimizer) != "muon":
        values.setdefault("lr", 1e-3)
    if values.get("adversarial") == 1 and not given.get("init"):
        raise ConfigError(
            "--adversarial 1 leaves no ordinary training before it: give trained "
            "weights by --init, or a smaller share"
        )
    if values.get("adversarial") == 1 and "lr" in given:
        raise ConfigError(
            "--lr is for ordinary training, and all of this is adversarial: set "
            "--critic-lr, of which the network's is a quarter"
        )
    for name in PATHS:  # a run may be resumed from another folder
        values[name] = str(Path(values[name]).resolve()) if values.get(name) else ""
    return TrainConfig(**values)


def open_run(given: dict[str, Any], resume: bool) -> tuple[TrainConfig, dict[str, Any] | None]:
    """The configuration of a run, and for one to be resumed what its `config.json` says.

    Raises:
        ConfigError: as `resolve`; or there is no such run; or there is one and it is not resumed.
    """
    out = Path(given.get("out") or resolve(given).out)
    if resume:
        try:
            saved = json.loads((out / "config.json").read_text())
            configuration = saved["config"]
            if not configuration["data"]:
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(
                f"--resume: {out} is not a run directory: its config.json is missing or not a run's"
            ) from None
        return resolve({"out": str(out)} | given, configuration), saved
    settings = resolve(given)
    if not settings.data:
        raise ConfigError("--data is missing: name a folder of colour photographs")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists already: go on with it by --resume, or name another --out")
    if settings.dtype == "auto":
        gpu = jax.default_backend() == "gpu"
        settings = dataclasses.replace(settings, dtype="bfloat16" if gpu else "float32")
    return settings, None
