import dataclasses
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import safetensors.numpy
from conftest import picture, refused
from PIL import Image

import train
from colorjax import Colorizer, checkpoint, model, run, step, validation
from colorjax.extra import distributed
from colorjax.run import Run

ROOT = Path(train.__file__).parent
SMALL = ["--width", "16", "--size", "16", "--batch", "8", "--devices", "1"]


def command(photographs, out, *options):
    return ["--data", str(photographs), "--out", str(out), *SMALL, *options]


def weights(out):
    return safetensors.numpy.load_file(out / "weights.safetensors")


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(photographs, tmp_path_factory):
    """An uninterrupted run of eight steps."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert train.main(command(photographs, out, "--steps", "8", "--validate-every", "2")) == 0
    return out


def test_a_cpu_is_two_devices_where_that_pays(photographs, tmp_path, monkeypatch, capsys):
    """For an even batch, of enough pixels."""
    code = "import sys, train; from colorjax import config; config.use_two_cores();"
    code += "import jax; print(jax.device_count())"
    for chosen, count in ((None, min(2, os.cpu_count() or 1)), ("3", 3)):
        environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
        environment |= {"JAX_NUM_CPU_DEVICES": chosen} if chosen else {}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout.strip() == str(count), done.stderr
    for more, count in ((1, 1), (0, 2)):  # two of the tests' four
        monkeypatch.setattr(run, "FEWEST_PIXELS", 6 * 16 * 16 + more)
        options = "--steps 1 --batch 6 --devices 0".split()
        assert train.main(command(photographs, tmp_path / str(count), *options)) == 0
        assert f"on {count} cpu device(s)" in capsys.readouterr().out


def test_a_run_leaves_everything_it_names(photographs, whole, capsys, tmp_path):
    out = tmp_path / "run"
    assert train.main(command(photographs, out, "--steps", "4", "--validate-every", "2")) == 0
    said = capsys.readouterr().out
    names = ("weights.safetensors", "log.jsonl", "config.json", "strip.png", "curves.png")
    for name in names:
        assert (out / name).exists() and str(out / name) in said
    assert f"--weights {out / 'weights.safetensors'}" in said
    assert "grey" in said and "constant ab" in said
    lines = log(out)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "psnr" in line] == [2, 4]
    assert all(line["psnr_grey"] < 60 for line in lines if "psnr" in line)
    assert not list(out.glob("*.tmp*"))


def test_samples_show_grey_prediction_and_truth(whole):
    grid = np.asarray(Image.open(whole / "samples/step-0000008.png"))
    strip = np.asarray(Image.open(whole / "strip.png"))
    width = 16 + 2
    assert grid.shape[1] == 3 * width and strip.shape[1] == (4 + 2) * width  # four validations
    inside = slice(1, -1)
    grey = grid[1:17, :width][:, inside].astype(int)
    assert np.ptp(grey, axis=-1).max() <= 1  # rounding
    np.testing.assert_array_equal(strip[:, -width:], grid[:, -width:])
    np.testing.assert_array_equal(strip[:, 4 * width : 5 * width], grid[:, width : 2 * width])


def test_weights_carry_their_calibration(whole):
    """Rarity and saturation bring the validation photographs to the share asked for."""
    *_, summary = checkpoint.read_header(whole / "weights.safetensors")
    best = min((line for line in log(whole) if "psnr" in line), key=lambda x: x["validation_loss"])
    for name in ("rarity", "saturation", "psnr", "psnr_calibrated", "colorfulness"):
        assert summary[name] == best[name]
    assert summary["rarity"] in validation.POWERS and summary["saturation"] > 0
    weights = np.array(summary["rarity_weights"])
    assert weights.shape == (261,) and weights.min() > 0 and np.ptp(weights) > 0.1
    loaded = Colorizer.load(whole / "weights.safetensors")
    assert (loaded.temperature, loaded.saturation) == (1, summary["saturation"])


def test_the_papers_preset_regresses(photographs, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--preset", "paper", "--steps", "2", "--validate-every", "1"]
    assert train.main(command(photographs, out, *options)) == 0
    network, _, summary = checkpoint.read_header(out / "weights.safetensors")
    assert network.head == "ab" and summary["saturation"] == 1  # the paper's, as it answers
    assert "paper network" in capsys.readouterr().out


def interrupt_at(monkeypatch, count, number=signal.SIGINT):
    """A signal arrives while batch `count` is being waited for."""
    from colorjax import batches

    original = batches.batches

    def interrupted(*args):
        for index, examples in enumerate(original(*args)):
            if index == count:
                os.kill(os.getpid(), number)
            yield examples

    monkeypatch.setattr(batches, "batches", interrupted)


@pytest.mark.parametrize(("at", "number"), [(2, signal.SIGINT), (4, signal.SIGTERM)])
def test_interrupted_and_resumed_equals_uninterrupted(
    photographs, whole, tmp_path, monkeypatch, capsys, at, number
):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, at, number)
        argv = command(photographs, out, "--steps", "8", "--validate-every", "2")
        assert train.main(argv) == 128 + number
    said = capsys.readouterr().out
    assert f"saved at step {at + 1}" in said and f"--out {out} --resume" in said
    assert train.main(["--out", str(out), "--resume"]) == 0
    assert f"going on from step {at + 1}" in capsys.readouterr().out
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(weights(out)[name], value)
    strip = "strip.png"
    assert (out / strip).read_bytes() == (whole / strip).read_bytes()
    assert [line["step"] for line in log(out) if "psnr" in line] == [2, 4, 6, 8]


def states_equal(one, other):
    def numbers(out):
        import jax

        from colorjax import checkpoint

        config = step.StepConfig(model.NetworkConfig("unet", 16, "bins"), size=16)
        checkpoints = checkpoint.Checkpoints(out / "checkpoints")
        restored = checkpoints.restore(checkpoints.newest(), step.create_state(config))
        checkpoints.close()
        return jax.device_get(restored[0]), restored[1]

    (state, progress), (state_other, progress_other) = numbers(one), numbers(other)
    assert progress == progress_other
    import jax

    jax.tree.map(np.testing.assert_array_equal, state, state_other)


def test_resuming_remembers_better_and_worse_validations(
    photographs, tmp_path, monkeypatch, capsys
):
    measured = {"uninterrupted": 0, "resumed": 0}
    values = [4.0, 2.5, 3.0, 3.5, 2.75]  # the best is not the newest, nor the last

    measure = validation.Validation.measure

    def scripted(run):
        def fixed(self, *rest):
            measured[run] += 1
            loss = values[measured[run] - 1]
            return dataclasses.replace(measure(self, *rest), validation_loss=loss)

        return fixed

    argv = ["--steps", "10", "--validate-every", "2"]
    monkeypatch.setattr(validation.Validation, "measure", scripted("uninterrupted"))
    assert train.main(command(photographs, tmp_path / "uninterrupted", *argv)) == 0
    monkeypatch.setattr(validation.Validation, "measure", scripted("resumed"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        assert train.main(command(photographs, tmp_path / "resumed", *argv)) == 130
    assert train.main(["--out", str(tmp_path / "resumed"), "--resume"]) == 0
    assert measured == {"uninterrupted": 5, "resumed": 5}
    states_equal(tmp_path / "uninterrupted", tmp_path / "resumed")
    assert "best validation loss: 2.5 at step 4" in capsys.readouterr().out
    one, other = (weights(tmp_path / name) for name in measured)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    kept = {p.name for p in (tmp_path / "resumed/checkpoints").iterdir() if p.name.isdigit()}
    assert kept == {"4", "10"}  # the best and the newest


def test_patience_ends_a_run(photographs, tmp_path, monkeypatch, capsys):
    measure = validation.Validation.measure
    same = lambda *rest: dataclasses.replace(measure(*rest), validation_loss=2.0)  # noqa: E731
    monkeypatch.setattr(validation.Validation, "measure", same)
    out = tmp_path / "run"
    argv = command(photographs, out, "--steps", "20", "--validate-every", "1", "--patience", "3")
    assert train.main(argv) == 0
    assert "no improvement in 3 validations" in capsys.readouterr().out
    assert [line["step"] for line in log(out) if "psnr" in line] == [1, 2, 3, 4]
    assert train.main(["--out", str(out), "--resume"]) == 0  # nothing left to do
    assert len([line for line in log(out) if "psnr" in line]) == 4


def start(argv):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def test_killed_and_resumed_equals_uninterrupted(photographs, whole, tmp_path):
    out = tmp_path / "run"
    options = ["--steps", "8", "--validate-every", "2"]
    process = start(command(photographs, out, *options))
    deadline = time.monotonic() + 240
    while not list(out.glob("checkpoints/[0-9]")) and time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    process.kill()
    process.wait()
    checked = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--out", str(out), "--resume"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert checked.returncode == 0, checked.stderr
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(weights(out)[name], value)
    assert [line["step"] for line in log(out) if "psnr" in line] == [2, 4, 6, 8]


def test_killed_before_its_first_checkpoint_starts_again(photographs, whole, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    saved = json.loads((whole / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(saved))
    (out / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')  # cut off
    assert train.main(["--out", str(out), "--resume"]) == 0
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(weights(out)[name], value)
    assert log(out)[0]["loss"] != 1.0


def test_minutes_fix_the_steps(photographs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    monkeypatch.setattr(distributed, "seconds_per_call", lambda function, seconds: 0.05)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        # 20 validations of 0.05 s leave 2 s of 3: forty steps.
        assert train.main(command(photographs, out, "--minutes", "0.05")) == 130
    assert "40 steps of 8" in capsys.readouterr().out
    monkeypatch.setattr(distributed, "seconds_per_call", lambda function, seconds: 1e-9)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        assert train.main(["--out", str(out), "--resume"]) == 130
    assert "40 steps of 8" in capsys.readouterr().out
    monkeypatch.setattr(distributed, "seconds_per_call", lambda function, seconds: 0.5)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        # Validations would take more than all of it: half of it is for training, at least.
        assert train.main(command(photographs, tmp_path / "b", "--minutes", "0.05")) == 130
    assert "3 steps of 8" in capsys.readouterr().out


@pytest.mark.parametrize("total", [1, 19, 20, 21, 39, 59, 160, 1001])
def test_a_run_validates_twenty_times_at_most_and_at_its_end(total):
    settings = SimpleNamespace(validate_every=0)
    of_all = SimpleNamespace(settings=settings, ordinary=total, total=total)
    found = [n for n in range(1, total + 1) if Run.validates(of_all, n)]  # type: ignore
    assert min(total, 10) <= len(found) <= 20 and found[-1] == total


def weights_of_seed(seed):
    return model.init(seed, model.NetworkConfig("unet", 16, "bins"))


def test_fine_tuning_starts_from_the_weights(photographs, whole, tmp_path, capsys):
    out = tmp_path / "more"
    init = ["--init", str(whole / "weights.safetensors"), "--steps", "1", "--optimizer", "adamw"]
    assert train.main(command(photographs, out, *init)) == 0
    before, after = weights(whole), weights(out)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], atol=2e-3)  # one step of lr 1e-3
    again = tmp_path / "again"  # killed before its first checkpoint
    again.mkdir()
    shutil.copy(out / "config.json", again)
    assert train.main(["--out", str(again), "--resume"]) == 0
    for name, value in after.items():
        np.testing.assert_array_equal(weights(again)[name], value)
    unlike = np.abs(before["stem.kernel"] - weights_of_seed(7)["stem"]["kernel"]).mean()
    assert unlike > 0.1  # which weights begun anew would not be
    other = [*command(photographs, tmp_path / "x", *init), "--preset", "paper"]
    refused(capsys, train.main, other, "--init", "paper")
    assert not (tmp_path / "x").exists()


def test_validation_folder_of_ones_own(photographs, tmp_path, capsys):
    folder = tmp_path / "val"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(picture(100 + number)).save(folder / f"{number}.png")
    argv = command(photographs, tmp_path / "run", "--val", str(folder), "--steps", "1")
    assert train.main(argv) == 0
    assert "40 photographs to train on, 3 to validate" in capsys.readouterr().out


def test_not_a_number_stops_the_run(photographs, tmp_path, monkeypatch, capsys):
    out, train_step = tmp_path / "run", step.train_step

    def faulty(config, state, *examples):
        number = int(state.step) + 1
        state, result = train_step(config, state, *examples)
        return state, result | {"loss": float("nan")} if number == 5 else result

    monkeypatch.setattr(step, "train_step", faulty)
    argv = command(photographs, out, "--steps", "50", "--validate-every", "2")
    refused(capsys, train.main, argv, "loss of step 5 is nan", "checkpoint 4 is kept", "--lr")
    assert (out / "checkpoints/4").exists() and weights(out)


def test_a_diverged_network_stops_the_run(photographs, tmp_path, monkeypatch, capsys):
    predict = validation.Validation.predict
    for lost in (
        lambda *rest: (float("nan"), *predict(*rest)[1:]),
        lambda *rest: (predict(*rest)[0], np.nan * predict(*rest)[1], None),
    ):
        monkeypatch.setattr(validation.Validation, "predict", lost)
        argv = command(photographs, tmp_path / "run", "--steps", "8", "--validate-every", "2")
        refused(capsys, train.main, argv, "after step 2", "not finite", "--lr")
        assert not (tmp_path / "run/weights.safetensors").exists()
        shutil.rmtree(tmp_path / "run")


def test_a_step_that_diverges_while_it_is_timed_is_no_crash(photographs, tmp_path):
    argv = command(photographs, tmp_path / "run", "--minutes", "0.05", "--lr", "1e30")
    assert train.main(argv) == 2  # the steps themselves then say so, in a sentence


def test_killed_while_packing_it_can_be_resumed(photographs, whole, tmp_path):
    out = tmp_path / "run"
    argv = command(photographs, out, "--steps", "8", "--validate-every", "2")
    killed = (
        "import os, train\n"
        "from colorjax import data\n"
        "data.pack = lambda *rest, **options: os._exit(9)\n"
        f"train.main({argv!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", killed], cwd=ROOT, timeout=240).returncode == 9
    assert train.main(["--out", str(out), "--resume"]) == 0
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(weights(out)[name], value)


def test_a_damaged_checkpoint_is_named(photographs, tmp_path, capsys):
    out = tmp_path / "run"
    assert train.main(command(photographs, out, "--steps", "1")) == 0
    for path in (out / "checkpoints/1/state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    refused(capsys, train.main, ["--out", out, "--resume"], out / "checkpoints/1", "damaged")


def test_a_run_is_resumed_from_another_folder(photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(photographs.parent)
    argv = command(photographs.name, tmp_path / "run", "--steps", "1")
    assert train.main(argv) == 0
    monkeypatch.chdir(tmp_path)
    assert train.main(["--out", "run", "--resume"]) == 0


def test_a_failing_disk_leaves_earlier_checkpoints_intact(photographs, whole, tmp_path):
    out = tmp_path / "run"
    options = command(photographs, out, "--steps", "4", "--validate-every", "2")
    limited = f"""
import resource, sys
import train, jax
from colorjax import checkpoint
save = checkpoint.Checkpoints.save
def save_with_full_disk(self, step, *rest):
    if step == 4:
        self.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    save(self, step, *rest)
checkpoint.Checkpoints.save = save_with_full_disk
sys.exit(train.main({options!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", limited], capture_output=True, text=True, cwd=ROOT, timeout=240
    )
    assert done.returncode == 2, done.stderr
    # Threads of libraries print tracebacks meanwhile, at times before ours on the same line.
    said = re.findall(r"train\.py: .*", done.stderr)
    assert len(said) == 1 and "intact" in said[0], done.stderr
    assert [p.name for p in (out / "checkpoints").glob("[0-9]*") if p.name.isdigit()] == ["2"]
    assert train.main(["--out", str(out), "--resume"]) == 0


def test_a_full_disk_is_foreseen(photographs, tmp_path, monkeypatch, capsys):
    out, usage = tmp_path / "run", shutil.disk_usage

    def fuller(path):
        full = (out / "checkpoints/2").exists()
        return shutil._ntuple_diskusage(100, 99, 1) if full else usage(path)

    monkeypatch.setattr(shutil, "disk_usage", fuller)
    options = command(photographs, out, "--steps", "4", "--validate-every", "2")
    refused(capsys, train.main, options, "checkpoints", "MB free", "intact")
    assert [p.name for p in (out / "checkpoints").iterdir() if p.name.isdigit()] == ["2"]


def test_bad_arguments(photographs, whole, tmp_path, capsys):
    new = tmp_path / "new"
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(capsys, train.main, ["--out", new], "--data is missing")
    refused(
        capsys, train.main, ["--data", tmp_path / "nowhere", "--out", new], "nowhere does not exist"
    )
    refused(capsys, train.main, ["--data", empty, "--out", new], "empty holds no photographs")
    few = [*command(photographs, new), "--batch", "64"]
    refused(capsys, train.main, few, "fewer than one batch of 64", "--batch")
    refused(capsys, train.main, command(photographs, whole), whole, "--resume")
    refused(capsys, train.main, command(photographs, whole / "config.json"), "config.json")
    refused(capsys, train.main, ["--resume", "--out", new], new, "not a run directory")
    refused(capsys, train.main, ["--resume", "--out", empty], empty, "not a run directory")
    for content in (
        "[]",
        '{"config": [1]}',
        '{"config": {}}',
        '{"config": {"data": "x", "lr": ""}}',
    ):
        (empty / "config.json").write_text(content)
        refused(capsys, train.main, ["--resume", "--out", empty], "not a run")
    refused(capsys, train.main, ["--resume", "--out", whole, "--lr", "0.5"], "--lr 0.5", "0.002")
    refused(
        capsys,
        train.main,
        command(photographs, new, "--init", tmp_path / "no.safetensors"),
        "not exist",
    )
    for option, value in (
        ("--lr", "0"),
        ("--lr", "-1"),
        ("--lr", "nan"),
        ("--batch", "0"),
        ("--steps", "-1"),
        ("--size", "30"),
        ("--size", "100000"),
        ("--val-fraction", "1"),
        ("--film", "2"),
        ("--width", "17"),
        ("--epochs", "0"),
        ("--seed", "-1"),
        ("--devices", "99"),
        ("--steps", "0"),
        ("--minutes", "0"),
        ("--steps", "3000000000"),
        ("--rarity", "1"),
        ("--huber", "-1"),
        ("--colorfulness", "2"),
        ("--head", "lab"),
        ("--preset", "best"),
        ("--dtype", "int8"),
        ("--lr", "fast"),
        ("--patience", "-1"),
    ):
        refused(capsys, train.main, [*command(photographs, new), option, value], option, value)
    bins = [*command(photographs, new), "--network", "paper"]
    refused(capsys, train.main, bins, "--head", "bins", "paper")
    regressing = command(photographs, new, "--preset", "unet", "--rarity", "0.2")
    refused(capsys, train.main, regressing, "--rarity", "bins")
    refused(
        capsys, train.main, [*command(photographs, new), "--devices", "3"], "--batch 8", "3 devices"
    )
    refused(
        capsys,
        train.main,
        command(photographs, new, "--steps", "1", "--minutes", "1"),
        "not allowed with",
    )
    assert not new.exists()


def test_a_folder_of_ones_own_stays_when_a_run_cannot_begin(photographs, tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    refused(capsys, train.main, command(photographs, mine, "--batch", "64"), "one batch of 64")
    assert mine.exists() and not list(mine.iterdir())


def test_too_little_memory_is_said(photographs, tmp_path, monkeypatch, capsys):
    for error in (MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 1 byte")):

        def too_large(*_, error=error):
            raise error

        monkeypatch.setattr(step, "train_step", too_large)
        out = tmp_path / type(error).__name__
        refused(capsys, train.main, command(photographs, out), "memory", "--batch", "--out")


def test_changed_photographs_are_refused_on_resume(photographs, whole, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    saved = json.loads((whole / "config.json").read_text())
    saved["pools"]["data"] = "another"
    (out / "config.json").write_text(json.dumps(saved))
    refused(capsys, train.main, ["--out", out, "--resume"], photographs, "changed")


def test_unwritable_place_is_said(photographs, tmp_path, capsys):
    (tmp_path / "file").touch()
    refused(capsys, train.main, command(photographs, tmp_path / "file" / "run"), "file")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is asked")
def test_memory_that_is_freed_is_kept_for_the_next_step():
    code = """
import resource
from colorjax import config
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    before = faults(); b"x" * 2**26; return faults() - before
config.keep_memory() if {} else None
step()
print(step())
"""
    kept, usual = (
        int(subprocess.check_output([sys.executable, "-c", code.format(keep)]))
        for keep in (True, False)
    )
    assert kept < 1000 < 10000 < usual  # 64 MiB are 16,384 pages
