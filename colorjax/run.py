"""A training run and its directory: begun, resumed or branched off.

`config.json` says what the run is, `newest.safetensors` holds its state, `weights.safetensors` its
best weights so far. A wsd run keeps in `trunk.safetensors` the state before its rate fell.
"""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from colorjax import checkpoint, config, data, device, model, report, step
from colorjax.config import NONE, SHIPPED, ConfigError, TrainConfig
from colorjax.model import NetworkConfig, Params
from colorjax.validation import Measured, Validation, selection_score

VALIDATIONS = 20  # unless --validate-every says otherwise
MOST_STEPS = 2**31 - 1  # in int32
FEWEST_PIXELS = 2**17  # in a step that a CPU's cores had better share as two devices

Agree = Callable[[Any], Any]  # a number → the greatest of all processes'


@dataclass
class Run:
    """A training run: its directory, its photographs, its state."""

    config: TrainConfig
    out: Path
    algorithm: ModuleType  # that has the run's train_step and create_state: step, or extra.gan
    selection_score: Callable[[Measured], float]
    pool: data.Pool
    labels: np.ndarray  # of the pool's photographs, as `data.label_numbers` gives them
    rows: np.ndarray  # of the pool, to train on
    validation: Validation
    split: NamedSharding  # of batches
    state: Any
    progress: dict[str, Any]
    agree: Agree
    total: int  # steps
    from_weights: bool  # begun from whole weights, which are worth measuring before they change

    def validates(self, done: int) -> bool:
        """Tell whether to validate after so many steps."""
        every = self.config.validate_every or max(1, -(-self.total // VALIDATIONS))
        return done == self.total or done % every == 0

    def save(self) -> None:
        """Save all that decides how training goes on."""
        newest = self.out / "newest.safetensors"
        checkpoint.save_state(newest, step.local(self.state), self.progress)
        if self.config.schedule == "wsd" and int(self.state.step) == step.trunk_steps(self.total):
            checkpoint.replace_file(self.out / "trunk.safetensors", newest.read_bytes())

    def keep_best(self, measured: Measured) -> bool:
        """Keep the weights if they are the best so far; tell whether they are."""
        score, done = self.agree(self.selection_score(measured)), int(self.state.step)
        if score <= self.progress["best"]:
            self.progress["stale"] += 1
            return False
        self.progress = {"best": score, "best_step": done, "stale": 0}
        summary = {name: getattr(self.config, name) for name in ("preset", "size", "batch", "seed")}
        summary |= {
            "step": done,
            "photographs": len(self.rows),
            "init": Path(self.config.init).name,
            "validation_photographs": self.validation.count,
        }
        checkpoint.save_weights(
            self.out / "weights.safetensors",
            step.local(self.state.ema),
            dataclasses.asdict(self.config.network_config),
            summary | measured.figures(),
            decoding=measured.decoding,
        )
        return True


def open_run(given: dict[str, Any], agree: Agree = lambda value: value) -> Run:
    """Begin a run, go on with it (`resume`), or branch one off (`cool_down`), as was typed.

    `given` is what `config.train_parser` found; several processes `agree` on numbers.

    Raises:
        ConfigError, data.DataError, checkpoint.WeightsError: as `train.main` says them.
    """
    given = dict(given)
    resume, trunk = given.pop("resume", False), given.pop("cool_down", None)
    if trunk is not None:
        return _open(*_branch(Path(trunk), given), agree)
    if not resume:
        return _begin(given, agree)
    out = given.get("out") or config.resolve(given).out
    return _open(*_saved(Path(out), given | {"out": out}), agree)


def _begin(given: dict[str, Any], agree: Agree) -> Run:
    """Begin a new run; what it wrote is removed if it cannot begin."""
    settings = config.resolve(given)
    settings = dataclasses.replace(settings, dtype=settings.compute_dtype)
    if not settings.data:
        raise ConfigError("--data is missing: name a folder of colour photographs")
    _check_new(out := Path(settings.out))
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    _write_config(settings, None)  # before packing, so that a run killed there can be resumed
    try:
        return _open(settings, None, agree)
    except BaseException:
        (out / "config.json").unlink()
        if is_new:
            out.rmdir()
        raise


def _check_new(out: Path) -> None:
    """Refuse a directory that holds more than what a run killed at once has left."""
    if out.exists() and (
        not out.is_dir() or any(p.name != "config.json.tmp" for p in out.iterdir())
    ):
        raise ConfigError(f"{out} exists already: go on with it by --resume, or name another --out")


def _saved(directory: Path, given: dict[str, Any]) -> tuple[TrainConfig, dict[str, str] | None]:
    """Read a run's directory: the configuration to go on with, and its pools' fingerprints."""
    try:
        saved = json.loads((directory / "config.json").read_text())
        if not saved["config"]["data"]:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{directory} is not a run directory: its config.json is missing or not a run's"
        ) from None
    settings = config.resumed(given, saved["config"])
    if not Path(settings.data).is_dir():
        raise ConfigError(
            f"the photographs in {settings.data} are not there: say by --data where they are now"
        )
    return settings, saved.get("pools")


def _write_config(settings: TrainConfig, pools: dict[str, str] | None) -> None:
    content = {"config": dataclasses.asdict(settings), "pools": pools}
    path = Path(settings.out) / "config.json"
    checkpoint.replace_file(path, json.dumps(content, indent=1).encode())


def _branch(trunk: Path, given: dict[str, Any]) -> tuple[TrainConfig, dict[str, str] | None]:
    """Make a run that goes on from another's newest state, its rate falling to zero from there."""
    if "steps" in given:
        raise ConfigError(f"--steps {given['steps']}: --cool-down says how many steps are left")
    out = Path(given.get("out", f"{trunk}-cooled"))
    settings, pools = _saved(trunk, given | {"out": str(out)})
    _check_new(out)
    if settings.schedule != "wsd":
        raise ConfigError(
            f"--cool-down {trunk}: its --schedule is {settings.schedule}, whose rate falls by "
            "itself; only that of wsd is constant until then"
        )
    source, done = _before_the_fall(trunk)
    settings = dataclasses.replace(settings, steps=step.branch_steps(done), validate_every=0)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, out / "newest.safetensors")
    _write_config(settings, pools)
    return settings, pools


def _before_the_fall(out: Path) -> tuple[Path, int]:
    """Find the newest state of a wsd run from before its rate fell, and its step."""
    for name in ("newest.safetensors", "trunk.safetensors"):
        if (out / name).exists():
            done, total = checkpoint.read_steps(out / name)
            if done <= step.trunk_steps(total):
                return out / name, done
    raise ConfigError(f"{out} has no state from before its rate began to fall")


def _placement(settings: TrainConfig) -> tuple[NamedSharding, NamedSharding]:
    """Choose where the state and the batches go."""
    devices = settings.devices
    if not devices and jax.default_backend() == "cpu" and jax.process_count() == 1:
        few = settings.batch * settings.size**2 < FEWEST_PIXELS
        devices = 1 if few else math.gcd(settings.batch, jax.device_count())
    try:
        whole, split = step.placement(devices)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if settings.batch % split.mesh.size:
        raise ConfigError(
            f"--batch {settings.batch}: it must be a multiple of the "
            f"{split.mesh.size} devices, or set --devices"
        )
    return whole, split


def _open(settings: TrainConfig, pools: dict[str, str] | None, agree: Agree) -> Run:
    """Pack the photographs, and create the state or restore the newest."""
    out = Path(settings.out)
    whole, split = _placement(settings)
    newest = _newest(out)
    params, labels, encoder = (None, (), None) if newest else _starting_weights(settings)
    pool = _load_pool(settings.data, settings)
    val_pool = _load_pool(settings.val, settings) if settings.val else pool
    rows, held_out = data.split(pool, val_pool, settings.val_fraction, settings.batch)
    fingerprints = {"data": pool.fingerprint, "val": val_pool.fingerprint}
    if pools and pools != fingerprints:
        changed = [name for name in fingerprints if pools.get(name) != fingerprints[name]]
        folders = " and ".join(getattr(settings, n) or settings.data for n in changed)
        raise ConfigError(
            f"the photographs in {folders}, or how colorjax packs them, have changed since the "
            f"run in {out} began: start another run with another --out, from this one's weights "
            f"by --init {out / 'weights.safetensors'}"
        )
    if settings.labels:
        settings = dataclasses.replace(settings, label_names=_labels(settings, pool, rows))
    _write_config(settings, fingerprints)
    network = settings.network_config
    algorithm, score = step, selection_score
    if settings.preset == "gan":
        from colorjax.extra import gan  # the others need none of it

        algorithm, score = gan, gan.selection_score

    params = params and with_labels(params, labels, network)
    mean, histogram = data.color_statistics(pool, rows)
    state = algorithm.create_state(settings, 0, params, histogram, encoder)
    val_labels = data.label_numbers(val_pool, network.labels)
    measure = Validation(settings, val_pool, held_out, mean, state.bin_weights, val_labels)
    state, progress = jax.device_put(state, whole), {}
    if newest:
        state, progress = _restore(newest, state, settings)
    # A branch has no weights yet: it need not beat its trunk.
    if not newest or not (out / "weights.safetensors").exists():
        progress = {"best": -math.inf, "best_step": 0, "stale": 0}
    run = Run(
        config=settings,
        out=out,
        algorithm=algorithm,
        selection_score=score,
        pool=pool,
        labels=data.label_numbers(pool, network.labels),
        rows=rows,
        validation=measure,
        split=split,
        state=state,
        progress=progress,
        agree=agree,
        total=int(state.total_steps),
        from_weights=params is not None,
    )
    if not newest:
        run.total = agree(min(_total_steps(run), MOST_STEPS))
        run.state = _with_total(state, run.total)
    report.cut_back(out, int(state.step) if newest else -1)
    return run


def _load_pool(folder: str, settings: TrainConfig) -> data.Pool:
    """Load the folder's pool, with a bar while it is packed."""
    cache = device.cache_directory() / "pools"
    with closing(report.Bar("packing")) as bar:
        return data.load_pool(
            folder, settings.pool_side, cache, settings.min_colorfulness, progress=bar.update
        )


def _labels(settings: TrainConfig, pool: data.Pool, rows: np.ndarray) -> tuple[str, ...]:
    """List what the photographs to train on show, by their folders."""
    labels = data.label_names(pool, rows)
    if len(labels) < 2:
        raise data.DataError(
            f"--labels: {settings.data} has {'one folder' if labels else 'no folder'} of "
            f"{data.FEWEST} or more photographs to train on, and there is nothing to tell "
            "apart without two: put photographs of one kind into a folder of that name"
        )
    print(f"{len(labels)} labels: {', '.join(labels[:5])}{', …' * (len(labels) > 5)}")
    return labels


def _starting_weights(
    settings: TrainConfig,
) -> tuple[Params | None, tuple[str, ...], Params | None]:
    """Load what a run begins with: parameters and their labels, or an encoder's parameters."""
    network = dataclasses.replace(settings.network_config, labels=())
    if settings.encoder:
        shapes = model.shapes(network)["encoder"]
        return None, (), checkpoint.load_encoder(settings.encoder, shapes)
    if settings.init == NONE:
        return None, (), None
    shipped = settings.init == SHIPPED
    path = checkpoint.DEFAULT_WEIGHTS if shipped else settings.init
    params, found, _ = checkpoint.load(path)
    if dataclasses.replace(found, labels=()) == network:
        return params, found.labels, None
    if shipped and settings.preset != "gan" and found.kind == network.kind:
        print(f"a new decoder of width {network.width} on the encoder of the default weights")
        return None, (), params["encoder"]
    held, asked = (
        f"the {n.kind} network of width {n.width} with head {n.head}" for n in (found, network)
    )
    raise ConfigError(
        f"--init {settings.init} holds {held}, and this run trains {asked}: set "
        "--network, --width and --head accordingly"
    )


def with_labels(params: Params, before: tuple[str, ...], network: NetworkConfig) -> Params:
    """Fit parameters to a network of other labels: its classifier is new, or dropped."""
    if before == network.labels:
        return params
    if before:
        fate = "others: they begin anew" if network.labels else "dropped, without --labels"
        print(f"note: the labels that --init has learned are {fate}")
    known = {name: part for name, part in params.items() if not name.startswith("classifier")}
    return model.init(0, network) | known  # a new classifier is not random


def _newest(out: Path) -> Path | None:
    """Find the newest state in a run's directory, or the one before it if only that is left."""
    paths = (out / f"{name}.safetensors" for name in ("newest", "previous"))
    return next((path for path in paths if path.exists()), None)


def _restore(newest: Path, like: Any, settings: TrainConfig) -> tuple[Any, dict[str, Any]]:
    """Read the state to go on from: the newest, unless it is damaged or has come too far."""
    previous = newest.with_name("previous.safetensors")
    try:
        state, progress = checkpoint.restore_state(newest, like)
    except checkpoint.WeightsError as error:
        if newest == previous or not previous.exists():
            raise checkpoint.WeightsError(
                f"{error}: remove it to begin the run anew, or start another with --init"
            ) from None
        state, progress = checkpoint.restore_state(previous, like)
        print(f"note: {error}; going on from {previous}, of step {int(state.step)}")
    total = settings.steps if settings.schedule == "wsd" else 0
    if not total or total == int(state.total_steps):
        return state, progress
    if int(state.step) > step.trunk_steps(int(state.total_steps)):
        source, _ = _before_the_fall(newest.parent)
        state, progress = checkpoint.restore_state(source, like)
    if int(state.step) > step.trunk_steps(total):
        fewest = step.branch_steps(int(state.step))
        raise ConfigError(
            f"--steps {total}: the run in {newest.parent} has come to step {int(state.step)}, and "
            f"its rate falls over a tenth of all steps: at least {fewest}"
        )
    return _with_total(state, total), progress


def _with_total(state: Any, total: int) -> Any:
    """Set how many steps the run has."""
    placed = jax.device_put(jnp.int32(total), state.total_steps.sharding)
    return dataclasses.replace(state, total_steps=placed)


def _total_steps(run: Run) -> int:
    """Compute how many steps --steps, --minutes or --epochs come to."""
    settings = run.config
    if settings.steps:
        return settings.steps
    if not settings.minutes:
        return max(1, round(settings.epochs * (len(run.rows) // settings.batch)))
    spare = jax.tree.map(jnp.copy, run.state)
    rows = run.rows[: settings.batch]
    examples = [data.device_put_rows(x, rows, run.split) for x in (run.pool.images, run.labels)]

    def once() -> Any:
        nonlocal spare
        spare, result = run.algorithm.train_step(settings, spare, *examples)
        return result

    a_step = seconds_per_call(once, min(10, 3 * settings.minutes), run.agree)
    ema = step.local(run.state.ema)
    a_validation = seconds_per_call(lambda: run.validation.measure(ema), 0, run.agree)
    seconds = 60 * settings.minutes
    if settings.validate_every:
        return max(1, int(seconds / (a_step + a_validation / settings.validate_every)))
    left = max(seconds - VALIDATIONS * a_validation, seconds / 2)  # rather longer than untrained
    return max(1, int(left / a_step))


def seconds_per_call(function: Callable[[], object], seconds: float, agree: Agree) -> float:
    """Time a call: its mean over about so many seconds, after two calls that compile.

    All processes make as many calls, since each may wait for the others.
    """

    def timed(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(function())
        return (time.perf_counter() - start) / calls

    timed(2)
    return timed(max(3, agree(int(seconds / timed(1)))))
