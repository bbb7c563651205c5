import dataclasses
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import safetensors.numpy
from conftest import picture, refused
from PIL import Image

import train
from colorjax import Colorizer, checkpoint, config, data, model, report, run, step, validation
from colorjax.run import Run

ROOT = Path(train.__file__).parent
SMALL = "--network unet --width 16 --size 16 --batch 8 --devices 1".split()


def command(photographs, out, *options):
    return ["--data", str(photographs), "--out", str(out), *SMALL, *options]


def weights(out):
    return safetensors.numpy.load_file(out / "weights.safetensors")


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def same(one, other):
    """Two runs' weights are the same, in bits."""
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


# Runs of these tests have one configuration wherever it does not matter: a step is compiled once.
EIGHT = ["--steps", "8", "--validate-every", "2"]


@pytest.fixture(scope="module")
def whole(photographs, tmp_path_factory):
    """An uninterrupted run of eight steps."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert train.main(command(photographs, out, *EIGHT)) == 0
    return out


def test_a_cpu_is_two_devices_where_that_pays(photographs, tmp_path, monkeypatch):
    """For an even batch, of enough pixels."""
    code = "import sys, train; from colorjax import device; device.use_two_cpu_devices();"
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
        argv = command(photographs, tmp_path / str(count), *"--batch 6 --devices 0".split())
        opened = run.open_run(vars(config.train_parser().parse_args(argv)))
        assert opened.split.mesh.size == count


def test_a_run_leaves_everything_it_names(photographs, tmp_path, capsys):
    out = tmp_path / "run"
    assert train.main(command(photographs, out, "--steps", "4", "--validate-every", "2")) == 0
    said = capsys.readouterr().out
    names = ("weights.safetensors", "newest.safetensors", "log.jsonl", "config.json", "strip.png")
    for name in names:
        assert (out / name).exists() and str(out / name) in said
    assert f"--weights {out / 'weights.safetensors'}" in said
    assert "grey" in said and "constant ab" in said
    lines = log(out)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    # The first step compiles: that is not the run's pace.
    assert ["images_per_second" in line for line in lines if "loss" in line] == [0, 1, 1, 1]
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


def test_the_strip_has_ten_columns_at_most(tmp_path):
    truth = np.zeros((1, 4, 4, 3))
    for number in range(40):
        report.sample_grid(tmp_path, number, truth, np.full_like(truth, number / 40))
    strip = np.asarray(Image.open(tmp_path / "strip.png"))
    shown = strip[2, 2::6, 0].astype(int)  # a column is as wide as a picture and its gap
    assert len(shown) == 10 and shown[-2] == round(255 * 39 / 40)
    assert (np.diff(shown[1:-1]) > 20).all()  # from all over the run


def test_weights_carry_their_calibration(whole):
    """The saturation brings the validation photographs to the share asked for."""
    _, decoding, summary = checkpoint.read_header(whole / "weights.safetensors")
    best = min((line for line in log(whole) if "psnr" in line), key=lambda x: x["validation_loss"])
    for name in ("saturation", "psnr", "psnr_calibrated", "colorfulness"):
        assert summary[name] == best[name]
    assert decoding.rarity_power == 0 and decoding.saturation > 0
    assert decoding.bin_weights.shape == (261,) and np.ptp(decoding.bin_weights) > 0.1
    assert decoding.working_size == 24  # half again the size trained on
    assert Colorizer.load(whole / "weights.safetensors").decoding == decoding


def test_the_papers_preset_regresses(photographs, tmp_path, capsys):
    out = tmp_path / "run"
    options = "--preset paper --network paper --steps 2 --validate-every 1 --devices 2".split()
    assert train.main(command(photographs, out, *options)) == 0
    network, decoding, _ = checkpoint.read_header(out / "weights.safetensors")
    assert network.head == "ab" and decoding.saturation == 1  # the paper's, as it answers
    said = capsys.readouterr().out
    assert "paper network" in said and "on 2 cpu device(s)" in said


def interrupt_at(monkeypatch, count, number=signal.SIGINT):
    """A signal arrives while batch `count` is being waited for."""
    original = data.batches

    def interrupted(*args):
        for index, examples in enumerate(original(*args)):
            if index == count:
                os.kill(os.getpid(), number)
            yield examples

    monkeypatch.setattr(data, "batches", interrupted)


@pytest.mark.parametrize(("at", "number"), [(2, signal.SIGINT), (4, signal.SIGTERM)])
def test_interrupted_and_resumed_equals_uninterrupted(
    photographs, whole, tmp_path, monkeypatch, capsys, at, number
):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, at, number)
        assert train.main(command(photographs, out, *EIGHT)) == 128 + number
    said = capsys.readouterr().out
    assert f"saved at step {at + 1}" in said and f"--out {out} --resume" in said
    assert train.main(["--out", str(out), "--resume"]) == 0
    assert f"going on from step {at + 1}" in capsys.readouterr().out
    same(out, whole)
    strip = "strip.png"
    assert (out / strip).read_bytes() == (whole / strip).read_bytes()
    assert [line["step"] for line in log(out) if "psnr" in line] == [2, 4, 6, 8]


def states_equal(one, other):
    """All that decides how training goes on is the same, in bits."""
    one, other = (safetensors.numpy.load_file(out / "newest.safetensors") for out in (one, other))
    assert one.keys() == other.keys() and len(one) > 200
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


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
    assert "the best weights are those of step 4" in capsys.readouterr().out
    same(*(tmp_path / name for name in measured))


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


@pytest.mark.parametrize(
    ("function", "argument", "call", "left"),
    [
        ("data.load_pool", "", 1, []),
        ("step.is_finite", "", 2, ["newest"]),  # after four steps
        ("os.replace", "newest", 2, ["previous"]),  # the state before it has moved aside
    ],
)
def test_killed_and_resumed_equals_uninterrupted(
    photographs, whole, tmp_path, function, argument, call, left
):
    """While it packs, trains, and writes; `python tests/kills.py` does it at any moment."""
    out = tmp_path / "run"
    code = f"""
import os, train
from colorjax import data, step
function, calls = {function}, iter(range({call - 1}))
def last(*rest, **options):
    if {argument!r} in str(rest[1:]) and next(calls, None) is None:
        os._exit(9)
    return function(*rest, **options)
{function} = last
train.main({command(photographs, out, *EIGHT)!r})
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=240).returncode == 9
    states = [name for name in ("newest", "previous") if (out / f"{name}.safetensors").exists()]
    assert states == left
    assert train.main(["--out", str(out), "--resume"]) == 0
    same(out, whole)
    assert [line["step"] for line in log(out) if "psnr" in line] == [2, 4, 6, 8]
    assert not list(out.glob("*.tmp*"))


def test_killed_before_its_first_checkpoint_starts_again(photographs, whole, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    saved = json.loads((whole / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(saved))
    (out / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')  # cut off
    assert train.main(["--out", str(out), "--resume"]) == 0
    same(out, whole)
    assert log(out)[0]["loss"] != 1.0


def test_what_was_killed_before_it_began_stands_in_no_ones_way(photographs, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json.tmp").touch()
    assert train.main(command(photographs, out, "--steps", "1")) == 0
    refused(capsys, train.main, ["--out", out, "--resume", "--steps", "0"], "--steps 0", "above 0")


def test_minutes_fix_the_steps(photographs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    monkeypatch.setattr(run, "seconds_per_call", lambda *_: 0.05)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        # 20 validations of 0.05 s leave 2 s of 3: forty steps.
        assert train.main(command(photographs, out, "--minutes", "0.05")) == 130
    assert "40 steps of 8" in capsys.readouterr().out
    monkeypatch.setattr(run, "seconds_per_call", lambda *_: 1e-9)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        assert train.main(["--out", str(out), "--resume"]) == 130
    assert "40 steps of 8" in capsys.readouterr().out
    monkeypatch.setattr(run, "seconds_per_call", lambda *_: 0.5)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        # Validations would take more than all of it: half of it is for training, at least.
        assert train.main(command(photographs, tmp_path / "b", "--minutes", "0.05")) == 130
    assert "3 steps of 8" in capsys.readouterr().out


@pytest.mark.parametrize("total", [1, 19, 20, 21, 39, 59, 160, 1001])
def test_a_run_validates_twenty_times_at_most_and_at_its_end(total):
    of_all = SimpleNamespace(config=SimpleNamespace(validate_every=0), total=total)
    found = [n for n in range(1, total + 1) if Run.validates(of_all, n)]  # type: ignore - a stand-in
    assert min(total, 10) <= len(found) <= 20 and found[-1] == total


def weights_of_seed(seed):
    return model.init(seed, model.NetworkConfig("unet", 16, "bins"))


def test_fine_tuning_starts_from_the_weights(photographs, whole, tmp_path, capsys):
    """Network and width are the file's; what it starts from is measured first."""
    out = tmp_path / "more"
    init = ["--init", str(whole / "weights.safetensors"), "--steps", "1"]
    argv = ["--data", str(photographs), "--out", str(out), *SMALL[4:], *init]
    assert train.main(argv) == 0
    assert [line["step"] for line in log(out) if "psnr" in line] == [0, 1]
    before, after = weights(whole), weights(out)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], atol=2e-3)  # one step of lr 1e-3
    again = tmp_path / "again"  # killed after it was measured, before its first checkpoint
    again.mkdir()
    for name in ("config.json", "weights.safetensors"):
        shutil.copy(out / name, again)
    assert train.main(["--out", str(again), "--resume"]) == 0
    same(again, out)
    unlike = np.abs(before["stem.kernel"] - weights_of_seed(7)["stem"]["kernel"]).mean()
    assert unlike > 0.1  # which weights begun anew would not be
    other = ["--data", photographs, "--out", tmp_path / "x", "--preset", "paper", *init]
    refused(capsys, train.main, other, "--init", "width 16 with head bins", "paper")
    assert not (tmp_path / "x").exists()


def starting(tmp_path, *options):
    """What a run begins with: whole parameters, an encoder, or neither."""
    given = vars(config.train_parser().parse_args(["--out", str(tmp_path / "run"), *options]))
    params, _, encoder = run._starting_weights(config.resolve(given))
    return params, encoder


def test_what_begins_from_where(tmp_path, capsys):
    shipped = checkpoint.load(checkpoint.DEFAULT_WEIGHTS)[0]
    same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)  # noqa: E731
    params, encoder = starting(tmp_path)
    assert encoder is None
    same(params, shipped)
    same(starting(tmp_path, "--preset", "gan")[0], shipped)
    params, encoder = starting(tmp_path, "--width", "32")
    assert params is None and "new decoder of width 32" in capsys.readouterr().out
    same(encoder, shipped["encoder"])
    path = tmp_path / "encoder.safetensors"
    changed = jax.tree.map(lambda x: x + 1, shipped["encoder"])
    checkpoint.save_weights(path, changed, {}, {})
    params, encoder = starting(tmp_path, "--encoder", str(path))
    assert params is None
    same(encoder, changed)
    for options in (["--init", "none"], ["--preset", "unet"], ["--preset", "paper"]):
        assert starting(tmp_path, *options) == (None, None)


def test_what_is_not_given_follows_from_the_rest():
    assert config.resolve({}).encoder_lr == pytest.approx(2e-4)
    assert config.resolve({"lr": 5e-4}).encoder_lr == pytest.approx(1e-4)
    assert config.resolve({"encoder_lr": 0.0}).encoder_lr == 0
    assert config.resolve({}).matched == 3  # as the default weights were trained
    for nothing in ({"init": "none"}, {"width": 32}, {"preset": "unet"}, {"preset": "gan"}):
        assert config.resolve(nothing).matched == 0


def test_a_pretrained_encoder_learns_or_stays(photographs, tmp_path, capsys):
    """From the weights that ship, as typed; frozen, the encoder is theirs to the bit."""
    out = tmp_path / "run"
    argv = "--size 16 --batch 2 --steps 1 --encoder-lr 0 --devices 1".split()
    assert train.main(["--data", str(photographs), "--out", str(out), *argv]) == 0
    assert "lite network" in capsys.readouterr().out
    before, after = checkpoint.load(checkpoint.DEFAULT_WEIGHTS)[0], weights(out)
    for name, value in checkpoint._flat(before).items():
        if name.startswith("encoder."):
            np.testing.assert_array_equal(after[name], value)
    assert checkpoint.read_header(out / "weights.safetensors")[1].working_size == 32


TWENTY = ["--steps", "20", "--validate-every", "5"]


@pytest.fixture(scope="module")
def trunk(photographs, tmp_path_factory):
    """A wsd run that has come to its end; its rate began to fall after 18 steps."""
    out = tmp_path_factory.mktemp("runs") / "trunk"
    assert train.main(command(photographs, out, *TWENTY)) == 0
    return out


def test_a_finished_trunk_is_prolonged_from_before_its_rate_fell(trunk, photographs, tmp_path):
    longer, whole = tmp_path / "longer", tmp_path / "whole"
    shutil.copytree(trunk, longer)
    assert train.main(["--out", str(longer), "--resume", "--steps", "30"]) == 0
    assert train.main(command(photographs, whole, *TWENTY, "--steps", "30")) == 0
    states_equal(longer, whole)
    assert [line["step"] for line in log(longer) if "loss" in line] == list(range(1, 31))
    assert json.loads((longer / "config.json").read_text())["config"]["steps"] == 30


def test_a_cool_down_branches_off_and_leaves_its_trunk_alone(trunk, photographs, tmp_path):
    before = {path: path.read_bytes() for path in trunk.iterdir() if path.is_file()}
    cooled = tmp_path / "cooled"
    assert train.main(["--cool-down", str(trunk), "--out", str(cooled)]) == 0
    # 18 steps at the constant rate and two more: the trunk's own end, since that was at 20.
    states_equal(cooled, trunk)
    assert [line["step"] for line in log(cooled) if "loss" in line] == [19, 20]
    assert (cooled / "weights.safetensors").exists()
    assert {path: path.read_bytes() for path in before} == before
    interrupted = tmp_path / "trunk"
    shutil.copytree(trunk, interrupted)
    shutil.copy(trunk / "trunk.safetensors", interrupted / "newest.safetensors")
    assert train.main(["--out", str(interrupted), "--resume"]) == 0
    states_equal(interrupted, trunk)


def test_bad_cool_downs_get_a_sentence(trunk, whole, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["--cool-down", tmp_path / "none", "--out", out]
    refused(capsys, train.main, argv, "none", "not a run directory")
    refused(capsys, train.main, ["--cool-down", trunk, "--out", trunk], trunk, "exists already")
    more = ["--cool-down", trunk, "--out", out, "--lr", "0.1"]
    refused(capsys, train.main, more, "--lr 0.1", "differs")
    steps = ["--cool-down", trunk, "--out", out, "--steps", "99"]
    refused(capsys, train.main, steps, "--steps 99", "--cool-down")
    fewer = ["--out", trunk, "--resume", "--steps", "19"]
    refused(capsys, train.main, fewer, "--steps 19", "step 18", "at least 20")
    cosine = tmp_path / "cosine"
    shutil.copytree(whole, cosine)
    saved = json.loads((cosine / "config.json").read_text())
    saved["config"]["schedule"] = "cosine"
    (cosine / "config.json").write_text(json.dumps(saved))
    refused(capsys, train.main, ["--cool-down", cosine, "--out", out], "--schedule", "cosine")
    refused(capsys, train.main, ["--out", cosine, "--resume", "--steps", "99"], "--steps 99")
    gone = tmp_path / "gone"
    shutil.copytree(trunk, gone)
    saved = json.loads((gone / "config.json").read_text())
    saved["config"]["data"] = str(tmp_path / "moved")
    (gone / "config.json").write_text(json.dumps(saved))
    refused(capsys, train.main, ["--cool-down", gone, "--out", out], "moved", "--data")
    assert not out.exists()


def test_validation_folder_of_ones_own(photographs, tmp_path, capsys):
    folder = tmp_path / "val"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(picture(100 + number)).save(folder / f"{number}.png")
    argv = command(photographs, tmp_path / "run", "--val", str(folder), "--steps", "1")
    assert train.main(argv) == 0  # of its own photographs two would validate, too
    assert "40 photographs to train on, 2 to validate" in capsys.readouterr().out


def test_not_a_number_stops_the_run(photographs, tmp_path, monkeypatch, capsys):
    out, train_step = tmp_path / "run", step.train_step

    def faulty(config, state, *examples):
        number = int(state.step) + 1
        state, result = train_step(config, state, *examples)
        return state, result | {"loss": float("nan")} if number == 5 else result

    monkeypatch.setattr(step, "train_step", faulty)
    argv = command(photographs, out, "--steps", "50", "--validate-every", "2")
    refused(capsys, train.main, argv, "loss of step 5 is nan", "state of step 4 is kept", "--lr")
    assert weights(out)
    # While its steps are timed, that is no crash: the run's own then say so.
    argv = command(photographs, tmp_path / "timed", "--minutes", "0.05")
    refused(capsys, train.main, argv, "loss of step 5 is nan", "--lr")


def test_a_diverged_network_stops_the_run(photographs, tmp_path, monkeypatch, capsys):
    predict = validation.Validation.predict
    for lost in (
        lambda *rest: (float("nan"), *predict(*rest)[1:]),
        lambda *rest: (predict(*rest)[0], np.nan * predict(*rest)[1], None),
    ):
        monkeypatch.setattr(validation.Validation, "predict", lost)
        argv = command(photographs, tmp_path / "run", *EIGHT)
        refused(capsys, train.main, argv, "after step 2", "not finite", "--lr")
        assert not (tmp_path / "run/weights.safetensors").exists()
        shutil.rmtree(tmp_path / "run")


def test_a_damaged_state_is_named_and_the_one_before_it_gone_on_from(
    photographs, whole, tmp_path, capsys
):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    newest, previous = (out / f"{name}.safetensors" for name in ("newest", "previous"))
    newest.write_bytes(newest.read_bytes()[:-100])
    assert train.main(["--out", str(out), "--resume"]) == 0
    said = capsys.readouterr().out
    assert str(newest) in said and "going on from" in said and "of step 7" in said
    states_equal(out, whole)
    same(out, whole)
    newest.write_bytes(b"")
    previous.unlink()
    refused(capsys, train.main, ["--out", out, "--resume"], newest, "remove it")


def test_photographs_may_move_and_the_run_goes_on(photographs, tmp_path, monkeypatch, capsys):
    folder, out = tmp_path / "here", tmp_path / "run"
    shutil.copytree(photographs, folder)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        assert train.main(command(folder, out, "--steps", "4")) == 130
    folder.rename(tmp_path / "there")
    refused(capsys, train.main, ["--out", out, "--resume"], folder, "--data")
    argv = ["--out", str(out), "--resume", "--data", str(tmp_path / "there")]
    assert train.main(argv) == 0
    assert "packed before" in capsys.readouterr().out
    saved = json.loads((out / "config.json").read_text())["config"]
    assert saved["data"] == str(tmp_path / "there")
    val = ["--out", out, "--resume", "--val", tmp_path / "there/flowers"]
    refused(capsys, train.main, val, "flowers", "changed")


def test_a_run_is_resumed_from_another_folder(photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(photographs.parent)
    argv = command(photographs.name, tmp_path / "run", "--steps", "1")
    assert train.main(argv) == 0
    monkeypatch.chdir(tmp_path)
    assert train.main(["--out", "run", "--resume"]) == 0


def test_a_full_disk_leaves_the_state_that_was_there(
    photographs, whole, tmp_path, monkeypatch, capsys
):
    out, save = tmp_path / "run", checkpoint.save_state

    def full(path, state, progress):
        if int(state.step) == 4:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
            try:
                save(path, state, progress)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        save(path, state, progress)

    options = command(photographs, out, *EIGHT)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", full)
        refused(capsys, train.main, options, "train.py:", "intact")
    assert checkpoint.read_steps(out / "newest.safetensors")[0] == 2
    assert not list(out.glob("*.tmp*"))
    assert train.main(["--out", str(out), "--resume"]) == 0
    same(out, whole)


def test_bad_arguments(photographs, whole, tmp_path, capsys):
    new = tmp_path / "new"
    empty = tmp_path / "empty"
    empty.mkdir()
    (not_a_run := tmp_path / "not-a-run").mkdir()
    started, plain = command(photographs, new), ["--data", photographs, "--out", new]
    for argv, words in (
        (["--out", new], ["--data is missing"]),
        (["--data", tmp_path / "nowhere", "--out", new], ["nowhere does not exist"]),
        (["--data", empty, "--out", new], ["empty holds no photographs"]),
        ([*started, "--batch", "64"], ["fewer than one batch of 64", "--batch"]),
        (command(photographs, whole), [whole, "--resume"]),
        (command(photographs, whole / "config.json"), ["config.json"]),
        (["--resume", "--out", new], [new, "not a run directory"]),
        (["--resume", "--out", empty], [empty, "not a run directory"]),
        (["--resume", "--out", whole, "--lr", "0.5"], ["--lr 0.5", "0.001"]),
        ([*started, "--init", tmp_path / "no.safetensors"], ["not exist"]),
        ([*started, "--network", "paper"], ["--network paper --head bins", "must be 'ab'"]),
        ([*started, "--frozen-blocks", "3"], ["--frozen-blocks", "--network lite"]),
        ([*plain, "--encoder", "e", "--init", whole / "config.json"], ["config.json"]),
        ([*plain, "--preset", "gan", "--init", "none"], ["--preset gan", "--init"]),
        ([*plain, "--preset", "gan", "--schedule", "wsd"], ["--schedule wsd", "--preset gan"]),
        ([*started, "--preset", "unet", "--class-balance", "0.2"], ["--class-balance", "bins"]),
        ([*started, "--devices", "3"], ["--batch 8", "3 devices"]),
        ([*started, "--steps", "1", "--minutes", "1"], ["not allowed with"]),
    ):
        refused(capsys, train.main, argv, *words)
    for content in (
        "[]",
        '{"config": [1]}',
        '{"config": {}}',
        '{"config": {"data": "x", "lr": ""}}',
    ):
        (not_a_run / "config.json").write_text(content)
        refused(capsys, train.main, ["--resume", "--out", not_a_run], "not a run")
    options = """--lr 0  --lr -1  --lr nan  --lr fast  --batch 0  --steps -1  --steps 0  --minutes 0
        --steps 3000000000  --epochs 0  --size 30  --size 100000  --val-fraction 1  --film 2
        --width 17  --seed -1  --devices 99  --class-balance 1  --huber -1  --matched -1
        --colorfulness 2
        --head lab  --preset best  --dtype int8  --patience -1""".split()
    for option, value in zip(options[::2], options[1::2], strict=True):
        refused(capsys, train.main, [*started, option, value], option, value)
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
from colorjax import device
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
usual = faults()
device.keep_memory()
faults()
print(usual, faults())
"""
    usual, kept = map(int, subprocess.check_output([sys.executable, "-c", code]).split())
    assert kept < 1000 < 10000 < usual  # 64 MiB are 16,384 pages
