import io
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import picture, refused
from PIL import Image

import colorize
from colorjax import Colorizer, checkpoint, color, model
from colorjax.media import files
from colorjax.model import NetworkConfig

ROOT = Path(colorize.__file__).parent


@pytest.fixture
def grey(tmp_path):
    path = tmp_path / "in.png"
    Image.fromarray(picture(0, 50, 70)[..., 0]).save(path)
    return path


def run(*argv):
    return colorize.main([str(word) for word in argv])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: 1 byte")])
def test_too_little_memory_is_said(grey, tmp_path, monkeypatch, capsys, error):
    def too_large(*_):
        raise error

    monkeypatch.setattr(Colorizer, "_predict", too_large)
    for source, target in ((grey, tmp_path / "out.png"), (grey.parent, tmp_path / "out")):
        refused(capsys, colorize.main, [source, target], "memory", "--working-size")
    assert not list(tmp_path.glob("out*"))


def test_a_png_keeps_size_and_lightness(grey, tmp_path, capsys):
    out = tmp_path / "out.png"
    assert run(grey, out) == 0
    assert f"wrote {out} (70 × 50)" in capsys.readouterr().out
    before, after = np.asarray(Image.open(grey)), np.asarray(Image.open(out))
    assert after.shape == (50, 70, 3)
    error = color.lightness(after / np.float32(255)) - color.grey_lightness(
        before / np.float32(255)
    )
    assert np.abs(error).max() < 0.5


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "tif", "bmp", "PNG"])
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (64, 48)])
def test_formats_and_sizes(tmp_path, suffix, size):
    source, out = tmp_path / "in.jpg", tmp_path / f"out.{suffix}"
    Image.fromarray(picture(0, *size)).save(source)
    assert run(source, out) == 0
    with Image.open(out) as image:
        assert image.size == size[::-1] and image.mode == "RGB"


def test_16_bit_grey_gives_16_bit_colour(tmp_path):
    source, out = tmp_path / "in.png", tmp_path / "out.tif"
    grey = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(grey).save(source)
    assert run(source, out) == 0
    import tifffile

    after = tifffile.imread(out)
    assert after.dtype == np.uint16 and after.shape == (64, 64, 3)
    error = color.lightness(after / np.float32(65535)) - color.grey_lightness(
        grey / np.float32(65535)
    )
    assert np.abs(error).max() < 0.01


def test_overwrite_replaces_and_nothing_else_does(grey, tmp_path, capsys):
    out = tmp_path / "out.png"
    out.write_text("precious")
    refused(capsys, colorize.main, [grey, out], out, "--overwrite")
    assert out.read_text() == "precious"
    assert run(grey, out, "--overwrite") == 0
    assert Image.open(out).size == (70, 50)


def test_weights_of_ones_own(grey, tmp_path):
    network = NetworkConfig("unet", 16)
    path = tmp_path / "mine.safetensors"
    header = {"kind": "unet", "width": 16}
    checkpoint.save_weights(path, model.init(0, network), header, {"size": 32})
    assert run(grey, tmp_path / "out.png", "--weights", path, "--working-size", "48") == 0
    out = np.asarray(Image.open(tmp_path / "out.png"))
    np.testing.assert_array_equal(out, np.asarray(Image.open(grey).convert("RGB")))  # no colour yet


def test_confidence_is_written_beside_the_picture(grey, tmp_path, capsys):
    path, out, map_ = tmp_path / "w.safetensors", tmp_path / "out.png", tmp_path / "map.png"
    header = {"kind": "unet", "width": 16, "head": "bins"}
    checkpoint.save_weights(path, model.init(0, NetworkConfig(**header)), header, {"size": 32})
    argv = [grey, out, "--weights", path, "--confidence", map_]
    assert run(*argv, "--temperature", "0.5", "--saturation", "1.2", "--rarity", "0") == 0
    assert f"wrote {map_}" in capsys.readouterr().out
    with Image.open(map_) as image:
        assert image.mode == "L" and image.size == (70, 50)
        assert np.asarray(image).max() == 0  # it knows nothing yet
    out.unlink()
    refused(capsys, colorize.main, argv, map_, "--overwrite")
    refused(capsys, colorize.main, [*argv[:-1], out], "is the output")
    assert not out.exists()


def spoilt(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_bad_input_gets_a_sentence_and_writes_nothing(grey, tmp_path, capsys):
    out = tmp_path / "out.png"
    jpeg = tmp_path / "whole.jpg"
    Image.fromarray(picture(0, 200, 200)).save(jpeg)
    cut = spoilt(tmp_path, "cut.jpg", jpeg.read_bytes()[:300])
    text = spoilt(tmp_path, "text.jpg", b"This is no picture. " * 100)
    empty = spoilt(tmp_path, "empty.png", b"")
    regressing = tmp_path / "ab.safetensors"
    header = {"kind": "unet", "width": 16}
    checkpoint.save_weights(
        regressing, model.init(0, NetworkConfig(**header)), header, {"size": 32}
    )
    before = set(tmp_path.iterdir())
    for argv, words in (
        ([tmp_path / "nowhere.png", out], ["nowhere.png", "No such file"]),
        ([tmp_path / "nowhere", tmp_path / "out"], ["nowhere: No such file or folder"]),
        ([tmp_path, out], [tmp_path, "folder"]),
        ([grey, tmp_path], [f"{tmp_path} is a folder: name a file in it"]),
        ([grey, jpeg, out], ["3 names", "one input and one output"]),
        ([text, out], ["text.jpg"]),
        ([cut, out], ["cut.jpg", "truncated"]),
        ([empty, out], ["empty.png", "empty"]),
        ([grey, tmp_path / "no/out.png"], ["no", "folder"]),
        ([grey, tmp_path / "out.xyz"], [".xyz", ".png"]),
        ([grey, tmp_path / "out"], ["out"]),
        ([grey, grey], ["input itself"]),
        ([grey, grey, "--overwrite"], ["input itself"]),
        ([grey, out, "--weights", text], ["text.jpg", "weights"]),
        ([grey, out, "--weights", tmp_path / "no.safetensors"], ["not exist"]),
        ([grey, out, "--quality", "101"], ["--quality 101"]),
        ([grey, out, "--working-size", "3"], ["--working-size 3"]),
        ([grey, out, "--working-size", "0"], ["--working-size 0"]),
        ([grey, out, "--max-megapixels", "0.001"], ["0.001", "--max-megapixels"]),
        ([grey, out, "--max-megapixels", "nan"], ["--max-megapixels nan"]),
        ([grey, out, "--temperature", "0"], ["--temperature 0"]),
        ([grey, out, "--temperature", "-1"], ["--temperature -1"]),
        ([grey, out, "--saturation", "-0.1"], ["--saturation -0.1"]),
        ([grey, out, "--temperature", "1", "--weights", regressing], ["no bins"]),
        ([grey, out, "--rarity", "0.5", "--weights", regressing], ["no bins"]),
        ([grey, out, "--rarity", "nan"], ["--rarity nan"]),
        ([grey, out, "--rarity", "5", "--weights", regressing], ["--rarity 5"]),
        ([grey, out, "--confidence", tmp_path / "c.png", "--weights", regressing], ["no bins"]),
        ([grey, out, "--confidence", grey, "--overwrite"], ["is the input"]),
        ([grey, out, "--confidence", tmp_path / "sub/../out.png"], ["is the output"]),
        ([grey, out, "--confidence", tmp_path / "no/c.png"], ["no/c.png"]),
        ([grey, out, "--quality", "best"], ["--quality"]),
        ([grey], ["output"]),
    ):
        refused(capsys, colorize.main, argv, *words)
        assert set(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(grey, tmp_path, capsys):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    refused(capsys, colorize.main, [grey, folder / "out.png"], "locked")


def test_full_disk_leaves_nothing(tmp_path, monkeypatch, capsys):
    source, out = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(picture(0, 300, 300)[..., 0]).save(source)
    write, (soft, hard) = files.write, resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(*rest):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            return write(*rest)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(files, "write", full)
    refused(capsys, colorize.main, [source, out], "out.png could not be written")
    assert sorted(tmp_path.iterdir()) == [source]


def test_a_wildcard_does_not_eat_the_second_picture(grey, tmp_path, capsys):
    """`*.png` names both of two pictures; what was made from the first may be replaced."""
    other = tmp_path / "other.png"
    Image.fromarray(picture(1, 50, 70)[..., 0]).save(other)
    before = other.read_bytes()
    refused(
        capsys, colorize.main, [grey, other, "--overwrite"], "other.png is a picture of its own"
    )
    assert other.read_bytes() == before
    for out in ("out.png", "out.jpg"):
        assert run(grey, tmp_path / out) == 0
        again = run(grey, tmp_path / out, "--overwrite", "--saturation", "1.5", "--quality", "50")
        assert again == run(grey, tmp_path / out, "--overwrite") == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(other, elsewhere)
    assert run(grey, elsewhere / "other.png", "--overwrite") == 0


@pytest.mark.parametrize("encoding", ["cp1251", "ascii"])
def test_a_console_that_cannot_print_a_line_fails_nothing(grey, tmp_path, monkeypatch, encoding):
    console = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", console)
    assert run(grey, tmp_path / "out.png") == 0
    assert b"out.png (70 ? 50)" in console.buffer.getvalue()
    console.close()  # as when its window is closed
    assert run(grey, tmp_path / "out2.png") == 0
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding))
    assert run(grey, tmp_path / "ł×.xyz") == 2


def test_ctrl_c_while_jax_loads_is_one_line(grey, tmp_path):
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "jax.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    done = subprocess.run(
        [sys.executable, ROOT / "colorize.py", grey, tmp_path / "out.png"],
        capture_output=True,
        text=True,
        timeout=50,
        env=os.environ | {"PYTHONPATH": str(slow)},
    )
    assert done.returncode == 130 and not done.stdout
    assert done.stderr == "colorize.py: interrupted, nothing was written\n"


def test_as_a_user_types_it(grey, tmp_path):
    out = tmp_path / "out.jpg"
    command = [sys.executable, "colorize.py", str(grey), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240)
    assert done.returncode == 0 and f"wrote {out}" in done.stdout
    assert done.stderr == ""  # no warnings of libraries
    shown = subprocess.run([*command[:2], "--help"], capture_output=True, text=True, cwd=ROOT)
    assert shown.returncode == 0 and "examples:" in shown.stdout
