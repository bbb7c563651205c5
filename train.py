"""Train a network to colour photographs: a folder of them in, a run directory out."""

import dataclasses
import math
import sys
import time

import jax

from colorjax import batches, checkpoint, config, data, report, step, validation
from colorjax.config import ConfigError
from colorjax.extra import distributed
from colorjax.run import Run

SAMPLES = 8  # photographs shown in grids and strip


class TrainingError(RuntimeError):
    """Why training stopped, as one sentence."""


def train(run: Run) -> int:
    """The loop: steps, validations, checkpoints; the exit status."""
    settings, state = run.settings, run.state
    first, total = int(state.step), int(state.total_steps)
    log_every = max(1, min(100, total // 200))
    size = sum(parameter.size for parameter in jax.tree.leaves(state.params))
    print(
        f"{settings.network} network, {size:,} parameters, {settings.dtype} on "
        f"{run.split.mesh.size} {jax.default_backend()} device(s); {len(run.rows)} "
        f"photographs to train on, {run.validation.count} to validate; {total} steps of "
        f"{settings.batch}"
        + (f", the last {total - run.ordinary} beside a critic" if total > run.ordinary else "")
        + (f", going on from step {first}" if first else "")
    )

    interrupt, bar, text, done = distributed.Interrupt(), report.Bar("training"), "", first
    waiting: list[tuple[int, dict[str, jax.Array]]] = []  # results still on the device
    losses: list[float] = []
    critic: dict[str, float] = {}
    since, steps_since = time.perf_counter(), first

    def collect(keep: int) -> None:
        while len(waiting) > keep:
            number, result = waiting.pop(0)
            losses.append(float(result["loss"]))
            critic.update({"critic": float(result["critic"])} if "critic" in result else {})
            if not math.isfinite(losses[-1]):
                raise TrainingError(f"the loss of step {number} is {losses[-1]}")

    # A run whose patience ended is complete; resumed, it has nothing left to do.
    last = first if out_of_patience(run) else total
    examples = batches.batches(
        run.pool, run.labels, run.rows, settings.batch, settings.seed, first, last, run.split
    )
    try:
        if not first and run.is_adversarial(0):
            validate(run, 0, "")  # what it starts from may be the best that it comes to
        for images, labels in examples:
            run.state, result = run.train_step(done)(run.config, run.state, images, labels)
            done += 1
            waiting.append((done, result))
            collect(keep=1)  # a step behind, so that the device never waits for Python
            if done % log_every == 0:
                collect(keep=0)
                pace = (done - steps_since) / (time.perf_counter() - since)
                since, steps_since = time.perf_counter(), done
                loss, pace = sum(losses) / len(losses), round(settings.batch * pace, 1)
                losses.clear()
                text = f"loss {loss:.5f}  {pace:.0f} images/s"
                text += f"  critic {critic['critic']:.2f}" if critic else ""
                report.log(run.out, step=done, loss=loss, images_per_second=pace, **critic)
            bar.update(done, total, text)
            # Once a step, since it may come at any moment.
            asked = interrupt.asked(together=done % log_every == 0)
            due = run.validates(done)
            if due or asked:
                collect(keep=0)
                if not step.is_finite({"params": run.state.params, "critic": run.state.critic}):
                    raise TrainingError(f"after step {done} the parameters are not finite")
                value = None
                if due:
                    value = -validate(run, done, text)  # the lower the loss, the better
                run.checkpoints.save(done, run.state, run.progress, value)
                if out_of_patience(run):
                    print(f"no improvement in {settings.patience} validations: stopping")
                    break
                since, steps_since = time.perf_counter(), done
            if asked and done < total:
                run.checkpoints.wait()
                bar.close()
                print(
                    f"interrupted and saved at step {done}; go on with\n"
                    f"  python train.py --out {run.out} --resume"
                )
                return 128 + asked
        run.checkpoints.wait()
    except TrainingError as error:
        newest = run.checkpoints.newest()
        kept = f"checkpoint {newest} is kept" if newest else "there is no checkpoint yet"
        # What failed is the step before: the first with a critic has one behind it without.
        lower = "--critic-lr" if run.is_adversarial(max(done - 1, 0)) else "--lr or --clip"
        raise TrainingError(
            f"{error}; {kept}. Another run with a lower {lower} may get further"
        ) from None
    finally:
        examples.close()
        bar.close()
        interrupt.restore()
        run.checkpoints.close()
    return finish(run)


def out_of_patience(run: Run) -> bool:
    """Whether validation has not improved for as long as the run shall wait.

    In a run that has an adversarial phase, this is asked only there.
    """
    asked = run.progress["critic"] or not run.settings.adversarial
    return asked and 0 < run.settings.patience <= run.progress["stale"]


def validate(run: Run, done: int, text: str) -> float:
    """Measure, show and log; keep the weights if they are the best so far. How bad they are."""
    progress, share = run.progress, run.settings.colorfulness
    ema = distributed.own(run.state.ema)
    try:
        measured = run.validation.measure(ema, SAMPLES)
    except FloatingPointError as error:
        raise TrainingError(f"after step {done} {error}") from None
    critic = run.is_adversarial(done)
    if critic and not progress["critic"]:  # another measure begins, with what it starts from
        progress.update(critic=True, best=math.inf, stale=0)
    badness, figures = distributed.firsts(measured.badness(critic)), measured.figures()
    better = badness < progress["best"]
    progress["stale"] = 0 if better else progress["stale"] + 1
    if better:
        progress.update(best=badness, best_step=done)
    if better and distributed.is_first():
        summary = {
            "preset": run.settings.preset,
            "size": run.settings.size,
            "batch": run.settings.batch,
            "step": done,
            "seed": run.settings.seed,
            "photographs": len(run.rows),
            "fine_tuned": bool(run.settings.init),
            **figures,
            "validation_photographs": run.validation.count,
            "rarity_weights": [float(f"{w:.4g}") for w in distributed.own(run.state.rarity)],
        }
        checkpoint.save_weights(
            run.out / "weights.safetensors", ema, dataclasses.asdict(run.config.network), summary
        )
    truth = run.validation.truth[:SAMPLES]
    if distributed.is_first():
        report.sample_grid(run.out, done, truth, measured.samples)
    report.log(run.out, step=done, **figures)
    more = f", {measured.psnr_calibrated:.2f} dB at {share:g} of it" if share else ""
    if critic:
        more += f", AuC {measured.auc:.2f} %"
    if measured.label_accuracy is not None:
        more += (
            f", {measured.label_accuracy:.0%} of labels right (chance {measured.label_chance:.0%})"
        )
    print(
        f"step {done}: validation {measured.psnr:.2f} dB (grey {measured.psnr_grey:.2f}, "
        f"constant ab {measured.psnr_constant:.2f}) at {measured.colorfulness:.2f} of the "
        f"truth's colourfulness{more}{'; the best so far' if better else ''}  {text}",
        flush=True,
    )
    return badness


def finish(run: Run) -> int:
    """Say what was written and how to use it."""
    if not distributed.is_first():
        return 0
    names = [
        "weights.safetensors",
        "log.jsonl",
        "config.json",
        "strip.png",
        "samples",
        "checkpoints",
        *(["curves.png"] if report.curves(run.out) else []),
    ]
    what = f"{validation.FULL_COLOR:g}·|1 − colourfulness| − AuC"
    what = what if run.progress["critic"] else "loss"
    print(
        f"best validation {what}: {run.progress['best']:.5g} at step "
        f"{run.progress['best_step']}\nwrote"
    )
    for name in filter(lambda name: (run.out / name).exists(), names):
        print(f"  {run.out / name}")
    print(
        "colour a photograph with it:\n"
        f"  python colorize.py in.jpg out.png --weights {run.out / names[0]}"
    )
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    given = vars(config.train_parser().parse_args(argv))
    try:
        together = [given.pop(name, None) for name in ("coordinator", "processes", "process")]
        if any(value is not None for value in together):
            distributed.join(*together)
        else:
            config.use_two_cores()
        config.keep_memory()
        config.use_compilation_cache()
        return train(Run(*config.open_run(given, given.pop("resume", False))))
    except (ConfigError, data.DataError, checkpoint.WeightsError, TrainingError) as error:
        print(f"train.py: {error}", file=sys.stderr)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
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
