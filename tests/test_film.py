import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import av.logging
import numpy as np
import pytest
from av.stream import Disposition
from conftest import picture, refused
from PIL import Image
from test_folder import weights  # noqa: F401  (a fixture: a network of strong colours)

import colorize
from colorjax import color
from colorjax.media import film, temporal
from colorjax.media.overlap import map_ahead, prefetch

ROOT = Path(colorize.__file__).parent
av.logging.set_level(None)


def scene(number, height, width):
    """A disc that moves before a still ground."""
    y, x = np.mgrid[0:height, 0:width]
    still = picture(7, height, width) // 2 + 40
    disc = ((y - height / 2) ** 2 + (x - 5 - 2 * number) ** 2 < (height / 6) ** 2)[..., None]
    rgb = np.where(disc, np.uint8(220), still)
    return np.repeat(rgb[..., 1:2], 3, 2)


def make(path, count=20, size=(48, 64), times=None, sound="", turned=0, codec="libx264", pix=None):
    """A film of 10 frames/s, or of times in 1/1000 s."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=10)
        stream.height, stream.width = size
        stream.pix_fmt = pix or ("yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p")
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if turned:
            stream.set_display_rotation(turned)
        tone = out.add_stream(sound, rate=44100) if sound else None
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(scene(number, *size), "rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if tone:
            wave = np.sin(np.arange(44100 * count // 10) / 30, dtype=np.float32)[None]
            samples = (wave * 9000).astype(np.int16) if sound.startswith("pcm") else wave
            kind = "s16" if sound.startswith("pcm") else "fltp"
            for start in range(0, samples.shape[1], 1024):
                part = np.ascontiguousarray(samples[:, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(part, format=kind, layout="mono")
                frame.sample_rate, frame.pts = 44100, start
                frame.time_base = Fraction(1, 44100)
                out.mux(tone.encode(frame))
            out.mux(tone.encode(None))
    return path


def read(path):
    """Frames, and the bytes of every packet of other streams."""
    with av.open(str(path)) as film:
        shown, rest = [], {}
        for packet in film.demux():
            if packet.stream.type == "video":
                shown += packet.decode()
            elif packet.dts is not None:
                rest.setdefault(packet.stream.type, []).append(bytes(packet))
        return shown, rest


def rgb(frame):
    return frame.reformat(format="rgb24", src_colorspace=1, dst_color_range=2).to_ndarray()


@pytest.fixture
def run(weights, capsys):  # noqa: F811
    def run(*argv):
        options = ["--weights", weights, "--working-size", "32"]
        status = colorize.main([str(word) for word in (*argv, *options)])
        return status, *capsys.readouterr()

    return run


# ------------------------------------------------------------------------------------ faithful


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_frames_times_and_sound_are_kept(run, tmp_path, suffix):
    times = [0, 100, 150, 300, 340, 500, 620, 700, 701, 1000, 1100]  # as of a camera that waits
    source = make(tmp_path / "in.mp4", len(times), times=times, sound="aac")
    target = tmp_path / f"out.{suffix}"
    status, out, err = run(source, target)
    assert (status, err) == (0, "") and f"wrote {target} (11 frames)" in out
    before, sound = read(source)
    after, copied = read(target)
    assert copied == sound and len(sound["audio"]) > 10
    start = after[0].time
    spans = [frame.time - start for frame in after]
    assert spans == pytest.approx([time / 1000 for time in times], abs=0.0011)
    assert [(f.width, f.height, f.format.name) for f in after] == [(64, 48, "yuv420p")] * 11
    first = after[0]
    assert (first.color_range, first.colorspace, first.color_primaries) == (1, 1, 1)
    colourful = [np.ptp(rgb(frame).astype(int), axis=-1).mean() for frame in after]
    assert min(colourful) > 5 and len(before) == 11
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", f"out.{suffix}"]


def test_lightness_reaches_the_encoder_untouched(run, tmp_path):
    """What is left is 8-bit YCbCr's rounding and, at crf 1 and 4:4:4, little else."""
    source = make(tmp_path / "in.mkv", 4, size=(47, 63), codec="ffv1", pix="bgr0")
    status, out, _ = run(source, tmp_path / "out.mkv", "--crf", "1")
    assert status == 0 and "4:4:4" in out
    for number, frame in enumerate(read(tmp_path / "out.mkv")[0]):
        assert (frame.format.name, frame.height, frame.width) == ("yuv444p", 47, 63)
        wanted = color.grey_lightness(scene(number, 47, 63)[..., 0] / np.float32(255))
        error = np.abs(color.lightness(rgb(frame) / np.float32(255)) - wanted)
        assert error.mean() < 0.5 and np.quantile(error, 0.99) < 2


def test_a_turned_film_comes_out_upright(run, tmp_path):
    source = make(tmp_path / "in.mp4", 5, turned=90)
    assert next(iter(read(source)[0])).rotation == 90
    status, _, _ = run(source, tmp_path / "out.mp4")
    frame = read(tmp_path / "out.mp4")[0][0]
    assert status == 0 and (frame.width, frame.height, frame.rotation) == (48, 64, 0)
    wanted = np.rot90(scene(0, 48, 64)[..., 0]).astype(int)
    shown = rgb(frame)[..., 1].astype(int)
    assert np.abs(shown - wanted).mean() < 0.5 * np.abs(shown - wanted[::-1, ::-1]).mean()


@pytest.mark.parametrize("turned, ratio", [(0, Fraction(16, 15)), (90, Fraction(15, 16))])
def test_the_shape_of_pixels_the_title_and_chapters_are_kept(run, tmp_path, turned, ratio):
    with av.open(str(tmp_path / "in.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 15)
        stream.set_display_rotation(turned)
        out.metadata["title"] = "The street"
        part = {"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000)}
        out.set_chapters([part | {"metadata": {"title": "Morning"}}])
        for number in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(scene(number, 48, 64), "rgb24")))
        out.mux(stream.encode(None))
    assert run(tmp_path / "in.mp4", tmp_path / "out.mp4")[0] == 0
    with av.open(str(tmp_path / "out.mp4")) as film:
        assert film.streams.video[0].sample_aspect_ratio == ratio
        assert film.metadata["title"] == "The street"
        (chapter,) = film.chapters()
        assert chapter["metadata"]["title"] == "Morning"
        assert float(chapter["end"] * chapter["time_base"]) == pytest.approx(0.2)


def test_old_kinds_of_film_are_read(run, tmp_path):
    source = make(tmp_path / "in.avi", 6, codec="mjpeg", pix="yuvj420p", sound="pcm_s16le")
    status, _, err = run(source, tmp_path / "out.mov")
    frames, sound = read(tmp_path / "out.mov")
    assert (status, err, len(frames)) == (0, "", 6)
    assert b"".join(sound["audio"]) == b"".join(read(source)[1]["audio"])


def test_avis_shuffled_times_are_put_in_order(run, tmp_path):
    """AVI says in which order frames are decoded, not when they are shown."""
    source = make(tmp_path / "in.avi", 30)
    times = [frame.pts for frame in read(source)[0]]
    assert times != sorted(times)  # else this tests nothing
    assert run(source, tmp_path / "out.mkv")[0] == 0
    shown = read(tmp_path / "out.mkv")[0]
    spans = [frame.time - shown[0].time for frame in shown]
    assert spans == pytest.approx([number / 10 for number in range(30)], abs=0.0011)


def test_two_films_in_a_row_go_on_in_time(run, tmp_path):
    """Recordings are joined by writing one behind the other: the time starts anew."""
    source = make(tmp_path / "in.ts", 30, sound="mp2")
    source.write_bytes(2 * source.read_bytes())
    status, _, err = run(source, tmp_path / "out.mp4")
    assert status == 0 or "1 of its parts" in err  # the seam may count as damage
    shown, sound = read(tmp_path / "out.mp4")
    assert len(shown) == 60 and sound == read(source)[1]
    steps = np.diff([frame.time for frame in shown])
    assert steps[np.arange(59) != 29] == pytest.approx(0.1, abs=0.001) and 0.05 < steps[29] < 0.3


def two_tracks(path, chosen):
    """A short film with two tracks of subtitles, one of them the default."""
    words = path.with_suffix(".srt")
    words.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n\n")
    with av.open(str(words)) as given, av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(2):
            titles = out.add_stream_from_template(given.streams[0])
            titles.metadata["language"] = ("eng", "deu")[number]
            titles.disposition = Disposition.default if number == chosen else Disposition(0)
        for number in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(scene(number, 48, 64), "rgb24")))
        out.mux(stream.encode(None))
    return path


def test_the_track_that_plays_by_default_stays_so(run, tmp_path):
    source, target = two_tracks(tmp_path / "in.mkv", chosen=1), tmp_path / "out.mkv"
    assert run(source, target)[0] == 0
    with av.open(str(source)) as before, av.open(str(target)) as after:
        for film in (before, after):
            tracks = [
                (s.language, bool(s.disposition & Disposition.default))
                for s in film.streams.subtitles
            ]
            assert tracks == [("eng", False), ("deu", True)]


def test_a_name_may_hold_a_colon(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(Path("scene1.avi"), 3, codec="mjpeg", pix="yuvj420p").rename("scene1:take2.avi")
    assert run("scene1:take2.avi", "take:2.mp4")[0] == 0
    assert len(read(tmp_path / "take:2.mp4")[0]) == 3


# -------------------------------------------------------------------------------------- steady


def still(count=30):
    random = np.random.default_rng(0)
    lightness = np.repeat(random.uniform(20, 80, (1, 16, 16)).astype(np.float32), count, axis=0)
    return lightness, random.normal(0, 10, (count, 4, 4, 2)).astype(np.float32)


def flicker(ab):
    return np.abs(np.diff(ab, axis=0)).mean()


def test_colour_stands_still_where_lightness_does():
    lightness, ab = still()
    steadied = np.stack(list(map(temporal.TemporalFilter(), lightness, ab)))
    assert flicker(steadied) < flicker(ab) / 5
    assert np.allclose(
        np.stack(list(map(temporal.TemporalFilter(min_blend=1), lightness, ab))), ab, atol=1e-4
    )


def test_an_old_projectors_brightness_does_not_undo_it():
    lightness, ab = still()
    random = np.random.default_rng(1)
    dark = lightness * np.where(np.arange(16) < 6, 0.3, 1)[:, None]  # a dark part, a light one
    for flickering in (
        lightness + random.uniform(-5, 5, (len(ab), 1, 1)),
        dark * random.uniform(0.9, 1.1, (len(ab), 1, 1)),
    ):
        steadied = np.stack(list(map(temporal.TemporalFilter(), flickering, ab)))
        assert flicker(steadied) < flicker(ab) / 5
        assert max(map(temporal.histogram_distance, flickering, flickering[1:])) < temporal.CUT


def test_colour_follows_what_moves():
    lightness, ab = still(2)
    lightness[1, :4, :4] += 40
    filter = temporal.TemporalFilter()
    first, second = filter(lightness[0], ab[0]), filter(lightness[1], ab[1])
    assert np.array_equal(first, ab[0])
    assert np.allclose(second[0, 0], ab[1, 0, 0], atol=1e-3)
    assert np.allclose(second[1:], ab[0, 1:] + 0.1 * (ab[1, 1:] - ab[0, 1:]), atol=1e-4)


def test_a_cut_begins_anew():
    lightness, ab = still(2)
    lightness[1] = 100 - lightness[1] / 2
    assert (
        temporal.histogram_distance(lightness[0], lightness[0] + 1)
        < temporal.CUT
        < temporal.histogram_distance(*lightness)
    )
    filter = temporal.TemporalFilter()
    assert np.array_equal([filter(x, y) for x, y in zip(lightness, ab, strict=True)], ab)


# ------------------------------------------------------------------------------------- bounded


def test_stages_run_only_a_little_ahead_and_keep_order():
    made = []

    def source():
        for number in itertools.count():
            made.append(number)
            yield number

    doubled = map_ahead(lambda x: 2 * x, prefetch(source()), threads=2)
    assert [next(doubled) for _ in range(5)] == [0, 2, 4, 6, 8]
    time.sleep(0.2)
    assert len(made) < 30
    doubled.close()
    assert list(prefetch(letter for letter in "abc")) == ["a", "b", "c"]


def test_an_error_of_a_stage_reaches_the_end():
    def source():
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        list(map_ahead(abs, prefetch(source()), threads=2))


# ----------------------------------------------------------------------------------- bad input


def test_bad_films_get_a_sentence_and_write_nothing(weights, tmp_path, capsys, monkeypatch):  # noqa: F811
    good = make(tmp_path / "good.mp4", 3)
    text, empty = tmp_path / "text.mp4", tmp_path / "empty.mkv"
    text.write_bytes(b"This is no film. " * 500)
    empty.write_bytes(b"")
    cut = tmp_path / "cut.mp4"  # without its index, which comes last
    cut.write_bytes(good.read_bytes()[:800])
    with av.open(str(tmp_path / "none.mkv"), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        out.start_encoding()
    with av.open(str(tmp_path / "song.mp4"), "w") as out:
        tone = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        out.mux(tone.encode(frame))
        out.mux(tone.encode(None))
    Image.fromarray(scene(0, 48, 64)).save(tmp_path / "still.png")
    with av.open(str(tmp_path / "cover.m4a"), "w", format="mp4") as out:
        tone = out.add_stream("aac", rate=44100)
        cover = out.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 48, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        out.mux(cover.encode(av.VideoFrame.from_ndarray(scene(0, 48, 64), "rgb24")))
        out.mux(cover.encode(None))
        out.mux(tone.encode(frame))
        out.mux(tone.encode(None))
    words = tmp_path / "words.srt"
    words.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n\n")
    with av.open(str(words)) as given, av.open(str(tmp_path / "titled.mkv"), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        titles = out.add_stream_from_template(given.streams[0])
        for number in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(scene(number, 48, 64), "rgb24")))
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = titles
                out.mux(packet)
        out.mux(stream.encode(None))
    before, out = sorted(tmp_path.iterdir()), tmp_path / "out.mp4"

    def no(argv, *said):
        refused(capsys, colorize.main, [*argv, "--weights", weights], *said)

    no([tmp_path / "nowhere.mp4", out], "nowhere.mp4", "No such file")
    no([text, out], "text.mp4", "no film")
    no([empty, out], "empty.mkv", "no film")
    no([cut, out], "cut.mp4", "no film")
    no([tmp_path / "none.mkv", out], "none.mkv")
    no([tmp_path / "song.mp4", out], "song.mp4", "no pictures")
    no([tmp_path / "cover.m4a", out], "cover.m4a", "no pictures")
    no([tmp_path / "still.png", out], "still.png", "picture")
    no([tmp_path / "titled.mkv", out], "titled.mkv", "subtitle", ".mkv")
    no([good, tmp_path / "out.webm"], "out.webm", ".mp4 .m4v .mov .mkv")
    no([good, tmp_path / "out.png"], "out.png", ".mp4")
    no([good, tmp_path / "no/out.mp4"], "no/out.mp4", "folder")
    no([good, good], "input itself")
    no([good, text], "text.mp4 exists", "--overwrite")
    no([good, out, "--confidence", tmp_path / "c.png"], "--confidence")
    no([good, out, "--crf", "52"], "--crf 52")
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "av.error", None)
    no([good, out], "PyAV", "video")
    assert sorted(tmp_path.iterdir()) == before


def test_subtitles_are_copied_where_they_can_be(run, tmp_path):
    words = tmp_path / "words.srt"
    words.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n\n")
    with av.open(str(words)) as given, av.open(str(tmp_path / "in.mkv"), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        titles = out.add_stream_from_template(given.streams[0])
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = titles
                out.mux(packet)
        for number in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(scene(number, 48, 64), "rgb24")))
        out.mux(stream.encode(None))
    assert run(tmp_path / "in.mkv", tmp_path / "out.mkv")[0] == 0
    assert read(tmp_path / "out.mkv")[1] == {"subtitle": [b"Hello"]}


def test_a_film_that_breaks_off_is_coloured_so_far(run, tmp_path):
    whole = make(tmp_path / "whole.avi", 60, codec="mjpeg", pix="yuvj420p").read_bytes()
    broken = tmp_path / "broken.avi"
    broken.write_bytes(whole[: len(whole) // 2])
    status, out, err = run(broken, tmp_path / "out.mp4")
    shown = len(read(tmp_path / "out.mp4")[0])
    assert status == 1 and 20 < shown < 40 and f"({shown} frames)" in out
    assert "broken.avi" in err and "of 6.0 s" in err and len(err.splitlines()) == 1
    assert f"{shown / 10:.1f} of" in err or f"{shown / 10 + 0.1:.1f} of" in err


def test_a_cut_short_flash_film_says_so(run, tmp_path):
    whole = make(tmp_path / "whole.flv", 60, codec="flv1", sound="libmp3lame").read_bytes()
    (tmp_path / "broken.flv").write_bytes(whole[: len(whole) // 2])
    status, _, err = run(tmp_path / "broken.flv", tmp_path / "out.mkv")
    assert status == 1 and "broken.flv" in err and "breaks off" in err


def test_damaged_sound_costs_that_sound_alone(run, tmp_path):
    whole = make(tmp_path / "whole.ts", 20, sound="aac").read_bytes()
    packets = [whole[start : start + 188] for start in range(0, len(whole), 188)]
    with av.open(str(tmp_path / "whole.ts")) as film:
        sound = film.streams.audio[0].id
    own = [
        number
        for number, packet in enumerate(packets)
        if int.from_bytes(packet[1:3], "big") & 0x1FFF == sound
    ]
    statuses = set()
    for number in own[2:12]:
        kept = b"".join(packets[:number] + packets[number + 1 :])
        (tmp_path / "broken.ts").write_bytes(kept)
        status, _, err = run(tmp_path / "broken.ts", tmp_path / "out.mp4", "--overwrite")
        assert status in (0, 1) and len(read(tmp_path / "out.mp4")[0]) == 20
        assert (status == 1) == ("of its parts" in err)
        statuses.add(status)
    assert 1 in statuses


def test_sound_of_an_unknown_kind_is_left_out(run, tmp_path):
    source = make(tmp_path / "in.avi", 6, codec="mjpeg", pix="yuvj420p", sound="pcm_s16le")
    content = source.read_bytes()
    at = content.index(b"strf", content.index(b"auds")) + 8  # of its kind, 1 for PCM
    source.write_bytes(content[:at] + b"\x34\x12" + content[at + 2 :])
    status, out, err = run(source, tmp_path / "out.mp4")
    assert (status, err) == (0, "") and "1 of its streams" in out
    assert len(read(tmp_path / "out.mp4")[0]) == 6


def test_interrupted_it_says_how_far_it_came(run, tmp_path, monkeypatch):
    source = make(tmp_path / "in.mp4", 40)
    merge = film._merged

    def merged(colorizer, outcome, predicted):
        if predicted[0].pts >= 20 * 1024:  # of 10240 a second
            raise KeyboardInterrupt
        return merge(colorizer, outcome, predicted)

    monkeypatch.setattr(film, "_merged", merged)
    status, _, err = run(source, tmp_path / "out.mp4")
    assert status == 130 and "frame 20 of 40" in err and len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [source]
    assert not [t for t in threading.enumerate() if "ThreadPoolExecutor" in t.name]


def test_ctrl_c_ends_it(tmp_path, weights):  # noqa: F811
    """In a process of its own: threads that outlived the film would crash it."""
    source, target = make(tmp_path / "in.mp4", 1500), tmp_path / "out.mp4"
    command = [sys.executable, ROOT / "colorize.py", source, target, "--weights", weights]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not list(tmp_path.glob(".*.tmp")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130 and b"interrupted at frame" in error
    assert len(error.splitlines()) == 1 and list(tmp_path.iterdir()) == [source]


def test_killed_it_leaves_nothing_under_the_final_name(tmp_path, weights):  # noqa: F811
    source, target = make(tmp_path / "in.mp4", 1500), tmp_path / "out.mp4"
    command = [sys.executable, ROOT / "colorize.py", source, target, "--weights", weights]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (started := list(tmp_path.glob(".*.tmp"))):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert started and not target.exists()
