"""Train a network to colour photographs: a folder of them in, a run directory out."""

import math
import shlex
import signal
import sys
import time
from contextlib import closing
from typing import Any

import jax

from colorjax import checkpoint, config, data, device, report, step
from colorjax.config import ConfigError
from colorjax.run import Run, open_run

SAMPLES = 8  # photographs shown in grids and strip


class TrainingError(RuntimeError):
    """Why training stopped, as one sentence."""


class Interrupt:
    """Ctrl-C or SIGTERM asks the run to save and end; a second one ends it at once."""

    def __init__(self) -> None:
        """Listen from now on."""
        self.signal = 0
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}

    def _ask(self, number: int, _frame: Any) -> None:
        self.signal = number
        self.close()

    def close(self) -> None:
        """Listen no more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def train(run: Run) -> int:
    """Take the run's steps, validate, save; the exit status."""
    settings, first, total = run.config, int(run.state.step), run.total
    log_every = max(1, min(100, total // 200))
    size = sum(parameter.size for parameter in jax.tree.leaves(run.state.params))
    print(
        f"{settings.network} network, {size:,} parameters, {settings.dtype} on "
        f"{run.split.mesh.size} {jax.default_backend()} device(s); {len(run.rows)} "
        f"photographs to train on, {run.validation.count} to validate; {total} steps of "
        f"{settings.batch}" + (f", going on from step {first}" if first else "")
    )
    trunk = step.trunk_steps(total) if settings.schedule == "wsd" else -1
    pending: list[tuple[int, dict[str, jax.Array]]] = []  # results still on the device
    losses: list[float] = []
    others: dict[str, float] = {}  # what else the newest step reports
    text, done, since, since_step = "", first, 0.0, first

    def collect(keep: int) -> None:
        while len(pending) > keep:
            number, result = pending.pop(0)
            losses.append(float(result["loss"]))
            names = result.keys() - {"loss", "gradient_norm"}
            others.update({name: float(result[name]) for name in names})
            if not math.isfinite(losses[-1]):
                raise TrainingError(f"the loss of step {number} is {losses[-1]}")

    # A run whose patience ended is complete; resumed, it has nothing left to do.
    last = first if out_of_patience(run) else total
    batches = data.batches(
        run.pool, run.labels, run.rows, settings.batch, settings.seed, first, last, run.split
    )
    try:
        with (
            closing(Interrupt()) as interrupt,
            closing(report.Bar("training")) as bar,
            closing(batches),
        ):
            if run.from_weights and not first:
                validate(run, text)  # what it starts from may be the best that it comes to
            for images, labels in batches:
                run.state, result = run.algorithm.train_step(settings, run.state, images, labels)
                done += 1
                pending.append((done, result))
                collect(keep=1)  # a step behind, so that the device never waits for Python
                if done == first + 1:  # compilation is not its pace
                    jax.block_until_ready(result)
                    since, since_step = time.perf_counter(), done
                if done % log_every == 0:
                    collect(keep=0)
                    line = {"step": done, "loss": sum(losses) / len(losses), **others}
                    text = "  ".join(f"{k} {v:.5f}" for k, v in line.items() if k != "step")
                    if done > since_step:
                        pace = (done - since_step) / (time.perf_counter() - since)
                        line["images_per_second"] = round(settings.batch * pace, 1)
                        text += f"  {line['images_per_second']:.0f} images/s"
                        since, since_step = time.perf_counter(), done
                    losses.clear()
                    report.log(run.out, **line)
                bar.update(done, total, text)
                asked = 0
                if jax.process_count() == 1 or done % log_every == 0:
                    asked = run.agree(interrupt.signal)
                due = run.validates(done)
                if due or asked or done == trunk:
                    collect(keep=0)
                    if not step.is_finite(run.state):
                        raise TrainingError(f"after step {done} the parameters are not finite")
                    if due:
                        validate(run, text)
                    run.save()
                    if out_of_patience(run):
                        print(f"no improvement in {settings.patience} validations: stopping")
                        break
                    since, since_step = time.perf_counter(), done
                if asked and done < total:
                    bar.close()
                    print(
                        f"interrupted and saved at step {done}; go on with\n"
                        f"  python train.py --out {shlex.quote(str(run.out))} --resume"
                    )
                    return 128 + asked
    except TrainingError as error:
        newest = run.out / "newest.safetensors"
        kept = "there is no checkpoint yet"
        if newest.exists():
            kept = f"the state of step {checkpoint.read_steps(newest)[0]} is kept"
        raise TrainingError(
            f"{error}; {kept}. Another run with a lower --lr or --clip may get further"
        ) from None
    return finish(run)


def out_of_patience(run: Run) -> bool:
    """Tell whether validation has not improved for as long as the run shall wait."""
    return 0 < run.config.patience <= run.progress["stale"]


def validate(run: Run, text: str) -> None:
    """Measure, show and log; keep the weights if they are the best so far."""
    done = int(run.state.step)
    try:
        measured = run.validation.measure(step.local(run.state.ema), SAMPLES)
    except FloatingPointError as error:
        raise TrainingError(f"after step {done} {error}") from None
    better = run.keep_best(measured)
    report.sample_grid(run.out, done, run.validation.truth[:SAMPLES], measured.samples)
    report.log(run.out, step=done, **measured.figures())
    calibrated = labels = ""
    if asked := run.config.colorfulness:
        calibrated = f", {measured.psnr_calibrated:.2f} dB at {asked:g} of it"
    if measured.label_accuracy is not None:
        right, chance = measured.label_accuracy, measured.label_chance
        labels = f", {right:.0%} of labels right (chance {chance:.0%})"
    print(
        f"step {done}: validation {measured.psnr:.2f} dB (grey {measured.psnr_grey:.2f}, "
        f"constant ab {measured.psnr_constant:.2f}) at {measured.colorfulness:.2f} of the "
        f"truth's colourfulness{calibrated}{labels}, AuC {measured.auc:.2f} %"
        f"{'; the best so far' if better else ''}  {text}",
        flush=True,
    )


def finish(run: Run) -> int:
    """Say what was written and how to use it; the exit status."""
    weights = run.out / "weights.safetensors"
    print(f"the best weights are those of step {run.progress['best_step']}\nwrote")
    for name in (weights.name, "newest.safetensors", "log.jsonl", "config.json", "strip.png"):
        print(f"  {run.out / name}")
    quoted = shlex.quote(str(weights))
    print(f"colour a photograph with it:\n  python colorize.py in.jpg out.png --weights {quoted}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    given = vars(config.train_parser().parse_args(argv))
    try:
        device.keep_memory()
        device.use_compilation_cache()
        together = [given.pop(name, None) for name in ("coordinator", "processes", "process")]
        if together == [None, None, None]:
            device.use_two_cpu_devices()
            return train(open_run(given))
        from colorjax.extra import distributed  # needed by several processes alone

        distributed.join(*together)
        return train(open_run(distributed.silenced(given), distributed.max_over_processes))
    except (ConfigError, data.DataError, checkpoint.WeightsError, TrainingError) as error:
        print(f"train.py: {error}", file=sys.stderr)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not device.is_out_of_memory(error):
            raise
        print(
            "train.py: there is too little memory: begin another run, by another --out, with a "
            "smaller --batch or --size; what was saved before is intact",
            file=sys.stderr,
        )
    except OSError as error:
        what = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        print(f"train.py: {what}; what was saved before is intact", file=sys.stderr)
    except KeyboardInterrupt:
        print("train.py: interrupted at once, without saving", file=sys.stderr)
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())
