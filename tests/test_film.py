import functools
import itertools
import os
import resource
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
from colorjax.media import demux, film, remux, temporal
from colorjax.media.overlap import map_ahead, prefetch

ROOT = Path(colorize.__file__).parent
av.logging.set_level(None)


@functools.cache
def scene(number, height, width):
    """A disc that moves before a still ground."""
    y, x = np.mgrid[0:height, 0:width]
    still = picture(7, height, width) // 2 + 40
    disc = ((y - height / 2) ** 2 + (x - 5 - 2 * number) ** 2 < (height / 6) ** 2)[..., None]
    rgb = np.where(disc, np.uint8(220), still)
    return np.repeat(rgb[..., 1:2], 3, 2)


def add_video(out, codec="libx264", size=(48, 64), pix=None, rate=10, **options):
    """A stream of pictures for a film that is being made."""
    stream = out.add_stream(codec, rate=rate, options=options)
    stream.height, stream.width = size
    usual = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
    stream.pix_fmt = pix or {"mjpeg": "yuvj420p"}.get(codec, usual)
    return stream


def encode(out, stream, pictures):
    """Write pictures, or the parts of a sound, to the end."""
    for frame in pictures:
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def pictures(count, size=(48, 64), times=None):
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(scene(number, *size), "rgb24")
        if times:
            frame.pts, frame.time_base = times[number], Fraction(1, 1000)
        yield frame


def sounds(samples, layout="mono"):
    """Parts of a sound of 44,100 samples a second, `1 N`."""
    kind = "s16" if samples.dtype == np.int16 else "fltp"
    for start in range(0, samples.shape[1], 1024):
        part = np.ascontiguousarray(samples[:, start : start + 1024])
        frame = av.AudioFrame.from_ndarray(part, format=kind, layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = 44100, start, Fraction(1, 44100)
        yield frame


def make(path, count=20, size=(48, 64), times=None, sound="", turned=0, codec="libx264", pix=None):
    """A film of 10 frames/s, or of times in 1/1000 s."""
    with av.open(str(path), "w") as out:
        stream = add_video(out, codec, size, pix)
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if turned:
            stream.set_display_rotation(turned)
        tone = out.add_stream(sound, rate=44100, layout="mono") if sound else None
        if tone and sound == "wmav2":
            tone.bit_rate = 64000
        encode(out, stream, pictures(count, size, times))
        if tone:
            wave = np.sin(np.arange(44100 * count // 10) / 30, dtype=np.float32)[None]
            encode(out, tone, sounds((wave * 9000).astype("i2") if "pcm" in sound else wave))
    return path


def remade(source, target, edit=lambda packet: None, add=lambda out: None, kind=None, **options):
    """A film's packets in another container, each after an edit; options of the container."""
    with av.open(str(source)) as given, av.open(str(target), "w", kind, options) as out:
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in given.streams}
        add(out)
        for packet in given.demux():
            if packet.size:
                edit(packet)
                packet.stream = streams[packet.stream_index]
                out.mux(packet)
    return target


def chapter(title, start, end):
    """A chapter from one time in ms to another."""
    times = {"start": start, "end": end, "time_base": Fraction(1, 1000)}
    return {"id": 1, **times, "metadata": {"title": title}}


def packets(path, kind):
    """Start, end in seconds and bytes of each packet of a kind of stream."""
    with av.open(str(path)) as film:
        (stream,) = (stream for stream in film.streams if stream.type == kind)
        return [
            (float(p.pts * p.time_base), float((p.pts + p.duration) * p.time_base), bytes(p))
            for p in film.demux(stream)
            if p.size
        ]


def titled(path, words, kind, chapters=(), start=0):
    """A film of 3 s with sound and subtitles (start, end in ms, text), as `.srt` or `.ass`."""
    bare = make(path.with_name("bare.mkv"), 30, codec="mjpeg", sound="aac")
    text = path.with_name(f"words.{kind}")
    if kind == "srt":
        clock = "00:00:{:02},{:03}".format
        lines = [
            f"1\n{clock(*divmod(a, 1000))} --> {clock(*divmod(b, 1000))}\n{line}\n"
            for a, b, line in words
        ]
    else:
        clock = "0:00:{:02}.{:02}".format
        lines = [
            "[Script Info]\nScriptType: v4.00+\n",
            "[V4+ Styles]\nFormat: Name, Fontname, Fontsize\nStyle: Default,Arial,20\n",
            "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, "
            "Text",
        ]
        for a, b, line in words:
            times = (clock(*divmod(a // 10, 100)), clock(*divmod(b // 10, 100)))
            lines.append(f"Dialogue: 0,{times[0]},{times[1]},Default,,0,0,0,,{line}")
    text.write_text("\n".join(lines))
    with (
        av.open(str(bare)) as film,
        av.open(str(text)) as given,
        av.open(str(path), "w") as out,
    ):
        sources = [*film.streams, given.streams[0]]
        streams = [out.add_stream_from_template(stream, opaque=True) for stream in sources]
        out.set_chapters(list(chapters))
        found = [p for source in (film, given) for p in source.demux() if p.dts is not None]
        for packet in sorted(found, key=lambda packet: packet.dts * packet.time_base):
            packet.pts += round(start / packet.time_base)
            packet.dts += round(start / packet.time_base)
            packet.stream = streams[sources.index(packet.stream)]
            out.mux(packet)
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
def run(weights, capsys):  # noqa: F811 (the fixture)
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
        stream = add_video(out)
        stream.codec_context.sample_aspect_ratio = Fraction(16, 15)
        stream.set_display_rotation(turned)
        out.metadata["title"] = "The street"
        out.set_chapters([chapter("Morning", 0, 200)])
        encode(out, stream, pictures(3))
    assert run(tmp_path / "in.mp4", tmp_path / "out.mp4")[0] == 0
    with av.open(str(tmp_path / "out.mp4")) as film:
        assert film.streams.video[0].sample_aspect_ratio == ratio
        assert film.metadata["title"] == "The street"
        (found,) = film.chapters()
        assert found["metadata"]["title"] == "Morning"
        assert float(found["end"] * found["time_base"]) == pytest.approx(0.2)


def test_avis_shuffled_times_are_put_in_order(run, tmp_path):
    """AVI says in which order frames are decoded, not when they are shown."""
    source = make(tmp_path / "in.avi", 30)
    times = [frame.pts for frame in read(source)[0]]
    assert times != sorted(times)  # else this tests nothing
    assert run(source, tmp_path / "out.mkv")[0] == 0
    shown = read(tmp_path / "out.mkv")[0]
    spans = [frame.time - shown[0].time for frame in shown]
    assert spans == pytest.approx([number / 10 for number in range(30)], abs=0.0011)


@pytest.mark.parametrize("later", [0, 3600])
def test_two_films_in_a_row_go_on_in_time(run, tmp_path, later):
    """Recordings are joined by writing one behind the other: the clock starts anew, or jumps."""
    source = make(tmp_path / "in.ts", 30, sound="mp2")
    second = remade(source, tmp_path / "second.ts", output_ts_offset=str(later))
    source.write_bytes(source.read_bytes() + second.read_bytes())
    status, out, err = run(source, tmp_path / "out.mp4")
    assert status == 0 or "1 of its parts" in err  # the seam may count as damage
    assert "note: its clock starts anew" in out
    shown, sound = read(tmp_path / "out.mp4")
    assert len(shown) == 60 and sound == read(source)[1]
    steps = np.diff([frame.time for frame in shown])
    assert steps[np.arange(59) != 29] == pytest.approx(0.1, abs=0.001) and 0.05 < steps[29] < 0.3


OVERLAPPING = [(100, 2900, "one"), (200, 400, "two"), (300, 2000, "three"), (2500, 2900, "four")]


@pytest.mark.parametrize("kind", ["ass", "srt"])
def test_overlapping_subtitles_shift_nothing(run, tmp_path, kind):
    source = titled(tmp_path / "in.mkv", OVERLAPPING, kind)
    status, out, err = run(source, tmp_path / "out.mkv")
    assert (status, err) == (0, "") and "note" not in out
    for stream in ("video", "audio", "subtitle"):
        before, after = packets(source, stream), packets(tmp_path / "out.mkv", stream)
        times = [sorted(start for start, _, _ in found) for found in (before, after)]
        assert times[1] == pytest.approx(times[0], abs=0.0011)
        assert stream == "video" or [p[1:] for p in after] == [p[1:] for p in before]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_recordings_clock_begins_at_0(run, tmp_path, suffix):
    """The clock of a recording from the air stands at any hour."""
    made = make(tmp_path / "made.ts", 20, sound="mp2")
    source = remade(made, tmp_path / "in.ts", output_ts_offset="36000")
    target = tmp_path / f"out.{suffix}"
    assert run(source, target)[0] == 0
    start = min(packets(source, kind)[0][0] for kind in ("video", "audio"))
    assert start > 36000
    for kind in ("video", "audio"):
        before, after = (
            [p[0] - s for p in packets(x, kind)] for x, s in ((source, start), (target, 0))
        )
        assert sorted(after) == pytest.approx(sorted(before), abs=0.0011)


def test_subtitles_and_chapters_begin_at_0_with_the_clock(run, tmp_path):
    chapters = [chapter("Noon", 100_500, 101_500)]
    source = titled(tmp_path / "in.mkv", [(500, 900, "one")], "srt", chapters, start=100)
    assert run(source, tmp_path / "out.mkv")[0] == 0
    ((start, _, text),) = packets(tmp_path / "out.mkv", "subtitle")
    assert start == pytest.approx(0.5, abs=0.03) and text == b"one"
    with av.open(str(tmp_path / "out.mkv")) as film:
        (found,) = film.chapters()
        assert float(found["start"] * found["time_base"]) == pytest.approx(0.5, abs=0.03)
        assert film.duration / 1e6 == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_packets_time_equal_to_the_one_before_loses_nothing(run, tmp_path, suffix):
    made = make(tmp_path / "made.mkv", 20, sound="aac", codec="mjpeg")

    def same(packet, seen={}):  # noqa: B006  (one for the film)
        number = seen[packet.stream_index] = seen.get(packet.stream_index, -1) + 1
        if number in (7, 12):
            packet.pts = packet.dts = seen["last", packet.stream_index]
        seen["last", packet.stream_index] = packet.dts

    source = remade(made, tmp_path / "in.mkv", same)
    for kind in ("video", "audio"):
        times = [start for start, _, _ in packets(source, kind)]
        assert sum(a == b for a, b in itertools.pairwise(times)) == 2  # else this tests nothing
    target = tmp_path / f"out.{suffix}"
    status, _, err = run(source, target)
    assert (status, err) == (0, "")
    shown, sound = read(target)
    assert len(shown) == 20 and sound == read(source)[1]
    before, after = ([p[0] for p in packets(path, "audio")] for path in (source, target))
    assert after == pytest.approx(before, abs=0.025)


def sound_of(path):
    """The name of a film's sound, and its samples, decoded."""
    with av.open(str(path)) as film:
        (stream,) = film.streams.audio
        name = stream.codec_context.name
        parts = [frame.to_ndarray() for frame in film.decode(stream)]
    return name, np.concatenate([part.reshape(-1) for part in parts])


@pytest.mark.parametrize(
    "name, codec, sound",
    [("in.wmv", "wmv2", "wmav2"), ("in.avi", "mjpeg", "adpcm_ima_wav")],
)
def test_sound_that_a_container_does_not_hold(run, tmp_path, name, codec, sound):
    """Matroska holds it all, by the names of AVI; elsewhere it becomes PCM, which is said."""
    source = make(tmp_path / name, 20, codec=codec, sound=sound)
    status, out, err = run(source, tmp_path / "out.mkv")
    assert (status, err) == (0, "") and "note" not in out
    assert [p[2] for p in packets(tmp_path / "out.mkv", "audio")] == read(source)[1]["audio"]
    for suffix in ("mp4", "mov"):
        target = tmp_path / f"out.{suffix}"
        status, out, err = run(source, target)
        assert (status, err) == (0, "")
        assert f"its sound ({sound}) becomes pcm_s16le: .{suffix} cannot hold it" in out
        kind, samples = sound_of(target)
        assert kind == "pcm_s16le" and abs(len(samples) - 88200) < 8192
        assert np.array_equal(samples, sound_of(source)[1]) or sound == "wmav2"  # of floats
        assert len(read(target)[0]) == 20


def test_a_place_whose_name_has_signs_of_its_own(run, tmp_path):
    """Of the way by which Matroska gets such sound."""
    place = tmp_path / "a [b]|c'd\\e f=x"
    place.mkdir()
    source = make(place / "in.wmv", 5, codec="wmv2", sound="wmav2")
    assert run(source, place / "out.mkv")[0] == 0
    assert sorted(path.name for path in place.iterdir()) == ["in.wmv", "out.mkv"]
    assert sound_of(place / "out.mkv")[0] == "wmav2"


def test_chapters_are_kept_beside_such_sound(run, tmp_path):
    made = make(tmp_path / "made.wmv", 10, codec="wmv2", sound="wmav2")
    noon = [chapter("Noon", 0, 500)]
    source = remade(made, tmp_path / "in.wmv", add=lambda out: out.set_chapters(noon), kind="asf")
    status, out, _ = run(source, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as film:
        assert status == 0 and [c["metadata"]["title"] for c in film.chapters()] == ["Noon"]
    assert "becomes pcm_s16le" in out


@pytest.mark.parametrize("name", ["in.avi", "in.mkv"])
def test_stereo_pcm_without_a_layout_goes_into_mp4(run, tmp_path, name):
    """It failed in the trailer, after all frames."""
    noise = np.random.default_rng(0).integers(-9000, 9000, (1, 2 * 22050)).astype(np.int16)
    with av.open(str(tmp_path / name), "w") as out:
        stream = add_video(out, "mjpeg")
        tone = out.add_stream("pcm_s16le", rate=44100, layout="stereo")
        encode(out, stream, pictures(5))
        frame = av.AudioFrame.from_ndarray(noise, "s16", "stereo")
        frame.sample_rate = 44100
        encode(out, tone, [frame])
    status, said, err = run(tmp_path / name, tmp_path / "out.mp4")
    assert (status, err) == (0, "") and "note" not in said
    kind, samples = sound_of(tmp_path / "out.mp4")
    assert kind == "pcm_s16le" and np.array_equal(samples, noise.ravel())


@pytest.mark.parametrize("encoders", [("aac",), ()])
def test_sound_that_becomes_aac_or_is_left_out(run, tmp_path, monkeypatch, encoders):
    monkeypatch.setattr(remux, "_encoders", lambda context: encoders)
    source = make(tmp_path / "in.wmv", 20, codec="wmv2", sound="wmav2")
    status, out, err = run(source, tmp_path / "out.mp4")
    assert (status, err) == (0, "") and len(read(tmp_path / "out.mp4")[0]) == 20
    if encoders:
        assert "becomes aac" in out
        kind, samples = sound_of(tmp_path / "out.mp4")
        assert kind == "aac" and abs(len(samples) - 88200) < 8192
    else:
        assert "note: its sound (wmav2) is left out: .mp4 cannot hold it" in out


def test_sound_that_fails_after_the_trial_costs_no_picture(run, tmp_path, monkeypatch):
    write, calls = remux.remux, []

    def fails(pictures, begin, source, target, plan, most=None):
        calls.append(plan)
        if plan.codecs and most is None:
            raise av.error.InvalidDataError(1, "at the trailer")
        return write(pictures, begin, source, target, plan, most)

    monkeypatch.setattr(remux, "remux", fails)
    source = make(tmp_path / "in.mp4", 5, sound="aac")
    status, out, _ = run(source, tmp_path / "out.mp4")
    assert status == 0 and "its sound and subtitles are left out" in out
    assert len(read(tmp_path / "out.mp4")[0]) == 5


def test_fonts_that_come_along_are_kept(run, tmp_path):
    made = make(tmp_path / "made.mkv", 3, codec="mjpeg")
    font = ("old.ttf", "font/ttf", b"letters")
    source = remade(made, tmp_path / "in.mkv", add=lambda out: out.add_attachment(*font))
    assert run(source, tmp_path / "out.mkv")[0] == 0
    with av.open(str(tmp_path / "out.mkv")) as film:
        (font,) = film.streams.attachments
        assert (font.name, bytes(font.data)) == ("old.ttf", b"letters")
    assert "1 of its streams are left out" in run(source, tmp_path / "out.mp4")[1]


# ------------------------------------------------------------------------------------- exact

SAMPLINGS = "yuv420p yuv422p yuv411p nv12 yuv444p yuv420p10le p010le yuv422p10le".split()


@pytest.mark.parametrize("kind", [*SAMPLINGS, "gray", "gray10le"])
def test_frames_of_the_usual_range_are_decoded_exactly(kind):
    """(Y − 16) · 255 / 219, within rounding, of a ramp over all of it."""
    frame = av.VideoFrame(440, 16, kind)
    bits = frame.format.components[0].bits
    ramp = np.round(np.linspace(16 << (bits - 8), 235 << (bits - 8), 440))
    for number, plane in enumerate(frame.planes):
        values = np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16).reshape(
            plane.height, -1
        )
        values = np.full_like(values, 128 << (bits - 8))
        if number == 0:
            values[:, :440] = ramp
        plane.update((values << 6 if kind == "p010le" else values).tobytes())
    frame.color_range = 1
    pixels = demux.upright(frame, frame, demux.Outcome()).pixels
    wanted = (ramp / (1 << (bits - 8)) - 16) * 255 / 219
    assert pixels.ndim == 2 and np.abs(pixels - wanted).max() < 0.51


def test_white_stays_white_to_the_end(run, tmp_path):
    """And black black: Y of each frame, before and after, without loss by H.264."""
    levels = [16, 17, 60, 128, 200, 234, 235]
    with av.open(str(tmp_path / "in.mkv"), "w") as out:
        planes = [np.full((72, 64), 128, np.uint8) for _ in levels]
        for plane, level in zip(planes, levels, strict=True):
            plane[:48] = level
        frames = (av.VideoFrame.from_ndarray(plane, "yuv420p") for plane in planes)
        encode(out, add_video(out, "ffv1"), frames)
    options = ["--crf", "0", "--saturation", "0"]
    assert run(tmp_path / "in.mkv", tmp_path / "out.mp4", *options)[0] == 0
    shown = [frame.to_ndarray()[:48] for frame in read(tmp_path / "out.mp4")[0]]
    assert [(y.min(), y.max()) for y in shown] == [(level, level) for level in levels]


def test_interlaced_films_and_joined_sizes_are_said(run, tmp_path):
    for name, size, options in (
        ("one", (48, 64), {"flags": "+ildct+ilme"}),
        ("two", (96, 64), {}),
    ):
        with av.open(str(tmp_path / f"{name}.ts"), "w") as out:
            stream = add_video(out, "mpeg2video", size, rate=25, **options)
            encode(out, stream, pictures(10, size))
    source = tmp_path / "in.ts"
    source.write_bytes(b"".join((tmp_path / f"{x}.ts").read_bytes() for x in ("one", "two")))
    _, out, _ = run(source, tmp_path / "out.mp4")
    assert "it is interlaced" in out and "deinterlace it before" in out
    assert "its frames change from 64 × 48 to 64 × 96: all are written as 64 × 48" in out
    assert {(f.width, f.height) for f in read(tmp_path / "out.mp4")[0]} == {(64, 48)}


def test_the_track_that_plays_by_default_stays_so(run, tmp_path):
    words, source, target = tmp_path / "a.srt", tmp_path / "in.mkv", tmp_path / "out.mkv"
    words.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n\n")
    with av.open(str(words)) as given, av.open(str(source), "w") as out:
        stream = add_video(out)
        for language, plays in (("eng", 0), ("deu", Disposition.default)):
            titles = out.add_stream_from_template(given.streams[0])
            titles.metadata["language"], titles.disposition = language, Disposition(plays)
        encode(out, stream, pictures(3))
    assert run(source, target)[0] == 0
    for path in (source, target):
        with av.open(str(path)) as film:
            tracks = [
                (s.language, bool(s.disposition & Disposition.default))
                for s in film.streams.subtitles
            ]
        assert tracks == [("eng", False), ("deu", True)]


def test_a_name_may_hold_a_colon(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(Path("scene1.avi"), 3, codec="mjpeg").rename("scene1:take2.avi")
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


def test_bad_films_get_a_sentence_and_write_nothing(weights, tmp_path, capsys, monkeypatch):  # noqa: F811 (the fixture)
    good = make(tmp_path / "good.mp4", 3)
    text, empty = tmp_path / "text.mp4", tmp_path / "empty.mkv"
    text.write_bytes(b"This is no film. " * 500)
    empty.write_bytes(b"")
    cut = tmp_path / "cut.mp4"  # without its index, which comes last
    cut.write_bytes(good.read_bytes()[:800])
    with av.open(str(tmp_path / "none.mkv"), "w") as made:
        add_video(made)
        made.start_encoding()
    silence = np.zeros((1, 4096), np.float32)
    with av.open(str(tmp_path / "song.mp4"), "w") as made:
        encode(made, made.add_stream("aac", rate=44100, layout="mono"), sounds(silence))
    Image.fromarray(scene(0, 48, 64)).save(tmp_path / "still.png")
    with av.open(str(tmp_path / "cover.m4a"), "w", format="mp4") as made:
        tone = made.add_stream("aac", rate=44100, layout="mono")
        cover = add_video(made, "mjpeg", rate=1)
        cover.disposition = Disposition.attached_pic
        encode(made, cover, pictures(1))
        encode(made, tone, sounds(silence))
    titled(tmp_path / "titled.mkv", [(0, 1000, "Hello")], "srt")
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


@pytest.mark.parametrize(
    "kind, codec, sound", [("avi", "mjpeg", ""), ("flv", "flv1", "libmp3lame")]
)
def test_a_film_that_breaks_off_is_coloured_so_far(run, tmp_path, kind, codec, sound):
    whole = make(tmp_path / f"whole.{kind}", 60, codec=codec, sound=sound).read_bytes()
    broken = tmp_path / f"broken.{kind}"
    broken.write_bytes(whole[: len(whole) // 2])
    status, out, err = run(broken, tmp_path / "out.mkv")
    shown = len(read(tmp_path / "out.mkv")[0])
    assert status == 1 and 20 < shown < 40 and f"({shown} frames)" in out
    assert broken.name in err and "breaks off at" in err and len(err.splitlines()) == 1
    if kind == "avi":
        assert "of 6.0 s" in err
        assert f"{shown / 10:.1f} of" in err or f"{shown / 10 + 0.1:.1f} of" in err


def test_damaged_sound_costs_that_sound_alone(run, tmp_path):
    whole = make(tmp_path / "whole.ts", 20, sound="aac").read_bytes()
    packets = [whole[start : start + 188] for start in range(0, len(whole), 188)]
    with av.open(str(tmp_path / "whole.ts")) as film:
        sound = film.streams.audio[0].id
    ids = [int.from_bytes(packet[1:3], "big") & 0x1FFF for packet in packets]
    own = [number for number, found in enumerate(ids) if found == sound]
    statuses = set()
    for number in own[2:6]:
        kept = b"".join(packets[:number] + packets[number + 1 :])
        (tmp_path / "broken.ts").write_bytes(kept)
        status, _, err = run(tmp_path / "broken.ts", tmp_path / "out.mp4", "--overwrite")
        assert status in (0, 1) and len(read(tmp_path / "out.mp4")[0]) == 20
        assert (status == 1) == ("of its parts" in err)
        statuses.add(status)
    assert 1 in statuses


def test_sound_of_an_unknown_kind_is_left_out(run, tmp_path):
    source = make(tmp_path / "in.avi", 6, codec="mjpeg", sound="pcm_s16le")
    content = source.read_bytes()
    at = content.index(b"strf", content.index(b"auds")) + 8  # of its kind, 1 for PCM
    source.write_bytes(content[:at] + b"\x34\x12" + content[at + 2 :])
    status, out, err = run(source, tmp_path / "out.mp4")
    assert (status, err) == (0, "") and "1 of its streams" in out
    assert len(read(tmp_path / "out.mp4")[0]) == 6


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_full_disk_leaves_nothing(run, tmp_path, suffix):
    """In the first pass, and in the second, where the sound is written as well."""
    source, target = tmp_path / "in.wmv", tmp_path / f"out.{suffix}"
    make(source, 20, codec="wmv2", sound="wmav2")
    assert run(source, target)[0] == 0
    whole = target.stat().st_size
    target.unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (2000, whole - 3000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            status, _, err = run(source, target)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert status == 2 and f"{target} could not be written: File too large" in err
        assert len(err.splitlines()) == 1 and list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_interrupted_it_says_how_far_it_came(run, tmp_path, monkeypatch, name):
    """By Ctrl-C, a shutdown or a closed window."""
    source, number = make(tmp_path / "in.mp4", 40), getattr(signal, name)
    merge = film._merged

    def merged(colorizer, outcome, predicted):
        if predicted[0].pts == 20 * 1024:  # of 10240 a second
            os.kill(os.getpid(), number)
        return merge(colorizer, outcome, predicted)

    monkeypatch.setattr(film, "_merged", merged)
    status, _, err = run(source, tmp_path / "out.mp4")
    assert status == 128 + number and len(err.splitlines()) == 1
    assert "interrupted at frame" in err and "of 40" in err
    assert list(tmp_path.iterdir()) == [source]
    assert not [t for t in threading.enumerate() if "ThreadPoolExecutor" in t.name]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_stopped_in_a_process_of_its_own(tmp_path, weights):  # noqa: F811 (the fixture)
    """Nothing is under the final name at any time; Ctrl-C leaves nothing, though threads run."""
    source, target = make(tmp_path / "in.mp4", 600), tmp_path / "out.mp4"
    command = [sys.executable, ROOT / "colorize.py", source, target, "--weights", weights]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while sum(path.stat().st_size > 10_000 for path in tmp_path.glob(".*.tmp")) == 0:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    assert not target.exists()  # so a kill would leave none
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and b"interrupted at frame" in error
    assert len(error.splitlines()) == 1 and list(tmp_path.iterdir()) == [source]
