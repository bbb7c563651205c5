import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import picture, refused
from PIL import Image

import colorize
from colorjax import Colorizer, checkpoint, color, model, report
from colorjax.media import files, folder
from colorjax.model import NetworkConfig

ROOT = Path(colorize.__file__).parent
NAMES = ["a.png", "b.jpg", "album/c.tif", "album/deep er/d.gif", "album/e.pgm", "f.PNG"]
OUT = ["a.png", "b.jpg", "album/c.tif", "album/deep er/d.gif.png", "album/e.pgm.png", "f.PNG"]


@pytest.fixture
def scans(tmp_path):
    place = tmp_path / "scans"
    for number, name in enumerate(NAMES):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (45, 60) if number % 2 else (60, 45)
        Image.fromarray(picture(number, *size)[..., 0]).save(path)
    (place / "notes.txt").write_text("not a picture")
    return place


def many(place, count, height):
    """A folder of so many grey photographs, of the shape of the scans: it is compiled but once."""
    place.mkdir()
    for number in range(count):
        pixels = picture(number, height, height * 4 // 3)[..., 0]
        Image.fromarray(pixels).save(place / f"{number:02}.png")
    return place


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network of strong colours."""
    path = tmp_path_factory.mktemp("weights") / "loud.safetensors"
    header = {"kind": "unet", "width": 16}
    params = model.init(0, NetworkConfig(**header))
    random = np.random.default_rng(0)
    loud = random.standard_normal(params["head"]["kernel"].shape, np.float32)
    params["head"]["kernel"] = 0.1 * loud
    checkpoint.save_weights(path, params, header, {"size": 32})
    return path


def run(*argv):
    return colorize.main([str(word) for word in argv])


def lightness(pixels):
    values = pixels / np.float32(255)
    return color.lightness(values) if values.ndim == 3 else color.grey_lightness(values)


def tree(place):
    return sorted(str(p.relative_to(place)) for p in place.rglob("*") if p.is_file())


def test_the_tree_and_names_are_kept(scans, weights, tmp_path, capsys):
    """And each photograph comes out as it does alone."""
    out, alone = tmp_path / "coloured", tmp_path / "alone.png"
    assert run(scans, out, "--weights", weights) == 0
    assert tree(out) == sorted(OUT)
    assert f"coloured 6 of 6 photographs into {out}" in capsys.readouterr().out
    for name, coloured in zip(NAMES, OUT, strict=True):
        before, after = files.read(scans / name), files.read(out / coloured)
        assert after.pixels.shape == (*before.pixels.shape[:2], 3)
        lossless = not name.endswith("jpg")
        error = lightness(after.pixels) - lightness(before.pixels)
        assert np.abs(error).max() < (0.5 if lossless else 8)
        if lossless:
            assert run(scans / name, alone, "--weights", weights, "--overwrite") == 0
            one = files.read(alone).pixels.astype(int)
            assert np.abs(one - after.pixels).max() <= 1  # sums in another order, then rounding
            assert np.ptp(one, axis=-1).max() > 20


def test_what_is_done_is_skipped_unless_asked(scans, weights, tmp_path, capsys):
    out = tmp_path / "coloured"
    assert run(scans, out, "--weights", weights) == 0
    (out / "a.png").write_bytes(b"mine")
    (out / "album/c.tif").unlink()
    capsys.readouterr()
    assert run(scans, out, "--weights", weights) == 0
    said = capsys.readouterr().out
    assert "5 of 6 photographs are done already" in said and "coloured 1 of 1" in said
    assert (out / "a.png").read_bytes() == b"mine" and (out / "album/c.tif").exists()
    assert run(scans, out, "--weights", weights, "--overwrite") == 0
    assert files.read(out / "a.png").pixels.ndim == 3
    assert run(scans, out, "--weights", weights) == 0
    assert "6 of 6 photographs are done already" in capsys.readouterr().out


def test_bad_files_are_named_and_the_rest_goes_on(scans, weights, tmp_path, capsys):
    (scans / "broken.jpg").write_bytes((scans / "b.jpg").read_bytes()[:300])
    (scans / "empty.png").touch()
    (scans / "album/text.png").write_text("no picture")
    out = tmp_path / "coloured"
    assert run(scans, out, "--weights", weights) == 1
    said = capsys.readouterr()
    assert "coloured 6 of 9" in said.out and tree(out) == sorted(OUT)
    failures = said.err.strip().splitlines()
    assert len(failures) == 3
    for name in ("broken.jpg", "empty.png", "text.png"):
        assert any(line.startswith("failed: ") and name in line for line in failures)


def test_notes_are_counted(scans, weights, tmp_path, capsys):
    for number in range(3):
        Image.fromarray(picture(number, 20, 30)).convert("CMYK").save(scans / f"k{number}.jpg")
    assert run(scans, tmp_path / "out", "--weights", weights) == 0
    notes = [x for x in capsys.readouterr().out.splitlines() if x.startswith("note: ")]
    assert len(notes) == 1 and "(3 photographs)" in notes[0]


def test_films_and_other_kinds_of_picture_are_counted(scans, weights, tmp_path, capsys):
    (scans / "album/holiday.mp4").touch()
    for name in ("x.psd", "album/y.PSD", "z.nef"):
        (scans / name).write_bytes(b"of no matter")
    shutil.copy(scans / "b.jpg", scans / "phone.jfif")
    assert run(scans, tmp_path / "out", "--weights", weights) == 0
    said = capsys.readouterr().out
    for what in ("2 Photoshop (.psd)", "1 raw (.nef)", "1 films, to be coloured one by one"):
        assert f"note: left out: {what}" in said
    assert "coloured 7 of 7" in said and tree(tmp_path / "out") == sorted([*OUT, "phone.jfif"])
    others = tmp_path / "others"
    others.mkdir()
    (others / "x.psd").write_bytes(b"of no matter")
    refused(capsys, colorize.main, [others, tmp_path / "o"], "no photographs", "1 Photoshop (.psd)")


def test_what_cannot_be_opened_is_named(scans, weights, tmp_path, monkeypatch, capsys):
    """A subfolder, a link that leads nowhere; the rest is coloured."""
    (scans / "gone.png").symlink_to(tmp_path / "nowhere.png")
    scandir = os.scandir

    def locked(place):
        if str(place).endswith("album"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", locked)
    assert run(scans, tmp_path / "out", "--weights", weights) == 1
    monkeypatch.undo()
    said = capsys.readouterr()
    assert "coloured 3 of 3" in said.out and tree(tmp_path / "out") == ["a.png", "b.jpg", "f.PNG"]
    assert f"failed: {scans / 'album'}: Permission denied" in said.err
    assert f"failed: {scans / 'gone.png'}: No such file" in said.err


def test_a_photograph_cut_short_is_coloured_and_named(scans, weights, tmp_path, capsys):
    Image.fromarray(picture(9, 180, 240)).save(scans / "cut.jpg")
    (scans / "cut.jpg").write_bytes((scans / "cut.jpg").read_bytes()[:3000])
    assert run(scans, tmp_path / "out", "--weights", weights) == 1
    said = capsys.readouterr()
    assert "coloured 7 of 7" in said.out
    assert f"incomplete: {scans / 'cut.jpg'} was coloured as far as it goes" in said.err
    assert run(scans / "cut.jpg", tmp_path / "alone.png", "--weights", weights) == 1
    assert "cut.jpg is incomplete" in capsys.readouterr().err


def test_two_runs_share_the_work(tmp_path, weights):
    """Each photograph is written once, and no run fails because the other was first."""
    out = tmp_path / "out"
    todo = folder.pairs(many(tmp_path / "many", 40, 50), out)
    colorizer = Colorizer.load(weights)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(folder.colorize_folder, colorizer, todo) for _ in range(2)]
        one, other = (run.result(timeout=120) for run in runs)
    assert len(tree(out)) == one.coloured + other.coloured == 40
    assert one.elsewhere + other.elsewhere == 40 and not one.failures + other.failures


def test_frames_for_a_film_are_refused_before_any_work(scans, weights, tmp_path, capsys):
    for name, what in (("film.mp4", "a film"), ("film.png", "a file"), ("f.avi", "a film")):
        refused(capsys, colorize.main, [scans, tmp_path / name], name, what, "name a folder")
        assert not (tmp_path / name).exists()
    (tmp_path / "film.mkv").mkdir()  # unless it is a folder
    assert run(scans / "album/deep er", tmp_path / "film.mkv", "--weights", weights) == 0


def test_an_output_inside_the_input_is_not_coloured_again(scans, weights):
    assert run(scans, scans / "coloured", "--weights", weights) == 0
    assert run(scans, scans / "coloured", "--weights", weights, "--overwrite") == 0
    assert tree(scans / "coloured") == sorted(OUT)


def test_an_output_that_holds_the_input_is_refused(scans, tmp_path, capsys):
    """It held an original of the same name, which was overwritten."""
    inner = scans / "album"
    shutil.copy(scans / "b.jpg", inner)
    before = {path: path.read_bytes() for path in scans.rglob("*") if path.is_file()}
    for argv in ([inner, scans], [inner, scans, "--overwrite"], [scans, tmp_path]):
        refused(capsys, colorize.main, argv, f"{argv[1]} holds {argv[0]}", "another folder")
    link = tmp_path / "link"
    link.symlink_to(scans)
    refused(capsys, colorize.main, [inner, link, "--overwrite"], "holds")
    link.unlink()
    assert tree(tmp_path) == sorted(str(path.relative_to(tmp_path)) for path in before)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_two_photographs_that_would_become_one_file(scans, weights, tmp_path, capsys):
    shutil.copy(scans / "a.png", scans / "album/deep er/d.gif.png")
    refused(capsys, colorize.main, [scans, tmp_path / "out", "--weights", weights], "d.gif")
    assert not (tmp_path / "out").exists()


def test_fifty_sizes_reach_the_network_in_nine_shapes_at_most(tmp_path, weights, monkeypatch):
    """Each is compiled but once, since batches are always whole."""
    random, place, shapes = np.random.default_rng(0), tmp_path / "many", []
    place.mkdir()
    for number, (height, width) in enumerate(random.integers(8, 120, (50, 2))):
        grey = number % 2
        pixels = picture(number, height, width)
        Image.fromarray(pixels[..., 0] if grey else pixels).save(place / f"{number}.png")

    def predict(self, lightness):
        shapes.append(lightness.shape)
        return np.zeros((*lightness.shape, 2), np.float32)

    monkeypatch.setattr(Colorizer, "predict", predict)
    assert run(place, tmp_path / "out", "--weights", weights) == 0
    assert len(tree(tmp_path / "out")) == 50
    assert len(set(shapes)) <= 9 and {shape[0] for shape in shapes} == {folder.BATCH}


def test_what_is_held_is_bounded(tmp_path, weights, monkeypatch):
    """Reading waits while more pixels than allowed are read and not yet written."""
    place = many(tmp_path / "many", 24, 48)
    monkeypatch.setattr(folder, "_HELD", 4 * 48 * 64)
    lock, now, most = threading.Lock(), 0, 0
    read, write = files.read, files.write

    def counted_read(*rest):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        return read(*rest)

    def counted_write(*rest):
        nonlocal now
        time.sleep(0.02)
        result = write(*rest)
        with lock:
            now -= 1
        return result

    monkeypatch.setattr(files, "read", counted_read)
    monkeypatch.setattr(files, "write", counted_write)
    pairs = folder.pairs(place, tmp_path / "out")
    outcome = folder.colorize_folder(Colorizer.load(weights), pairs)
    assert outcome.coloured == 24
    assert most <= 4 + 2 * folder._THREADS  # the allowance, and what was being read meanwhile


def test_killed_it_goes_on_where_it_was(tmp_path, weights):
    place, out = many(tmp_path / "many", 60, 240), tmp_path / "out"
    argv = [sys.executable, ROOT / "colorize.py", place, out, "--weights", weights]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 240
    while len(list(out.glob("*.png"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = [path for path in out.glob("*.png") if files.read(path).pixels.shape == (240, 320, 3)]
    assert 3 <= len(whole) == len(list(out.glob("*.png"))) < 60
    times = {path: path.stat().st_mtime_ns for path in whole}
    assert run(place, out, "--weights", weights) == 0
    assert len(list(out.glob("*.png"))) == 60
    assert all(path.stat().st_mtime_ns == at for path, at in times.items())


def test_interrupted_it_says_how_to_go_on(scans, weights, tmp_path, monkeypatch, capsys):
    def interrupted(self, lightness):
        raise KeyboardInterrupt

    monkeypatch.setattr(Colorizer, "predict", interrupted)
    assert run(scans, tmp_path / "out", "--weights", weights) == 130
    assert "goes on with the rest" in capsys.readouterr().err


def test_folders_that_cannot_be(scans, weights, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(capsys, colorize.main, [empty, tmp_path / "out"], "empty", "no photographs")
    refused(capsys, colorize.main, [scans, scans], "input itself")
    refused(capsys, colorize.main, [scans, scans / "a.png"], "a.png", "name a folder")
    confidence = [scans, tmp_path / "out", "--confidence", tmp_path / "c.png"]
    refused(capsys, colorize.main, confidence, "--confidence", "one photograph")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_fails_each_photograph(scans, weights, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(scans, out)
    (out / "album").chmod(0o500)
    assert run(scans, out, "--weights", weights, "--overwrite") == 1
    assert "album" in capsys.readouterr().err


def test_the_pace_counts_from_the_beginning(monkeypatch, capsys):
    now = iter([100.0, 104.0, 120.0])  # of the bar, of the first eight, of as many again
    monkeypatch.setattr(report.time, "monotonic", lambda: next(now))
    bar = report.Bar("colouring", "photographs/s")
    bar.update(8, 100)
    bar.update(16, 100)
    assert "colouring 16/100  0.8 photographs/s" in capsys.readouterr().out
