"""A training run's configuration, its presets, and the two command lines."""

import argparse
import dataclasses
import json
import os
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from colorjax.model import NetworkConfig


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


class ConfigError(ValueError):
    """What is wrong with the arguments, as one sentence."""


def _option(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run does; `config.json` in its directory."""

    data: str = _option("", "folder of colour photographs, of any nesting")
    out: str = _option("", "run directory to write (default: runs/PRESET)")
    preset: str = _option("vivid", "a set of defaults for the options below",
                          ("paper", "unet", "vivid"))  # fmt: skip
    network: str = _option("unet", "the paper's network or the project's own", ("paper", "unet"))
    head: str = _option("bins", "what it predicts: ab, or which of 261 colours", ("ab", "bins"))
    width: int = _option(64, "channels of the unet's first level; 32 is 3 times as fast")
    size: int = _option(64, "pixels a side that the network is trained on")
    batch: int = _option(64, "photographs a step")
    epochs: float = _option(30, "passes over the photographs")
    steps: int = _option(0, "steps, instead of --epochs")
    minutes: float = _option(0, "time to fill, instead of --epochs")
    rarity: float = _option(0.5, "weight of rare colours: 0 as often as they occur, 0.95 nearly "
                                 "as the rest")  # fmt: skip
    huber: float = _option(1.0, "weight of the decoded colour's error, beside cross-entropy")
    colorfulness: float = _option(0.6, "share of the truth's that colours are calibrated to; "
                                  "0: as predicted")  # fmt: skip
    optimizer: str = _option("adamw", "RMSprop is older recipes'", ("adamw", "rmsprop"))
    lr: float = _option(1e-3, "highest learning rate")
    weight_decay: float = _option(0.01, "of AdamW, on kernels")
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
    dtype: str = _option("auto", "of the network's computation; auto: bfloat16 on a GPU",
                         ("auto", "float32", "bfloat16"))  # fmt: skip
    devices: int = _option(0, "devices to split each batch over (default: all)")

    def __post_init__(self) -> None:
        """Check ranges: ConfigError names the option, its value and what it may be."""
        positive = ("size", "batch", "epochs", "lr", "clip")
        zero_or_more = ("steps", "minutes", "weight_decay", "min_colorfulness", "seed",
                        "validate_every", "patience", "devices", "huber")  # fmt: skip
        for names, holds, what in (
            (positive, lambda v: 0 < v < float("inf"), "above 0"),
            (zero_or_more, lambda v: 0 <= v < float("inf"), "0 or more"),
            (
                ("film", "ageing", "colorfulness"),
                lambda v: 0 <= v <= 1,
                "between 0 and 1",
            ),
            (("val_fraction",), lambda v: 0 < v < 1, "above 0 and below 1"),
            # At 1 a colour that no photograph of the sample shows would count without bound.
            (("rarity",), lambda v: 0 <= v <= 0.95, "between 0 and 0.95"),
            (("size",), lambda v: v % 16 == 0 and v <= 1024, "a multiple of 16 up to 1024"),
            (("seed",), lambda v: v < 2**32, "below 2^32"),
            (("steps",), lambda v: v < 2**31, "below 2^31"),
        ):
            for name in names:
                if not holds(getattr(self, name)):
                    raise ConfigError(
                        f"--{name.replace('_', '-')} {getattr(self, name)}: it must be {what}"
                    )
        for name in ("rarity", "huber"):
            if self.head == "ab" and getattr(self, name) != getattr(TrainConfig, name):
                raise ConfigError(f"--{name} is for networks with bins, and --head ab (as presets "
                                  "paper and unet have it) has none")  # fmt: skip
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
    "paper": {"network": "paper", "head": "ab", "colorfulness": 0.0, "lr": 3e-4},
    "unet": {"head": "ab", "colorfulness": 0.0},
    "vivid": {},
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
    several.add_argument("--coordinator", metavar="HOST:PORT", help="of the first process, or "
                         "'auto': ask Slurm, Open MPI or Kubernetes for all three")  # fmt: skip
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
    values: dict[str, Any] = {"out": f"runs/{preset}"} | PRESETS[preset] | given
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


def colorize_parser() -> argparse.ArgumentParser:
    """The command line of colorize.py."""
    parser = argparse.ArgumentParser(
        prog="colorize.py",
        description="Colour a black-and-white photograph, a folder of them, or a film, at their "
        "own resolution. What has colour already loses it first.",
        epilog="examples:\n"
        "  python colorize.py old.jpg new.png\n"
        "  python colorize.py scans coloured\n"
        "  python colorize.py film.mp4 coloured.mp4\n"
        "  python colorize.py old.jpg new.png --saturation 1.5\n"
        "  python colorize.py old.tif new.tif --weights runs/vivid/weights.safetensors",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("input", help="the photograph, a folder of photographs, or a film")
    parser.add_argument("output", help="the file to write, whose ending says the format; "
                        "or the folder, which keeps names and tree")  # fmt: skip
    parser.add_argument("--weights", metavar="FILE", help="of a trained network "
                        "(default: those that come with colorjax)")  # fmt: skip
    parser.add_argument("--working-size", type=int, metavar="PIXELS", help="size of the copy that "
                        "the network sees (default: twice what it was trained on)")  # fmt: skip
    parser.add_argument("--temperature", type=float, metavar="T", help="of the annealed mean: 1 is "
                        "the mean of the likely colours, less is bolder (default: as the weights "
                        "say)")  # fmt: skip
    parser.add_argument("--saturation", type=float, metavar="FACTOR", help="factor on the colours "
                        "(default: as the weights say)")  # fmt: skip
    parser.add_argument("--confidence", metavar="FILE", help="also write a grey picture of how "
                        "sure the network is: black not at all, white wholly")  # fmt: skip
    parser.add_argument("--quality", type=int, default=95, help="of JPEG output (default: 95)")
    parser.add_argument("--crf", type=float, default=16, help="of a film's H.264, 0 to 51: less is "
                        "better and larger (default: 16)")  # fmt: skip
    parser.add_argument("--max-megapixels", type=float, default=500, metavar="N",
                        help="refuse larger photographs (default: 500)")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output; in "
                        "a folder, redo what is done")  # fmt: skip
    return parser
