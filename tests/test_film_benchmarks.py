import importlib.util
import json
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import picture, refused
from test_folder import weights  # noqa: F401  (a fixture: a network of strong colours)


def script(name):
    """A script's module, by its path without suffix."""
    path = Path(__file__).parents[1] / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def film(path, count, colour):
    """A still scene in colour or in grey, with grain."""
    random = np.random.default_rng(0)
    scene = picture(3, 48, 64).astype(float)
    scene = scene if colour else np.repeat(scene[..., :1], 3, 2)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(count):
            grain = random.normal(0, 6, (48, 64, 1))
            frame = np.clip(scene + grain, 0, 255).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        out.mux(stream.encode(None))
    return path


def test_flicker_compares_each_frame_alone_with_filtered(weights, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "flicker.json"
    clip = film(tmp_path / "a.mp4", 12, colour=True)
    argv = [clip, "--weights", weights, "--min-blend", "0.1", "1"]
    assert script("experiments/flicker").main([str(word) for word in (*argv, "--json", out)]) == 0
    rows = json.loads(out.read_text())["a.mp4"]
    assert (rows["frames"], rows["size"]) == (12, "64 × 48")
    alone, filtered = rows["each frame alone"], rows["filtered (0.1, 6)"]
    assert rows["one colour"]["still"] == 0 < filtered["still"] < alone["still"] / 2
    assert rows["filtered (1, 6)"] == pytest.approx(alone, rel=1e-3)
    assert "each frame alone" in capsys.readouterr().out


def test_flickers_divergence_by_hand():
    """Two histograms apart: ln 2; the same: 0."""
    divergence = script("experiments/flicker").divergence
    one, other = np.zeros((2, 3, 256))
    one[:, 0], other[:, 9] = 1, 1
    assert divergence(np.stack([one, other]), 1) == pytest.approx(np.log(2))
    assert divergence(np.stack([one, one]), 1) == 0


def test_flicker_refuses_what_it_cannot_measure(weights, tmp_path, capsys):  # noqa: F811
    main = script("experiments/flicker").main
    grey = film(tmp_path / "grey.mp4", 6, colour=False)
    for argv, words in (
        ([grey], ["grey.mp4", "colour"]),
        ([tmp_path / "no.mp4"], ["no.mp4"]),
        ([grey, "--frames", "2"], ["--frames 2"]),
    ):
        refused(capsys, main, [*argv, "--weights", weights], *words)


def test_films_says_speed_shares_and_what_the_encoder_adds(weights, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "films.json"
    argv = [film(tmp_path / "grey.mp4", 20, colour=False), "--weights", weights, "--json", out]
    assert script("benchmarks/films").main([str(word) for word in argv]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["size"], row["frames"]) == ("64 × 48", 20) and row["frames_per_second"] > 0
    assert set(row["shares"]) == {"decode", "network", "colour", "encode"}
    assert 0 < row["lightness_error"] < row["lightness_error_99"] < 15
    refused(capsys, script("benchmarks/films").main, [tmp_path / "no.mp4"], "no.mp4")
