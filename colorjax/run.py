"""A training run: its directory, its photographs, its network, opened or gone on with."""

import dataclasses
import json
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from colorjax import batches, checkpoint, config, data, model, report, step, validation
from colorjax.config import ConfigError, TrainConfig
from colorjax.extra import distributed, gan

VALIDATIONS = 20  # in a phase, unless --validate-every says otherwise
MOST_STEPS = 2**31 - 1  # in int32
PHOTOGRAPHS = 256  # validated on, at most
FEWEST_PIXELS = 2**17  # in a step that a CPU's cores had better share as two devices


def initial_weights(settings: TrainConfig) -> tuple[model.Params, tuple[str, ...]] | None:
    """The parameters that `--init` names, and the labels they know."""
    if not settings.init:
        return None
    params, network, *_ = checkpoint.load(settings.init)
    wanted = settings.network_config
    if dataclasses.replace(network, labels=()) != wanted:
        held, asked = (
            f"the {n.kind} network of width {n.width} with head {n.head}" for n in (network, wanted)
        )
        raise ConfigError(
            f"--init {settings.init} holds {held}, and this run trains {asked}: set "
            "--network, --width and --head accordingly"
        )
    return params, network.labels


def with_labels(
    params: model.Params, before: tuple[str, ...], network: model.NetworkConfig
) -> model.Params:
    """Parameters for a network of other labels: its classifier is new, or left away."""
    if before == network.labels:
        return params
    if before:
        print(
            "note: the labels that --init has learned are "
            + ("others: they begin anew" if network.labels else "dropped, without --labels")
        )
    new = model.init(0, network)  # a new classifier is not random
    return {
        name: params[name] if name in params and not name.startswith("classifier") else part
        for name, part in new.items()
    }


def packed(folder: str, settings: TrainConfig) -> data.Pool:
    """The folder's pool, with a bar while it is packed; packed once, if all share a disk."""
    bar = report.Bar("packing")
    if not distributed.is_first():
        distributed.wait_for_all("packed")  # not by the folder's name: machines may differ in it
    try:
        return data.pack(
            folder,
            settings.pool_side,
            config.cache_directory() / "pools",
            settings.min_colorfulness,
            progress=bar.update,
        )
    finally:
        bar.close()
        if distributed.is_first():
            distributed.wait_for_all("packed")


class Run:
    """A training run: its directory, its photographs, its state."""

    def __init__(self, settings: TrainConfig, saved: dict[str, Any] | None):
        """Pack the photographs, and create the state or restore the newest.

        Raises:
            ConfigError, data.DataError, checkpoint.WeightsError: as `main` says them.
        """
        self.settings, self.out = settings, Path(settings.out)
        try:
            whole, self.split = step.placement(settings.devices or self._devices())
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if settings.batch % self.split.mesh.size:
            raise ConfigError(
                f"--batch {settings.batch}: it must be a multiple of the "
                f"{self.split.mesh.size} devices, or set --devices"
            )
        begun = any(path.name.isdigit() for path in (self.out / "checkpoints").glob("*"))
        initial = None if begun else initial_weights(settings)
        begins = not saved and distributed.is_first()
        is_new = not self.out.exists()
        distributed.wait_for_all("open")  # all have looked at the directory before one writes there
        self.out.mkdir(parents=True, exist_ok=True)
        if not saved:
            self._remember(None)  # before packing, so that a run killed there can be resumed
        try:
            self.pool = packed(settings.data, settings)
            val_pool = packed(settings.val, settings) if settings.val else self.pool
            fraction, batch = settings.val_fraction, settings.batch
            self.rows, held_out = batches.split(self.pool, val_pool, fraction, batch)
            pools = {"data": self.pool.fingerprint, "val": val_pool.fingerprint}
            if saved and saved.get("pools"):
                self._check(saved["pools"], pools)
            else:
                self._remember(pools)
            network = self._network()
        except BaseException:
            if begins:
                (self.out / "config.json").unlink()
            if begins and is_new:
                self.out.rmdir()
            raise
        shared = {field.name for field in dataclasses.fields(step.StepConfig)} - {"network"}
        self.config = step.StepConfig(network, **{name: getattr(settings, name) for name in shared})
        params = with_labels(*initial, network) if initial else None
        self.labels = batches.label_numbers(self.pool, network.labels)
        mean, histogram = validation.colours(self.pool, self.rows)
        state = step.create_state(self.config, 0, params, histogram)
        self.validation = validation.Validation(
            self.config,
            val_pool,
            held_out[:PHOTOGRAPHS],
            mean,
            state.rarity,
            settings.colorfulness,
            batches.label_numbers(val_pool, network.labels),
        )
        self.checkpoints = checkpoint.Checkpoints(self.out / "checkpoints")
        self.progress = {"critic": False, "best": math.inf, "best_step": 0, "stale": 0}
        self.state = jax.device_put(state, whole)
        newest = self.checkpoints.newest()
        if newest is not None:
            self.state, self.progress = self.checkpoints.restore(newest, self.state)
        else:
            total = distributed.greatest(min(self._total_steps(), MOST_STEPS))
            lengths = jax.device_put(step.steps(self.config, total), whole)
            self.state = dataclasses.replace(self.state, **lengths)
        # Steps, and those of them before there is a critic.
        self.total, self.ordinary = int(self.state.total_steps), int(self.state.ordinary_steps)
        if distributed.is_first():
            report.cut_back(self.out, -1 if newest is None else newest)

    def _devices(self) -> int:
        """How many to use if the user does not say; 0 means all."""
        if jax.default_backend() != "cpu" or jax.process_count() > 1:
            return 0
        if self.settings.batch * self.settings.size**2 < FEWEST_PIXELS:
            return 1
        return math.gcd(self.settings.batch, jax.device_count())

    def _network(self) -> model.NetworkConfig:
        """The network to train, with the labels that the photographs have if it shall learn them.

        Raises:
            data.DataError: they have not.
        """
        network = self.settings.network_config
        if not self.settings.labels:
            return network
        labels = batches.label_names(self.pool, self.rows)
        if len(labels) < 2:
            raise data.DataError(
                f"--labels: {self.settings.data} has {'one folder' if labels else 'no folder'} of "
                f"{batches.FEWEST} or more photographs to train on, and there is nothing to tell "
                "apart without two: put photographs of one kind into a folder of that name"
            )
        known = int((batches.label_numbers(self.pool, labels)[self.rows] >= 0).sum())
        print(
            f"{len(labels)} labels: {', '.join(labels[:5])}{', …' * (len(labels) > 5)}; "
            f"{len(self.rows) - known} of {len(self.rows)} photographs have none"
        )
        return dataclasses.replace(network, labels=labels)

    def _remember(self, pools: dict[str, str] | None) -> None:
        if not distributed.is_first():
            return
        path = self.out / "config.json"
        content = {"config": dataclasses.asdict(self.settings), "pools": pools}
        path.with_suffix(".tmp").write_text(json.dumps(content, indent=1))
        os.replace(path.with_suffix(".tmp"), path)

    def _check(self, before: dict[str, str], pools: dict[str, str]) -> None:
        """The photographs must still be those that the run began with."""
        if before != pools:
            changed = [name for name in pools if before.get(name) != pools[name]]
            folders = " and ".join(getattr(self.settings, n) or self.settings.data for n in changed)
            raise ConfigError(
                f"the photographs in {folders}, or how colorjax packs them, have changed since the "
                f"run in {self.out} began: "
                "start another run with another --out, from this one's weights by --init "
                f"{self.out / 'weights.safetensors'}"
            )

    def _total_steps(self) -> int:
        settings = self.settings
        if settings.steps:
            return settings.steps
        if not settings.minutes:
            return max(1, round(settings.epochs * (len(self.rows) // settings.batch)))
        spare = jax.tree.map(jnp.copy, self.state)
        examples = [
            batches.put(array, self.rows[: settings.batch], self.split)
            for array in (self.pool.images, self.labels)
        ]

        def once(train_step: Callable) -> Any:
            nonlocal spare
            spare, result = train_step(self.config, spare, *examples)
            return result

        late, seconds = settings.adversarial, min(10, 3 * settings.minutes)
        a_step = sum(
            share * distributed.seconds_per_call(partial(once, phase.train_step), seconds)
            for phase, share in ((step, 1 - late), (gan, late))
            if share
        )
        a_validation = distributed.seconds_per_call(
            lambda: self.validation.measure(distributed.own(self.state.ema)), 0
        )
        if settings.validate_every:
            steps = 60 * settings.minutes / (a_step + a_validation / settings.validate_every)
        else:
            phases = 1 + (0 < late < 1)
            left = 60 * settings.minutes - phases * VALIDATIONS * a_validation
            steps = max(left, 30 * settings.minutes) / a_step  # rather longer than untrained
        return max(1, int(steps))

    def is_adversarial(self, number: int) -> bool:
        """Whether the steps before a critic are over after so many."""
        return self.ordinary <= number and self.ordinary < self.total

    def train_step(self, number: int) -> Callable:
        """The step to take after so many: ordinary, or with a critic."""
        return (gan if self.is_adversarial(number) else step).train_step

    def validates(self, number: int) -> bool:
        """Whether to validate after so many steps."""
        every, total = self.settings.validate_every, self.total
        start, end = (0, self.ordinary) if number <= self.ordinary else (self.ordinary, total)
        since = number if every else number - start
        ends = number in (self.ordinary, total)
        return ends or since % (every or max(1, -((start - end) // VALIDATIONS))) == 0
