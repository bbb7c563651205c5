import functools
import importlib.util
import json
import os
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import picture, refused
from PIL import Image

from colorjax import checkpoint, color, config, model
from colorjax.model import NetworkConfig

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@functools.cache
def benchmark(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The vivid and the adversarial step are those that other tests compile.
SMALL = "--presets unet --width 16 --sizes 16 --dtypes float32 --seconds 0.1 --repeats 3".split()


def test_throughput_measures_steps_and_their_share_of_the_device(tmp_path, capsys):
    out = tmp_path / "throughput.json"
    assert benchmark("throughput").main([*SMALL, "--batches", "8", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    train, infer = report["rows"]
    assert (train["mode"], infer["mode"]) == ("train", "infer")
    assert 2.5 < train["gflop_per_image"] / infer["gflop_per_image"] < 3.5
    for row in (infer, train):
        pace = row["images_per_second"]
        assert pace == pytest.approx(1e3 * row["batch"] / row["milliseconds"], rel=0.01)
        share = 1e9 * pace * row["gflop_per_image"] / report["ceilings"]["float32"]["flops"]
        assert row["share_of_matrix"] == pytest.approx(share, rel=0.01, abs=1e-3)
        assert row["share_of_peak"] is None  # no vendor's figure for a CPU
        assert row["memory_mib"] > 4 * 8 * 16 * 16 / 2**20
    assert "unet, train, 16², float32" in capsys.readouterr().out


def test_throughput_compares_steps_in_turn(tmp_path, capsys):
    out = tmp_path / "throughput.json"
    argv = [*SMALL, "--modes", "--beside", "8", "--objectives", "--json", str(out)]
    assert benchmark("throughput").main(argv) == 0
    report = json.loads(out.read_text())
    (row,) = report["beside"]
    assert not report["rows"] and row["batch"] == 8
    assert {"loop_to_step", "vivid_to_mse"} <= row.keys()
    assert row["gan_to_vivid"]["median"] > 1  # it does all that a vivid step does, and more
    said = capsys.readouterr().out
    assert "train.py's loop" in said and "an adversarial one" in said


def test_throughput_sees_a_loop_that_waits_for_its_photographs(tmp_path):
    throughput = benchmark("throughput")
    options = throughput.parse(SMALL)

    def slow():
        while True:
            time.sleep(0.05)
            yield np.zeros((8, 18, 18, 3), np.uint8), None

    run, _ = throughput.training("unet", 16, "float32", 8, options, examples=slow())
    run(1)
    start = time.perf_counter()
    run(4)
    assert time.perf_counter() - start > 0.2


def swept(throughput, *argv):
    """The rows of one sweep."""
    rows = []
    case = {"preset": "paper", "mode": "infer", "size": 16, "dtype": "float32"}
    options = throughput.parse([*SMALL, *argv])
    throughput.sweep(case, {"flops": 1e12, "bytes": 1e11}, options, rows.append)
    return rows


def test_throughput_doubles_batches_until_memory_ends(capsys, monkeypatch):
    throughput, free = benchmark("throughput"), iter([2**40, 2**40, 0])
    monkeypatch.setattr(throughput, "free_memory", lambda: next(free))
    rows = swept(throughput)
    assert [row["batch"] for row in rows] == [1, 2, 4]
    assert rows[2]["failed"] == "out of memory" and "images_per_second" not in rows[2]
    assert "out of memory" in capsys.readouterr().out


def test_a_sweep_ends_where_the_device_fails(capsys, monkeypatch):
    throughput = benchmark("throughput")

    def fails(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: no convolution works\nmore about it")

    monkeypatch.setattr(throughput, "compiled", fails)
    (row,) = swept(throughput)
    assert row["failed"] == "INTERNAL: no convolution works"
    assert "no convolution works" in capsys.readouterr().out


def test_a_sweep_takes_the_batches_asked_for():
    assert [row["batch"] for row in swept(benchmark("throughput"), "--batches", "2", "1")] == [2, 1]


def test_benchmarks_time_the_presets_as_they_train():
    settings_of = benchmark("throughput").settings_of
    assert settings_of("paper", 64, 64, "float32").optimizer == "adamw"
    for preset in ("unet", "vivid", "gan"):
        settings = settings_of(preset, 32, 64, "bfloat16")
        assert (settings.optimizer, settings.width) == ("muon", 32)
    assert settings.head == "bins"


@pytest.mark.parametrize("name", ["throughput", "peers/compare"])
def test_options_are_checked_before_anything_is_measured(name, tmp_path, capsys):
    if name == "peers/compare":
        pytest.importorskip("torch")
    main = benchmark(name).main
    refused(capsys, main, ["--width", "20"], "--width 20", "16")
    refused(capsys, main, ["--batches", "0"], "--batches 0", "1 or more")
    refused(capsys, main, ["--json", tmp_path / "nowhere/a.json"], "nowhere")


def test_the_gpus_script_is_whole_and_says_what_it_needs():
    path = BENCHMARKS / "gpu.sh"
    subprocess.run(["bash", "-n", path], check=True)
    alone = subprocess.run(["bash", path], capture_output=True, text=True)
    assert alone.returncode != 0 and "usage: " in alone.stderr


@pytest.mark.parametrize(("script", "rows"), [("presets.sh", 7), ("beyond.sh", 8)])
def test_experiments_train_as_their_page_says(script, rows, tmp_path, monkeypatch):
    """At 64 pixels, by a cosine: the U-Net's, whatever the presets have become since."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    python.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYTHON", str(python))
    network = NetworkConfig("unet", 48, "bins")
    monkeypatch.setattr(checkpoint, "read_header", lambda path: (network,))
    more = [tmp_path / "unet.safetensors"] if script == "beyond.sh" else []
    path = BENCHMARKS.parent / "experiments" / script
    subprocess.run(["bash", path, tmp_path, tmp_path, *more, tmp_path / "out"], check=True)
    lines = (tmp_path / "called").read_text().splitlines()
    trained = [line.split()[1:] for line in lines if line.startswith("train.py")]
    assert len(trained) == rows
    for argv in trained:
        settings = config.resolve(vars(config.train_parser().parse_args(argv)))
        name = Path(settings.out).name.split("-")[0]
        kind = "paper" if name in ("paper", "ancestor") else "unet"
        assert (settings.network, settings.size, settings.schedule) == (kind, 64, "cosine")
        assert settings.network == "paper" or settings.width == 48
        rate = {"paper": 3e-4, "more": 2e-4, "gan": 2e-4}.get(name, 1e-3)
        assert settings.lr == pytest.approx(rate)
        assert (settings.init == "none") == (script == "presets.sh")


def test_peers_compute_the_same():
    pytest.importorskip("torch")
    compare = benchmark("peers/compare")
    random = np.random.default_rng(0)
    lightness = random.uniform(0, 100, (2, 32, 32)).astype(np.float32)
    for kind in ("paper", "unet"):
        network = NetworkConfig(kind, 16)
        params = compare.trained(network)
        side = 32 // network.reduction
        target = random.uniform(-60, 60, (2, side, side, 2)).astype(np.float32)
        mine = compare.ours(network, params, "float32", 1, lightness, target)
        peer = compare.networks.Paper() if kind == "paper" else compare.networks.UNet(16)
        compare.networks.load(peer, params)
        other = compare.theirs(peer, "float32", False, lightness, target)
        assert compare.check(mine, other, "float32", kind) < 1e-3
        with pytest.raises(SystemExit, match="something else"):
            wrong = (other["gradient"][0].flip(0), *other["gradient"][1:])  # of the same norm
            compare.check(mine, other | {"gradient": wrong}, "float32", kind)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network that predicts no colour."""
    path = tmp_path_factory.mktemp("weights") / "grey.safetensors"
    header = {"kind": "unet", "width": 16}
    params = model.init(0, NetworkConfig(**header))
    checkpoint.save_weights(path, params, header, {"size": 32})
    return path


def test_gallery_puts_networks_side_by_side(photographs, weights, tmp_path, capsys):
    grey, colour = tmp_path / "grey.png", tmp_path / "colour.png"
    Image.fromarray(picture(1, 40, 80)).convert("L").save(grey)
    Image.fromarray(picture(2, 80, 80)).save(colour)
    out, main = tmp_path / "out.png", benchmark("gallery").main
    argv = [grey, colour, "--weights", weights, weights, "--titles", "a", "b", "--width", "32"]
    assert main([str(word) for word in (*argv, "--out", out)]) == 0
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (24 + 16 + 4 + 32 + 4, 4 * 36 + 4, 3)
    first, *networks = (sheet[24:40, 4 + 36 * n : 36 + 36 * n] for n in range(3))
    for shown in networks:  # these weights add no colour
        np.testing.assert_array_equal(shown, first)
    assert (sheet[24:40, 4 + 36 * 3 :] == 255).all()  # a grey photograph has no truth
    truth = sheet[44:76, 4 + 36 * 3 : 36 + 36 * 3]
    assert np.ptp(truth, axis=-1).max() > 30
    assert main([str(word) for word in (*argv, "--across", "--out", out)]) == 0
    across = np.asarray(Image.open(out))
    assert across.shape == (4 + 4 * 36, 4 + 64 + 4 + 32 + 4, 3)
    assert np.ptp(across[:36], axis=-1).max() == 0 and np.ptp(across[112:], axis=-1).max() > 30
    refused(capsys, main, [grey, "--out", out, "--width", "1"], "--width 1")
    refused(capsys, main, [grey, "--out", out, "--titles", "a", "b"], "--titles", "1 networks")
    refused(capsys, main, [tmp_path / "none.png", "--out", out], "none.png")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A folder of twelve photographs, less than a batch."""
    folder = tmp_path_factory.mktemp("few")
    for number in range(12):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
    return folder


def test_quality_puts_networks_beside_their_baselines(few, weights, tmp_path, capsys):
    out, gallery = tmp_path / "quality.json", tmp_path / "gallery.png"
    argv = ["--data", few, "--weights", weights, "--size", "32", "--shares"]
    argv += ["--json", out, "--gallery", gallery]
    assert benchmark("quality").main([str(word) for word in argv]) == 0
    said, report = capsys.readouterr().out, json.loads(out.read_text())
    grey, constant, oracle, network = report["rows"].values()
    assert "constant ab" in said and report["photographs"] == 12
    assert grey["psnr"] == pytest.approx(network["psnr"]) and network["cf"] < 0.1
    assert max(grey["psnr"], constant["psnr"]) < oracle["psnr"]
    assert constant["ciede2000"] != grey["ciede2000"] and grey["cf"] < constant["cf"]
    assert grey["explained"] < constant["explained"] < 0.01 and oracle["explained"] > 0.5
    assert grey["auc_rare"] < oracle["auc_rare"] and oracle["delta_cf"] < grey["delta_cf"]
    assert np.asarray(Image.open(gallery)).shape == (12 * 34, 3 * 34, 3)


def test_qualitys_means_by_hand():
    """Two flat colourful pictures, whose CF is off by as much to either side; a grey one."""
    colours = [[200, 0, 0], [100, 0, 0], [50, 50, 50]], [[150, 0, 0], [150, 0, 0], [100, 100, 100]]
    truth, prediction = (
        np.broadcast_to(np.array(each, np.uint8)[:, None, None], (3, 16, 16, 3)) for each in colours
    )
    quality, bins = benchmark("quality"), np.ones(model.BINS)
    row = quality.measure(truth, prediction, bins, np.zeros(2))
    errors = (50 / 255) ** 2 * np.array([1 / 3, 1 / 3, 1])
    assert row["psnr"] == pytest.approx(-10 * np.log10(errors[0]), abs=1e-3)
    assert row["psnr_pooled"] == pytest.approx(-10 * np.log10(errors.mean()), abs=1e-3)
    # A flat picture's CF is 0.3 √((R − G)² + ((R + G) / 2 − B)²) = 0.3 √(5/4) R here.
    half = 0.3 * (5 / 4) ** 0.5 * 50
    assert row["cf"] == pytest.approx(2 * 3 * half / 3, rel=1e-3)
    assert row["delta_cf"] == pytest.approx(0, abs=1e-2)
    assert row["delta_cf_each"] == pytest.approx(2 * half / 3, rel=1e-3)
    its_ab = np.asarray(color.rgb_to_lab(truth[2, 0, 0] / 255))[1:]
    grey = quality.measure(truth[2:], prediction[2:], bins, its_ab)
    assert grey["explained"] is None  # there is no variance
    assert grey["psnr"] is None and grey["psnr_pooled"] == pytest.approx(-10 * np.log10(errors[2]))
    true_ab, ab = (
        np.asarray(color.rgb_to_lab(each[:, 0, 0] / 255))[:, 1:] for each in (truth, prediction)
    )
    mean = true_ab.mean(0)
    around = [quality.measure(truth, each, bins, mean)["explained"] for each in (truth, prediction)]
    assert around[0] == 1
    apart, spread = (((true_ab - other) ** 2).sum() for other in (ab, mean))
    assert around[1] == pytest.approx(1 - apart / spread, abs=1e-4)


def test_quality_tells_networks_of_one_name_apart(weights, tmp_path):
    names = benchmark("quality").names
    assert names([]) == [(None, "default weights")]
    paths = ["a/run/w.safetensors", "b/run/w.safetensors", "b/other/w.safetensors"]
    assert [name for _, name in names(paths)] == ["a/run/w", "b/run/w", "b/other/w"]
    assert names(paths[:1])[0][1] == "run/w"


def test_quality_shows_a_vivid_network_uncalibrated_too(few, tmp_path, capsys):
    path, out = tmp_path / "vivid.safetensors", tmp_path / "quality.json"
    header = {"kind": "unet", "width": 16, "head": "bins"}
    params = model.init(0, NetworkConfig(**header))
    params["head"]["bias"] = params["head"]["bias"].at[200].set(4.0)  # one colour before others
    checkpoint.save_weights(path, params, header, {"size": 32, "saturation": 0.5})
    common = ["--data", few, "--weights", path, "--size", "32", "--json", out]

    def measured(*options):
        assert benchmark("quality").main([str(word) for word in (*common, *options)]) == 0
        return json.loads(out.read_text())

    report = measured("--shares", "0.5", "--temperatures", "1", "0.2")
    two = measured("--shares", "--temperatures", "--working-size", "32", "16")
    names = list(two["rows"])[3:]
    assert [name.split(" at ")[1] for name in names] == ["32", "16"]
    calibrated, half, mean, half_mean, mode, half_mode = list(report["rows"].values())[3:]
    assert calibrated["cf"] < mean["cf"] < mode["cf"]
    for scaled in (half, half_mean, half_mode):
        assert scaled["cf"] == pytest.approx(report["cf_truth"] / 2, rel=0.1)
    weights = [0.1] * 100 + [1.0] * 161  # bins of little a were common
    known = {"size": 32, "rarity": 0.5, "rarity_weights": weights}
    checkpoint.save_weights(path, params, header, known)
    rows = measured("--shares", "--temperatures", "1", "--rarities", "0", "0.5", "-1")["rows"]
    used, plain, other = list(rows.values())[3:]  # rarity 0.5 is how it is used
    assert [name.split(" T ")[1] for name in list(rows)[4:]] == ["1", "1, rarity -1"]
    assert plain["cf"] == mean["cf"] and len({used["cf"], plain["cf"], other["cf"]}) == 3
    checkpoint.save_weights(path, params, header, {"size": 32})
    refused(capsys, benchmark("quality").main, [*common, "--rarities", "1"], "rare colours")
    refused(capsys, benchmark("quality").main, [*common, "--rarities", "nan"], "--rarities")
    as_is, sharper = list(measured("--shares", "--temperatures", "1", "0.2")["rows"].values())[3:]
    assert as_is["cf"] == mean["cf"] and sharper["cf"] == mode["cf"]  # T 1 is not measured twice


def test_chroma_is_scaled_to_the_colourfulness_asked_for():
    quality = benchmark("quality")
    random = np.random.default_rng(0)
    images = random.integers(60, 200, (4, 32, 32, 3), np.uint8)
    muted = quality.scaled(images, images, 0.3)
    half = float(quality.colorfulness(images).mean()) / 2
    factor = quality.factor_for(muted, images, half)
    reached = float(quality.colorfulness(quality.scaled(muted, images, factor)).mean())
    assert reached == pytest.approx(half, rel=0.1)  # the factor is found on a 16th of the pixels


def test_quality_refuses_what_it_cannot_measure(photographs, weights, tmp_path, capsys):
    main = benchmark("quality").main
    empty, grey = tmp_path / "empty", tmp_path / "grey"
    empty.mkdir()
    grey.mkdir()
    Image.new("L", (256, 256), 100).save(grey / "a.png")
    refused(capsys, main, ["--data", tmp_path / "nowhere"], "nowhere")
    refused(capsys, main, ["--data", empty], "empty", "no photographs")
    refused(capsys, main, ["--data", grey, "--weights", weights], "grey", "no colour")
    refused(capsys, main, ["--data", photographs, "--size", "30"], "--size 30")
    refused(capsys, main, ["--data", photographs, "--temperatures", "0"], "--temperatures")
    refused(capsys, main, ["--data", photographs, "--json", empty / "a/b.json"], "a/b.json")
    refused(capsys, main, ["--data", photographs, "--json", empty], "empty")
    refused(capsys, main, ["--data", photographs, "--gallery", empty / "no/g.png"], "no existing")
    refused(capsys, main, ["--data", photographs, "--shares", "nan"], "--shares")
    twice = ["--data", photographs, "--weights", weights, weights]
    refused(capsys, main, twice, "twice")
    refused(capsys, main, ["--data", photographs, "--weights", tmp_path / "no"], "not exist")


def test_latency_measures_photographs_and_a_folder(weights, tmp_path, capsys):
    out = tmp_path / "latency.json"
    argv = "--megapixels 0.25 --formats png --repeats 1 --photographs 10".split()
    argv += ["--weights", weights, "--json", out]
    assert benchmark("latency").main([str(word) for word in argv]) == 0
    report = json.loads(out.read_text())
    (row,) = report["rows"]
    assert row["cold_seconds"] > 0.1  # of a process that imports jax
    assert row["warm_spread"] == [row["warm_seconds"]] * 2  # of one run
    assert row["peak_mib"] > row["pixels_mib"] > 0
    folder = report["folder"]
    share = folder["per_second"] / folder["network_per_second"]
    assert folder["share_of_network"] == pytest.approx(share, abs=0.01)
    assert "a folder of 10 photographs" in capsys.readouterr().out
