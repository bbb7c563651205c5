"""A film → the same in colour, in two passes.

First its pictures: decoded, coloured and encoded as H.264, with their own times, into a file of
their own. Then that stream is written beside the film's other streams (`remux`).

The first pass works in stages that overlap, each some frames ahead of the next, so memory does not
grow with length: one thread decodes, one predicts colour and filters it over time, some merge it
with the frames, and whoever asks encodes.
"""

import os
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from colorjax.colorizer import Colorizer
from colorjax.media import files, remux
from colorjax.media.demux import (
    FilmError,
    Frame,
    Outcome,
    first_frame,
    frames,
    open_film,
    other_streams,
)
from colorjax.media.film_hints import FilmHints
from colorjax.media.overlap import map_ahead, prefetch
from colorjax.media.temporal import TemporalFilter

OUTPUT_SUFFIXES = tuple(remux.CONTAINERS)  # that hold H.264 and exact times of frames
FILM_SUFFIXES = (
    *OUTPUT_SUFFIXES,
    *".3gp .asf .avi .dv .flv .m2ts .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv .y4m".split(),
)
BATCH = 8  # frames that the network takes at a time
_THREADS = max(2, min(os.cpu_count() or 2, 6))  # that merge colour with frames, the most work


def colorize_film(
    colorizer: Colorizer,
    source: str | Path,
    target: str | Path,
    crf: float = 16,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    hints: FilmHints | None = None,
) -> Outcome:
    """Colour a film; the file is written whole, or not at all.

    Args:
        colorizer: of the network.
        source: any film that PyAV reads.
        target: `.mp4`, `.m4v`, `.mov` or `.mkv`.
        crf: H.264's constant rate factor, from 0 (lossless but for 4:2:0) to 51 (worst).
        overwrite: replace an existing file.
        progress: called with the number of frames done, and of all as far as it is known.
        hints: colours that are known, fresh for each film.

    Raises:
        FilmError: the film cannot be read or has no frames, or the target cannot hold its
            subtitles.
        files.FileError: the target cannot be written.
    """
    source, target = Path(source), Path(target)
    files.check_output(target, overwrite, OUTPUT_SUFFIXES)
    film, video = open_film(source)
    from av.error import ArgumentError, FFmpegError, InvalidDataError

    outcome = Outcome()
    whole, pictures = (target.with_name(f".{secrets.token_hex(8)}.tmp") for _ in range(2))
    try:
        with film:
            total = video.frames or round((film.duration or 0) / 1e6 * (video.guessed_rate or 25))
            first = first_frame(source)
            _note_losses(film, video, target, first, outcome)
            begin = Fraction(first.pts * video.time_base)
            trial = _picture(np.broadcast_to(np.uint8(128), (*first.pixels.shape[:2], 3)))
            list(_encode(pictures, video, crf, [(first, trial)], Outcome()))
            plan = remux.plan(source, target, whole, pictures, begin, outcome)

            stage = prefetch(frames(source, outcome))
            if hints:
                predicted = _hinted(colorizer, stage, outcome, hints, video.time_base)
            else:
                predicted = _predicted(colorizer, stage, outcome)
            stage = prefetch(predicted)
            merge = partial(_merged, colorizer, outcome)
            with closing(map_ahead(merge, stage, _THREADS)) as coloured:
                for _ in _encode(pictures, video, crf, coloured, outcome):
                    outcome.frames += 1
                    progress(outcome.frames, max(total, outcome.frames))
        try:
            _, refused = remux.remux(pictures, begin, source, whole, plan)
        except (ArgumentError, InvalidDataError):  # some later packet; the pictures took hours
            outcome.note(f"its sound and subtitles are left out: {target.suffix} did not take them")
            _, refused = remux.remux(pictures, begin, source, whole, replace(plan, codecs={}))
        outcome.damaged += refused
        with open(whole, "rb") as file:
            os.fsync(file.fileno())
        files.publish(whole, target, overwrite)
    except FFmpegError as error:
        raise FilmError(f"{target} could not be written: {error.strerror}") from error
    finally:
        for path in (whole, pictures):
            path.unlink(missing_ok=True)
    return outcome


def _note_losses(film: Any, video: Any, target: Path, first: Frame, outcome: Outcome) -> None:
    """Note what of a film is known from the start not to be kept."""
    fonts = film.streams.attachments if target.suffix.lower() == ".mkv" else ()
    left = len(film.streams) - 1 - len(other_streams(film)) - len(fonts)
    context = video.codec_context
    height, width = first.pixels.shape[:2]
    bits = context.format.components[0].bits if context.format else 8
    for holds, line in (
        (left, f"{left} of its streams are left out: further pictures, data, unknown kinds"),
        (bits > 8, f"its {bits} bits a sample become 8"),
        (context.color_trc in (16, 18), "its high dynamic range is taken for the common one"),
        (
            width % 2 or height % 2,
            "its size is odd: written as 4:4:4, which some players do not show",
        ),
    ):
        if holds:
            outcome.note(line)


def _predicted(
    colorizer: Colorizer, frames: Generator[Frame], outcome: Outcome
) -> Generator[tuple[Frame, np.ndarray, tuple[float, float]]]:
    """Predict each frame's ab `h w 2`, a batch at a time; with what of that it fills."""
    steady = TemporalFilter()
    with closing(frames):
        while group := list(islice(frames, BATCH)):
            with outcome.working("network"):
                small = [colorizer.to_network_input(frame.pixels) for frame in group]
                lightness = np.stack([light for light, _ in small])
                # Always a whole batch, if need be with copies: compiled but once.
                whole = np.resize(lightness, (BATCH, *lightness.shape[1:]))
                colours = list(map(steady, lightness, colorizer.predict(whole)))
            for frame, ab in zip(group, colours, strict=True):
                yield frame, ab, small[0][1]


def _hinted(
    colorizer: Colorizer,
    frames: Generator[Frame],
    outcome: Outcome,
    hints: FilmHints,
    time_base: Fraction,
) -> Generator[tuple[Frame, np.ndarray, tuple[float, float]]]:
    """Predict a frame at a time and add the hints' colour, before it is filtered."""
    steady, first = TemporalFilter(), None
    with closing(frames):
        for frame in frames:
            first = frame.pts if first is None else first
            with outcome.working("network"):
                seen = colorizer.analyze(frame.pixels)
                until = float((frame.pts + frame.duration - first) * time_base)
                size = frame.pixels.shape[0], frame.pixels.shape[1]
                ab = hints(seen, size, until, steady.is_cut(seen.lightness))
                ab = steady(seen.lightness, ab)
            yield frame, ab, seen.content_fraction


def _merged(
    colorizer: Colorizer,
    outcome: Outcome,
    predicted: tuple[Frame, np.ndarray, tuple[float, float]],
) -> tuple[Frame, Any]:
    """Merge a frame with its colour, ready for the encoder."""
    frame, ab, content_fraction = predicted
    with outcome.working("colour"):
        return frame, _picture(colorizer.merge(frame.pixels, ab, content_fraction))


def _picture(rgb: np.ndarray) -> Any:
    """Convert pixels `H W 3` to YCbCr of BT.709, 16…235: 4:2:0, or 4:4:4 if a side is odd."""
    from av import VideoFrame
    from av.video.reformatter import ColorRange, Interpolation

    odd = rgb.shape[0] % 2 or rgb.shape[1] % 2
    return VideoFrame.from_ndarray(rgb, "rgb24").reformat(
        format="yuv444p" if odd else "yuv420p",
        dst_colorspace=1,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
    )


def _encode(
    path: Path, video: Any, crf: float, pictures: Iterable[tuple[Frame, Any]], outcome: Outcome
) -> Iterator[Frame]:
    """Write pictures as H.264, like a film's video but upright; yield each frame when it is in.

    The file is a QuickTime one, which keeps times in any unit exactly.
    """
    import av

    with av.open(str(path.absolute()), "w", format="mov") as output:
        stream: Any = None
        for frame, picture in pictures:
            with outcome.working("encode"):
                if stream is None:
                    stream = output.add_stream("libx264", rate=video.guessed_rate or 25)
                    context = stream.codec_context
                    context.width, context.height = picture.width, picture.height
                    context.pix_fmt, context.time_base = picture.format.name, video.time_base
                    # As faithful at crf 16 as the default preset is at 18, in two fifths of its
                    # time.
                    context.options = {"crf": str(crf), "preset": "veryfast"}
                    if ratio := video.sample_aspect_ratio:
                        context.sample_aspect_ratio = 1 / ratio if frame.turned else ratio
                    context.color_range = 1  # 16…235, as tagged
                    context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
                picture.pts, picture.duration = frame.pts, frame.duration
                picture.time_base = video.time_base
                output.mux(stream.encode(picture))
            yield frame
        output.mux(stream.encode(None))
