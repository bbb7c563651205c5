"""Train a network to colour photographs: a folder of them in, a run directory out."""

import dataclasses
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from colorjax import checkpoint, config, data, model, processes, report, step, validation
from colorjax.config import ConfigError, TrainConfig

VALIDATIONS, MOST_STEPS = 20, 2**31 - 1  # unless --validate-every says otherwise; in int32
PHOTOGRAPHS, SAMPLES = 256, 8  # validated on, at most; shown in grids and strip


class TrainingError(RuntimeError):
    """Why training stopped, as one sentence."""


def initial_weights(settings: TrainConfig) -> model.Params | None:
    """The parameters that `--init` names."""
    if not settings.init:
        return None
    network = settings.network_config
    header, _ = checkpoint.read_header(settings.init)
    if header != dataclasses.asdict(network):
        raise ConfigError(f"--init {settings.init} holds the network {header}, this run trains "
                          f"{dataclasses.asdict(network)}")  # fmt: skip
    return checkpoint.load_weights(settings.init, model.shapes(network))


def packed(folder: str, settings: TrainConfig) -> data.Pool:
    """The folder's pool, with a bar while it is packed; packed once, if all share a disk."""
    bar = report.Bar("packing")
    if not processes.is_first():
        processes.wait_for_all(folder)
    try:
        return data.pack(folder, settings.pool_side, config.cache_directory() / "pools",
                         settings.min_colorfulness, progress=bar.update)  # fmt: skip
    finally:
        bar.close()
        if processes.is_first():
            processes.wait_for_all(folder)


class Run:
    """A training run: its directory, its photographs, its state."""

    def __init__(self, settings: TrainConfig, saved: dict[str, Any] | None):
        """Pack the photographs, and create the state or restore the newest.

        Raises:
            ConfigError, data.DataError, checkpoint.WeightsError: as `main` says them.
        """
        self.settings, self.out = settings, Path(settings.out)
        try:
            whole, self.split = step.placement(settings.devices)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if settings.batch % self.split.mesh.size:
            raise ConfigError(f"--batch {settings.batch}: it must be a multiple of the "
                              f"{self.split.mesh.size} devices, or set --devices")  # fmt: skip
        params = None if saved else initial_weights(settings)
        processes.wait_for_all("open")  # all have looked at the directory before one writes there
        self.out.mkdir(parents=True, exist_ok=True)
        if not saved:
            self._remember(None)  # before packing, so that a run killed there can be resumed
        try:
            self.pool = packed(settings.data, settings)
            val_pool = packed(settings.val, settings) if settings.val else self.pool
            fraction, batch = settings.val_fraction, settings.batch
            self.rows, held_out = data.split(self.pool, val_pool, fraction, batch)
            pools = {"data": self.pool.fingerprint, "val": val_pool.fingerprint}
            if saved and saved.get("pools"):
                self._check(saved["pools"], pools)
            else:
                self._remember(pools)
        except BaseException:
            if not saved and processes.is_first():
                (self.out / "config.json").unlink()
                self.out.rmdir()
            raise
        shared = {field.name for field in dataclasses.fields(step.StepConfig)} - {"network"}
        self.config = step.StepConfig(
            settings.network_config, **{name: getattr(settings, name) for name in shared}
        )
        mean, histogram = validation.colours(self.pool, self.rows)
        state = step.create_state(self.config, 0, params, histogram)
        self.validation = validation.Validation(
            self.config, val_pool, held_out[:PHOTOGRAPHS], mean, state.rarity, settings.colorfulness
        )
        self.checkpoints = checkpoint.Checkpoints(self.out / "checkpoints")
        self.progress = {"best": math.inf, "best_step": 0, "stale": 0}
        self.state = jax.device_put(state, whole)
        newest = self.checkpoints.newest()
        if newest is not None:
            self.state, self.progress = self.checkpoints.restore(newest, self.state)
        else:
            total = processes.greatest(min(self._total_steps(), MOST_STEPS))
            total = jax.device_put(jnp.int32(total), whole)
            self.state = dataclasses.replace(self.state, total_steps=total)
        if processes.is_first():
            report.cut_back(self.out, newest or 0)

    def _remember(self, pools: dict[str, str] | None) -> None:
        if not processes.is_first():
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
                f"the photographs in {folders} have changed since the run in {self.out} began: "
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
        images = data.put(self.pool, self.rows[: settings.batch], self.split)

        def once() -> Any:
            nonlocal spare
            spare, result = step.train_step(self.config, spare, images)
            return result

        a_step = step.seconds_per_call(once, min(10, 3 * settings.minutes))
        a_validation = step.seconds_per_call(
            lambda: self.validation.measure(processes.own(spare.ema)), 0
        )
        if settings.validate_every:
            steps = 60 * settings.minutes / (a_step + a_validation / settings.validate_every)
        else:
            steps = (60 * settings.minutes - VALIDATIONS * a_validation) / a_step
        return max(1, int(steps))

    def train(self) -> int:
        """The loop: steps, validations, checkpoints; the exit status."""
        settings, state = self.settings, self.state
        first, total = int(state.step), int(state.total_steps)
        every = settings.validate_every or max(1, total // VALIDATIONS)
        log_every = max(1, min(100, total // 200))
        size = sum(parameter.size for parameter in jax.tree.leaves(state.params))
        print(f"{settings.network} network, {size:,} parameters, {settings.dtype} on "
              f"{self.split.mesh.size} {jax.default_backend()} device(s); {len(self.rows)} "
              f"photographs to train on, {self.validation.count} to validate; {total} steps of "
              f"{settings.batch}" + (f", going on from step {first}" if first else ""))  # fmt: skip

        interrupt, bar, text, done = processes.Interrupt(), report.Bar("training"), "", first
        waiting: list[tuple[int, dict[str, jax.Array]]] = []  # results still on the device
        losses: list[float] = []
        since, steps_since = time.perf_counter(), first

        def collect(keep: int) -> None:
            while len(waiting) > keep:
                number, result = waiting.pop(0)
                losses.append(float(result["loss"]))
                if not math.isfinite(losses[-1]):
                    raise TrainingError(f"the loss of step {number} is {losses[-1]}")

        try:
            # A run whose patience ended is complete; resumed, it has nothing left to do.
            last = first if self._out_of_patience() else total
            batches = data.batches(self.pool, self.rows, settings.batch, settings.seed,
                                   first, last, self.split)  # fmt: skip
            for images in batches:
                self.state, result = step.train_step(self.config, self.state, images)
                done += 1
                waiting.append((done, result))
                collect(keep=1)  # a step behind, so that the device never waits for Python
                if done % log_every == 0:
                    collect(keep=0)
                    pace = (done - steps_since) / (time.perf_counter() - since)
                    since, steps_since = time.perf_counter(), done
                    loss, pace = sum(losses) / len(losses), settings.batch * pace
                    losses.clear()
                    text = f"loss {loss:.5f}  {pace:.0f} images/s"
                    self._log(step=done, loss=loss, images_per_second=round(pace, 1))
                bar.update(done, total, text)
                # Once a step, since it may come at any moment.
                asked = interrupt.asked(together=done % log_every == 0)
                if done % every == 0 or done == total or asked:
                    collect(keep=0)
                    if not step.is_finite(self.state.params):
                        raise TrainingError(f"after step {done} the parameters are not finite")
                    value = None
                    if done % every == 0 or done == total:
                        value = -self._validate(done, text)  # the lower the loss, the better
                    self.checkpoints.save(done, self.state, self.progress, value)
                    if self._out_of_patience():
                        print(f"no improvement in {settings.patience} validations: stopping")
                        break
                    since, steps_since = time.perf_counter(), done
                if asked and done < total:
                    self.checkpoints.wait()
                    bar.close()
                    print(f"interrupted and saved at step {done}; go on with\n"
                          f"  python train.py --out {self.out} --resume")  # fmt: skip
                    return 128 + asked
            self.checkpoints.wait()
        except TrainingError as error:
            newest = self.checkpoints.newest()
            kept = f"checkpoint {newest} is kept" if newest else "there is no checkpoint yet"
            raise TrainingError(
                f"{error}; {kept}. Another run with a lower --lr or --clip may get further"
            ) from None
        finally:
            bar.close()
            interrupt.restore()
            self.checkpoints.close()
        return self._finish()

    def _out_of_patience(self) -> bool:
        return 0 < self.settings.patience <= self.progress["stale"]

    def _validate(self, done: int, text: str) -> float:
        """Measure, show and log; keep the weights if they are the best so far. Their loss."""
        progress, share = self.progress, self.settings.colorfulness
        ema = processes.own(self.state.ema)
        try:
            measured = self.validation.measure(ema, SAMPLES)
        except FloatingPointError as error:
            raise TrainingError(f"after step {done} {error}") from None
        loss, figures = processes.firsts(measured.validation_loss), measured.figures()
        better = loss < progress["best"]
        progress["stale"] = 0 if better else progress["stale"] + 1
        if better:
            progress.update(best=loss, best_step=done)
        if better and processes.is_first():
            summary = {
                "preset": self.settings.preset, "size": self.settings.size,
                "batch": self.settings.batch, "step": done, "seed": self.settings.seed,
                "photographs": len(self.rows), "fine_tuned": bool(self.settings.init),
                **figures, "validation_photographs": self.validation.count,
            }  # fmt: skip
            checkpoint.save_weights(self.out / "weights.safetensors", ema,
                                    dataclasses.asdict(self.config.network), summary)  # fmt: skip
        truth = self.validation.truth[:SAMPLES]
        if processes.is_first():
            report.sample_grid(self.out, done, truth, measured.samples)
        self._log(step=done, **figures)
        vivid = f", {measured.psnr_calibrated:.2f} dB at {share:g} of it" if share else ""
        print(f"step {done}: validation {measured.psnr:.2f} dB (grey {measured.psnr_grey:.2f}, "
              f"constant ab {measured.psnr_constant:.2f}) at {measured.colorfulness:.2f} of the "
              f"truth's colourfulness{vivid}{'; the best so far' if better else ''}  {text}",
              flush=True)  # fmt: skip
        return loss

    def _log(self, **entry: float) -> None:
        if processes.is_first():
            report.log(self.out, **entry)

    def _finish(self) -> int:
        """Say what was written and how to use it."""
        if not processes.is_first():
            return 0
        names = ["weights.safetensors", "log.jsonl", "config.json", "strip.png", "samples",
                 "checkpoints", *(["curves.png"] if report.curves(self.out) else [])]  # fmt: skip
        print(f"best validation loss: {self.progress['best']:.5g} at step "
              f"{self.progress['best_step']}\nwrote")  # fmt: skip
        for name in filter(lambda name: (self.out / name).exists(), names):
            print(f"  {self.out / name}")
        print("colour a photograph with it:\n"
              f"  python colorize.py in.jpg out.png --weights {self.out / names[0]}")  # fmt: skip
        return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    given = vars(config.train_parser().parse_args(argv))
    try:
        together = [given.pop(name, None) for name in ("coordinator", "processes", "process")]
        if any(value is not None for value in together):
            processes.join(*together)
        config.use_compilation_cache()
        return Run(*config.open_run(given, given.pop("resume", False))).train()
    except (ConfigError, data.DataError, checkpoint.WeightsError, TrainingError,
            processes.JoinError) as error:  # fmt: skip
        print(f"train.py: {error}", file=sys.stderr)
    except OSError as error:
        what = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        print(f"train.py: {what}; what was saved before is intact", file=sys.stderr)
    except KeyboardInterrupt:
        print("train.py: interrupted at once, without saving", file=sys.stderr)
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())
