"""A training run's configuration, each option declared once; the presets; the command line."""

import argparse
import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import jax

from colorjax import checkpoint
from colorjax.model import NetworkConfig

Range = tuple[Callable[[Any], bool], str]  # what holds of a value, and that in words


class ConfigError(ValueError):
    """What is wrong with the arguments, as one sentence."""


def _option(
    default: Any,
    help: str,
    range: Range | None = None,
    choices: tuple[str, ...] = (),
    step: bool = False,
) -> Any:
    """An option of the command line; `step` says that the jitted step depends on it."""
    metadata = {"help": help, "range": range, "choices": choices}
    return field(default=default, compare=step, metadata=metadata)


_step_option: Any = partial(_option, step=True)

_ANYTHING: Range = (lambda v: True, "")
_POSITIVE: Range = (lambda v: 0 < v < inf, "above 0")
_NOT_NEGATIVE: Range = (lambda v: 0 <= v < inf, "0 or more")
_FRACTION: Range = (lambda v: 0 <= v <= 1, "between 0 and 1")


def _sixteenths(most: int) -> Range:
    return lambda v: v % 16 == 0 and 16 <= v <= most, f"a multiple of 16 from 16 to {most}"


@dataclass(frozen=True)
class TrainConfig:
    """All that decides what a training run does; `config.json` in its directory.

    It is the jitted step's static argument. Two are equal, and share a compiled step, if they
    agree in every `_step_option`.
    """

    data: str = _option("", "folder of colour photographs, of any nesting")
    out: str = _option("", "run directory to write (default: runs/PRESET)")
    preset: str = _option("vivid", "a set of defaults", choices=("paper", "unet", "vivid", "gan"))
    init: str = _option(
        "",
        "weights to start from, or 'none' (default: the package's, in presets vivid and gan)",
    )
    encoder: str = _option("", "file of encoder weights to start a new decoder on")
    network: str = _step_option(
        "lite",
        "a decoder on a pretrained encoder, a U-Net, or the paper's network",
        choices=("lite", "unet", "paper"),
    )
    head: str = _step_option(
        "bins", "what it predicts: ab, or which of 261 colours", choices=("ab", "bins")
    )
    width: int = _step_option(48, "channels of the finest level", _sixteenths(512))
    size: int = _step_option(128, "pixels a side that the network is trained on", _sixteenths(1024))
    batch: int = _option(64, "photographs a step", _POSITIVE)
    epochs: float = _option(30, "passes over the photographs", _POSITIVE)
    steps: int = _option(
        0, "steps, instead of --epochs", (lambda v: 0 <= v < 2**31, "0 or more and below 2^31")
    )
    minutes: float = _option(0, "time to fill, instead of --epochs", _NOT_NEGATIVE)
    # At 1 a colour that no photograph of the sample shows would count without bound.
    class_balance: float = _option(
        0.5,
        "0: every pixel counts alike; towards 0.95: every colour does",
        (lambda v: 0 <= v <= 0.95, "between 0 and 0.95"),
    )
    huber: float = _step_option(
        1.0, "weight of the decoded colour's error, beside cross-entropy", _NOT_NEGATIVE
    )
    matched: float = _step_option(
        0.0,
        "weight of its error at equal colourfulness (default: 3 from trained weights in preset "
        "vivid, else 0)",
        _NOT_NEGATIVE,
    )
    labels: bool = _option(
        False, "learn what a photograph shows, too: the name of its folder, the first below --data"
    )
    colorfulness: float = _option(
        0.6, "fraction of the truth's that colours are calibrated to; 0: as predicted", _FRACTION
    )
    optimizer: str = _step_option(
        "muon",
        "how gradients become updates; rmsprop is for comparison",
        choices=("muon", "adamw", "rmsprop"),
    )
    lr: float = _step_option(
        1e-3, "highest learning rate (default: 0.001; unet 0.002, paper 0.0003)", _POSITIVE
    )
    encoder_lr: float = _step_option(
        2e-4, "that of the encoder, 0 freezes it (default: a fifth of --lr)", _NOT_NEGATIVE
    )
    frozen_blocks: int = _step_option(
        0, "first blocks of the encoder to freeze", (lambda v: 0 <= v <= 16, "from 0 to 16")
    )
    schedule: str = _step_option(
        "wsd", "constant rate, falling over the last tenth; or a cosine", choices=("wsd", "cosine")
    )
    weight_decay: float = _step_option(0.01, "of kernels", _NOT_NEGATIVE)
    clip: float = _step_option(1.0, "largest gradient norm", _POSITIVE)
    film: float = _step_option(
        0.3, "fraction of photographs seen as old film would have recorded them", _FRACTION
    )
    degradation: float = _step_option(
        0.2, "probability of each of blur, fading, grain and compression", _FRACTION
    )
    min_colorfulness: float = _option(
        15, "photographs less colourful than this are left out", _NOT_NEGATIVE
    )
    seed: int = _step_option(
        0, "of everything random", (lambda v: 0 <= v < 2**32, "0 or more and below 2^32")
    )
    val: str = _option("", "folder of photographs to validate on, instead of a part of --data")
    val_fraction: float = _option(
        0.02, "fraction of --data to validate on", (lambda v: 0 < v < 1, "above 0 and below 1")
    )
    validate_every: int = _option(
        0, "steps between validations (default: a 20th of the run)", _NOT_NEGATIVE
    )
    patience: int = _option(0, "stop after so many validations without gain", _NOT_NEGATIVE)
    dtype: str = _step_option(
        "auto", "to compute in; auto: bfloat16 on a GPU", choices=("auto", "float32", "bfloat16")
    )
    devices: int = _option(
        0,
        "devices to share a batch (default: all GPUs; for even batches a CPU is two)",
        _NOT_NEGATIVE,
    )
    label_names: tuple[str, ...] = ()  # what the photographs' folders are called, with --labels

    def __post_init__(self) -> None:
        """Check ranges: ConfigError names the option, its value and what it may be."""
        object.__setattr__(self, "label_names", tuple(self.label_names))  # JSON knows lists only
        for option in dataclasses.fields(self):
            holds, what = option.metadata.get("range") or _ANYTHING
            if not holds(value := getattr(self, option.name)):
                raise ConfigError(f"{flag(option.name)} {value}: it must be {what}")
        for name in ("class_balance", "huber", "matched"):
            if self.head == "ab" and getattr(self, name) != getattr(TrainConfig, name):
                raise ConfigError(
                    f"{flag(name)} is for networks with bins, and --head ab (as presets "
                    "paper and unet have it) has none"
                )
        if self.labels and self.network == "paper":
            raise ConfigError("--labels is for the other networks, not for --network paper")
        try:
            self.network_config  # noqa: B018 - it checks its own values
        except ValueError as error:
            raise ConfigError(f"--network {self.network} --head {self.head}: {error}") from None

    @property
    def network_config(self) -> NetworkConfig:
        """The network to train; the paper's has one width."""
        if self.network == "paper":
            return NetworkConfig("paper", head=self.head)
        return NetworkConfig(self.network, self.width, self.head, self.label_names)

    @property
    def compute_dtype(self) -> str:
        """The type of the network's computation."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if jax.default_backend() == "gpu" else "float32"

    @property
    def pool_side(self) -> int:
        """Pixels a side of the packed photographs: an eighth more than are trained on."""
        return self.size * 9 // 8

    @property
    def working_size(self) -> int:
        """The size to colour at: in training the network sees crops, so things are larger there.

        A pretrained encoder has learned what it knows at 224 pixels, and gains from more.
        """
        return 2 * self.size if self.network == "lite" else 3 * self.size // 2


# What a preset sets; whatever the command line says stands above it.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "network": "paper",
        "head": "ab",
        "size": 64,
        "colorfulness": 0.0,
        "optimizer": "adamw",
        "lr": 3e-4,
        "schedule": "cosine",
    },
    "unet": {
        "network": "unet",
        "head": "ab",
        "width": 64,
        "size": 64,
        "colorfulness": 0.0,
        "lr": 2e-3,
        "schedule": "cosine",
    },
    "vivid": {},
    # Its rate is the network's, and its schedule its own: see extra/gan.py.
    "gan": {"lr": 2e-4, "epochs": 3.0, "colorfulness": 0.0, "patience": 5, "schedule": "cosine"},
}

PATHS = ("data", "val", "init", "encoder")
NONE, SHIPPED = "none", "shipped"  # values of init that are no path

# May differ between a run and its resumption. The photographs' fingerprint says whether they are
# the same, wherever they are now.
FREE_ON_RESUME = ("out", "devices", "data", "val")


def flag(name: str) -> str:
    """Spell an option's name as it is typed."""
    return "--" + name.replace("_", "-")


def train_parser() -> argparse.ArgumentParser:
    """Make the parser of train.py; what is not given is absent from its result."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Train a network to colour photographs, on a folder of your own.",
        epilog="examples:\n"
        "  python train.py --data photos --minutes 30\n"
        "  python train.py --data photos --preset paper --size 128 --out runs/paper\n"
        "  python train.py --out runs/paper --resume\n"
        "  python train.py --data photos --init runs/paper/weights.safetensors --out runs/more\n"
        "  python train.py --cool-down runs/vivid --out runs/cooled\n"
        "The defaults are those of vivid; docs/training.md has the other presets'.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    length = parser.add_mutually_exclusive_group()
    types = typing.get_type_hints(TrainConfig)
    for option in dataclasses.fields(TrainConfig):
        if not option.metadata:
            continue
        text = option.metadata["help"]
        if option.default and "default" not in text:
            text += f" (default: {option.default})"
        if types[option.name] is bool:
            parser.add_argument(flag(option.name), action="store_true", help=text)
            continue
        target = length if option.name in ("epochs", "steps", "minutes") else parser
        target.add_argument(
            flag(option.name),
            type=types[option.name],
            choices=option.metadata["choices"] or None,
            help=text,
            metavar=None if option.metadata["choices"] else types[option.name].__name__.upper(),
        )
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out, to more --steps than before if it is a wsd run",
    )
    again.add_argument(
        "--cool-down",
        metavar="RUN",
        help="branch off a wsd run: from its newest state, let the rate fall to zero",
    )
    several = parser.add_argument_group("several machines", "the same command on each of them")
    several.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="of the first process, or 'auto': ask Slurm, Open MPI or Kubernetes for all three",
    )
    several.add_argument("--processes", type=int, metavar="N", help="how many there are")
    several.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")
    return parser


def _absolute(given: dict[str, Any]) -> dict[str, Any]:
    """Make paths absolute, since a run may be resumed from another folder."""
    found = {name: given[name] for name in PATHS if given.get(name, "") not in ("", NONE, SHIPPED)}
    return given | {name: str(Path(path).resolve()) for name, path in found.items()}


def _refuse_zeros(given: dict[str, Any]) -> None:
    for name in ("steps", "minutes"):  # where 0 stands for "not given"
        if given.get(name, 1) == 0:
            raise ConfigError(f"{flag(name)} {given[name]}: it must be above 0")


def resolve(given: dict[str, Any]) -> TrainConfig:
    """Complete what was given on the command line by its preset.

    Raises:
        ConfigError: a value is out of range, or does not go with another.
        checkpoint.WeightsError: `--init` names no weights.
    """
    preset = given.get("preset", TrainConfig.preset)
    _refuse_zeros(given)
    values: dict[str, Any] = {"out": f"runs/{preset}"} | PRESETS[preset] | _absolute(given)
    if "optimizer" in given and "lr" not in given and given["optimizer"] != "muon":
        values["lr"] = min(values.get("lr", TrainConfig.lr), 1e-3)
    values.setdefault("encoder_lr", values.get("lr", TrainConfig.lr) / 5)
    if not values.get("init"):
        from_nothing = values.get("network", "lite") != "lite" or values.get("encoder")
        values["init"] = NONE if from_nothing and preset != "gan" else SHIPPED
    init = values["init"]
    if preset == "gan" and init == NONE:
        raise ConfigError("--preset gan starts from trained weights: name a file by --init")
    if preset == "gan" and given.get("schedule") == "wsd":
        raise ConfigError("--schedule wsd is not for --preset gan, whose rate falls linearly")
    if init != NONE and preset in ("vivid", "gan"):
        found = checkpoint.read_header(checkpoint.DEFAULT_WEIGHTS if init == SHIPPED else init)[0]
        theirs = {"network": found.kind, "width": found.width, "head": found.head}
        values = theirs | values  # the network of the weights, unless another is given
        goes_on = all(values[name] == value for name, value in theirs.items())
        if goes_on and preset == "vivid" and found.head == "bins":
            values.setdefault("matched", 3.0)
    for name in ("encoder", "encoder_lr", "frozen_blocks"):
        if name in given and values.get("network", "lite") != "lite":
            raise ConfigError(f"{flag(name)} is for --network lite: the others have no encoder")
    if "encoder" in given and init != NONE:
        raise ConfigError("--encoder begins a new decoder: leave --init out, which brings its own")
    return TrainConfig(**values)


def resumed(given: dict[str, Any], saved: dict[str, Any]) -> TrainConfig:
    """Combine a run's saved configuration with what may differ when it goes on.

    Raises:
        ConfigError: something given differs that must not.
    """
    _refuse_zeros(given)
    free = {*FREE_ON_RESUME, *(["steps"] if saved.get("schedule") == "wsd" else [])}
    given = _absolute(given)
    for name, value in given.items():
        same = value == saved.get(name) or (name, value) == ("dtype", "auto")
        if name not in free and not same:
            raise ConfigError(
                f"{flag(name)} {value} differs from the run's {saved.get(name)!r}: leave it "
                "out to resume, or start another run with another --out"
            )
    names = {option.name for option in dataclasses.fields(TrainConfig)}
    values = saved | {name: value for name, value in given.items() if name in free}
    try:
        return TrainConfig(**{name: value for name, value in values.items() if name in names})
    except TypeError as error:
        raise ConfigError(f"config.json is not a run's: {error}") from None
