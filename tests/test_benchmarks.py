import importlib.util
import json
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import picture, refused
from PIL import Image

from colorjax import batches, checkpoint, color, config, model
from colorjax.model import NetworkConfig

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def benchmark(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pipeline_measures_step_and_loop_in_pairs(tmp_path, capsys):
    out = tmp_path / "pipeline.json"
    assert benchmark("pipeline").main(["--quick", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    (row,) = report["rows"]
    assert row["batch"] == 4 and row["pairs"] >= 3
    low, high = row["loop_to_step_spread"]
    assert 0 < low <= row["loop_to_step"] <= high
    assert row["step_images_per_second"] > 0 and row["loop_images_per_second"] > 0
    packing = report["packing"]
    assert 0 < row["first_epoch_images_per_second"] < row["loop_images_per_second"]
    assert packing["pack_per_second_and_core"] > packing["imageio_per_second_and_core"] > 0
    said = capsys.readouterr().out
    assert "loop/step" in said and "the first epoch, packing included" in said


SMALL = [
    "--presets",
    "unet",
    "--width",
    "16",
    "--sizes",
    "32",
    "--dtypes",
    "float32",
    "--seconds",
    "0.1",
    "--repeats",
    "3",
]


def test_pipeline_sees_a_loop_that_waits_for_its_photographs(tmp_path, monkeypatch):
    gather = batches.batches

    def slow(*args):
        for batch in gather(*args):
            time.sleep(0.2)
            yield batch

    monkeypatch.setattr(batches, "batches", slow)
    out = tmp_path / "pipeline.json"
    argv = ["--quick", "--photographs", "0", "--json", str(out)]
    assert benchmark("pipeline").main(argv) == 0
    assert json.loads(out.read_text())["rows"][0]["loop_to_step"] < 0.5


def test_throughput_measures_steps_and_their_share_of_the_device(tmp_path, capsys):
    out = tmp_path / "throughput.json"
    argv = [*SMALL, "--batches", "2", "--objectives-batch", "2", "--json", str(out)]
    assert benchmark("throughput").main(argv) == 0
    report = json.loads(out.read_text())
    train, infer = report["rows"]
    assert (train["mode"], infer["mode"]) == ("train", "infer")
    assert 2.5 < train["gflop_per_image"] / infer["gflop_per_image"] < 3.5
    for row in (infer, train):
        least, most = sorted(row["images_per_second_spread"])
        assert 0 < least <= row["images_per_second"] <= most
        assert 0 < row["share_of_matrix"] < 1 and row["memory_mib"] > 0
        assert row["share_of_peak"] is None  # no vendor's figure for a CPU
    for name in ("vivid_to_mse", "gan_to_vivid"):
        ratio = report["objectives"][name]
        assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
    said = capsys.readouterr().out
    assert "as long as squared error's" in said and "as long as vivid's" in said


def test_throughput_doubles_batches_until_memory_ends(tmp_path, capsys, monkeypatch):
    throughput, out = benchmark("throughput"), tmp_path / "throughput.json"
    free = iter([2**40, 2**40, 0])
    monkeypatch.setattr(throughput, "free_memory", lambda: next(free))
    argv = [*SMALL, "--modes", "infer", "--objectives-batch", "0", "--json", str(out)]
    assert throughput.main(argv) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["batch"] for row in rows] == [1, 2, 4]
    assert rows[2]["failed"] == "out of memory" and "images_per_second" not in rows[2]
    assert "out of memory" in capsys.readouterr().out


def test_smoke_finds_a_step_fine(capsys, monkeypatch):
    smoke = benchmark("smoke")
    monkeypatch.setattr(smoke, "HEADS", ["gan"])
    argv = ["--width", "16", "--size", "16", "--batch", "2"]
    assert smoke.main(argv) == 0
    assert "fine" in capsys.readouterr().out
    monkeypatch.setattr(smoke, "APART", 1e-9)  # bfloat16 is never as near as that
    assert smoke.main(argv) == 1
    assert "WRONG" in capsys.readouterr().out


def test_a_sweep_ends_where_the_device_fails(tmp_path, capsys, monkeypatch):
    throughput, out = benchmark("throughput"), tmp_path / "throughput.json"

    def fails(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: no convolution works\nmore about it")

    monkeypatch.setattr(throughput, "compiled", fails)
    assert throughput.main([*SMALL, "--objectives-batch", "0", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["mode"] for row in rows] == ["train", "infer"]
    assert {row["failed"] for row in rows} == {"INTERNAL: no convolution works"}
    assert "no convolution works" in capsys.readouterr().out


def test_benchmarks_time_the_presets_as_they_train():
    settings_of = benchmark("throughput").settings_of
    assert settings_of("paper", 64, 64, "float32").optimizer == "adamw"
    for preset in ("unet", "vivid", "gan"):
        settings = settings_of(preset, 32, 64, "bfloat16")
        assert (settings.optimizer, settings.network.width) == ("muon", 32)
    assert settings.adversarial == 1 and settings.network.head == "bins"


@pytest.mark.parametrize("name", ["smoke", "throughput", "trace", "pipeline", "peers/compare"])
def test_options_are_checked_before_anything_is_measured(name, tmp_path, capsys):
    if name == "peers/compare":
        pytest.importorskip("torch")
    main = benchmark(name).main
    refused(capsys, main, ["--width", "20"], "--width 20", "16")
    batch = {"throughput": "--batches", "peers/compare": "--batches"}.get(name, "--batch")
    refused(capsys, main, [batch, "0"], f"{batch} 0", "1 or more")
    if name != "smoke":
        refused(capsys, main, ["--json", tmp_path / "nowhere/a.json"], "nowhere")


def test_weights_are_made_by_runs_that_train_py_accepts(tmp_path):
    weights = benchmark("weights")
    options = SimpleNamespace(
        data="photos", out=tmp_path, minutes=60.0, init="", width=32, batch=128, seed=3
    )
    said = [vars(config.train_parser().parse_args(words)) for words in weights.commands(options)]
    runs = [config.resolve(given) for given in said]
    assert [run.size for run in runs] == [64, 96]
    assert [run.batch for run in runs] == [128, 56]
    assert sum(run.minutes for run in runs) == 60
    assert runs[0].init == ""
    for before, after in pairwise(runs):
        assert after.init == str(Path(before.out, "weights.safetensors"))


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_are_whole_and_say_what_they_need(script):
    subprocess.run(["bash", "-n", script], check=True)
    alone = subprocess.run(["bash", script], capture_output=True, text=True)
    assert alone.returncode != 0 and alone.stderr.strip()


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


def test_trace_counts_operations_once():
    trace = benchmark("trace")

    def event(start, length, **stats):
        return SimpleNamespace(start_ns=start, duration_ns=length, stats=stats.items())

    loop = [
        event(0, 100, hlo_op="while"),
        event(10, 30, hlo_op="dot.1"),
        event(50, 20, hlo_op="dot.1"),
    ]
    line = SimpleNamespace(events=[event(0, 500), *loop, event(100, 5, hlo_op="add")])
    found = trace.durations(SimpleNamespace(planes=[SimpleNamespace(lines=[line, line])]))
    assert found == {"while": 0, "dot.1": 100, "add": 10}


def test_trace_reads_compiled_programs():
    def function(x):
        return jnp.tanh(x @ x).sum()

    program = jax.jit(jax.grad(function)).lower(jnp.ones((8, 8))).compile().as_text()
    named = benchmark("trace").instructions(program).values()
    products = [part for part in named if part[1:] == ("dot_general", "f32[8,8]")]
    assert {part[0] for part in products} == {"forward", "backward"}


def test_trace_tells_winograds_products_by_their_shape():
    kind = benchmark("trace").kind
    for shape in ("f32[16,64,128]", "f32[36,256,64]"):
        assert kind("backward", "dot_general", shape) == "Winograd's products"
    assert kind("forward", "dot_general", "f32[16,512]") == "other matrix products"


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


def test_quality_puts_networks_beside_their_baselines(photographs, weights, tmp_path, capsys):
    out, gallery = tmp_path / "quality.json", tmp_path / "gallery.png"
    argv = [
        "--data",
        photographs,
        "--weights",
        weights,
        "--size",
        "32",
        "--shares",
        "--json",
        out,
        "--gallery",
        gallery,
    ]
    assert benchmark("quality").main([str(word) for word in argv]) == 0
    said, report = capsys.readouterr().out, json.loads(out.read_text())
    grey, constant, oracle, network = report["rows"].values()
    assert "constant ab" in said and report["photographs"] == 40
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


def test_quality_shows_a_vivid_network_uncalibrated_too(photographs, tmp_path, capsys):
    path, out = tmp_path / "vivid.safetensors", tmp_path / "quality.json"
    header = {"kind": "unet", "width": 16, "head": "bins"}
    params = model.init(0, NetworkConfig(**header))
    params["head"]["bias"] = params["head"]["bias"].at[200].set(4.0)  # one colour before others
    checkpoint.save_weights(path, params, header, {"size": 32, "saturation": 0.5})
    common = ["--data", photographs, "--weights", path, "--size", "32", "--json", out]

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
    half = float(quality._absolute(images).mean()) / 2
    factor = quality.factor_for(muted, images, half)
    reached = float(quality._absolute(quality.scaled(muted, images, factor)).mean())
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
    argv = [
        "--megapixels",
        "0.25",
        "--formats",
        "png",
        "--repeats",
        "1",
        "--photographs",
        "10",
        "--weights",
        weights,
        "--json",
        out,
    ]
    assert benchmark("latency").main([str(word) for word in argv]) == 0
    report = json.loads(out.read_text())
    (row,) = report["rows"]
    assert row["cold_seconds"] > row["warm_seconds"] > 0.1
    assert row["peak_mib"] > row["pixels_mib"] > 0
    assert 0 < report["folder"]["per_second"] < report["folder"]["network_per_second"]
    assert "a folder of 10 photographs" in capsys.readouterr().out
