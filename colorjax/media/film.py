"""A film → the same in colour, as H.264: its size and times kept, its sound copied, no flicker."""

import io
import os
import secrets
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

from colorjax.colorizer import Colorizer
from colorjax.media import files, frames
from colorjax.media.overlap import map_ahead, prefetch

_CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
OUTPUT_SUFFIXES = tuple(_CONTAINERS)  # of containers that hold H.264 and exact times of frames
FILM_SUFFIXES = (
    *OUTPUT_SUFFIXES,
    *".3gp .asf .avi .dv .flv .m2ts .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv .y4m".split(),
)

_THREADS = max(2, min(os.cpu_count() or 2, 6))  # that join colour to frames, the most work

_CONTAINERS_OWN = ("major_brand", "minor_version", "compatible_brands", "encoder")


class FilmError(ValueError):
    """A film cannot be read, or not be written as asked; its message is one sentence."""


def _encoder(output: Any, video: Any, first: Any, crf: float) -> Any:
    """The output's stream of pictures, for upright frames like the first."""
    turned = round(first.rotation / 90) % 2
    width, height = (first.height, first.width) if turned else (first.width, first.height)
    stream = output.add_stream("libx264", rate=video.guessed_rate or 25)
    context = stream.codec_context
    context.width, context.height = width, height
    context.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
    context.time_base = video.time_base
    # As faithful at crf 16 as the default preset is at 18, in two fifths of its time.
    context.options = {"crf": str(crf), "preset": "veryfast"}
    ratio = video.sample_aspect_ratio
    if ratio:
        context.sample_aspect_ratio = 1 / ratio if turned else ratio
    context.color_range = 1  # 16…235, as tagged
    context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
    return stream


def open_film(path: Path) -> tuple[Any, Any]:
    """A film and its stream of pictures."""
    try:
        import av.error
        import av.logging
        from av.stream import Disposition
    except ImportError:
        raise FilmError("films need PyAV: pip install -e '.[video]'") from None
    av.logging.set_level(None)
    if "libx264" not in av.codecs_available:
        raise FilmError("this PyAV was built without H.264's encoder, libx264: install PyAV's own")
    if not path.exists():
        raise FilmError(f"{path}: there is no such file")
    try:
        film = av.open(str(path.absolute()))  # a name may hold a colon, as addresses do
    except (av.error.FFmpegError, ValueError):
        raise FilmError(f"{path} is no film, or it is damaged") from None
    pictures = [
        stream
        for stream in film.streams.video  # but for the cover of a record
        if not stream.disposition & Disposition.attached_pic
    ]
    wrong = (
        "is a picture, not a film"
        if film.format.name.endswith(("_pipe", "image2"))
        else "holds no pictures"
        if not pictures
        else ""
    )
    best: Any = film.streams.best("video")
    video: Any = best if best in pictures else next(iter(pictures), None)
    if not wrong and video.codec_context is None:
        wrong = "holds pictures of an unknown kind"
    if wrong:
        film.close()
        raise FilmError(f"{path} {wrong}")
    video.thread_type = "AUTO"
    return film, video


def _others(film: Any) -> list[Any]:
    """The streams that are copied."""
    return [
        stream
        for stream in film.streams
        if stream.type in ("audio", "subtitle") and stream.codec_context
    ]


def _first(path: Path) -> tuple[Any, list[str]]:
    """The first frame, and what of the film is not kept, a line each."""
    film, video = open_film(path)
    import av.error

    with film:
        frame: Any = None
        for packet in film.demux(video):
            with suppress(av.error.FFmpegError):
                if frame := next(iter(packet.decode()), None):
                    break
        left = len(film.streams) - len(_others(film)) - 1
    if frame is None:
        raise FilmError(f"{path} holds no frames that can be read")
    bits = frame.format.components[0].bits
    return frame, [
        note
        for holds, note in (
            (left, f"{left} of its streams are left out: further pictures, data, unknown kinds"),
            (bits > 8, f"its {bits} bits a sample become 8"),
            (frame.color_trc in (16, 18), "its high dynamic range is taken for the common one"),
            (frame.interlaced_frame, "it is interlaced: its frames keep their combs"),
            (
                frame.width % 2 or frame.height % 2,
                "its size is odd: written as 4:4:4, which some players do not show",
            ),
        )
        if holds
    ]


def _holds(container: str, stream: Any) -> bool:
    """Whether a container can hold a stream: its header is tried, in memory."""
    import av.error

    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def colorize_film(
    colorizer: Colorizer,
    source: str | Path,
    target: str | Path,
    crf: float = 16,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> frames.Outcome:
    """Colour a film; the file is written whole, or not at all.

    Args:
        colorizer: of the network.
        source: any film that PyAV reads.
        target: `.mp4`, `.m4v`, `.mov` or `.mkv`.
        crf: H.264's constant rate factor, from 0 (lossless but for 4:2:0) to 51 (worst).
        overwrite: replace an existing file.
        progress: called with the number of frames done, and of all as far as it is known.

    Raises:
        FilmError: the film cannot be read or has no frames, or the target cannot hold its sound.
        files.FileError: the target cannot be written.
    """
    source, target = Path(source), Path(target)
    files.check_output(target, overwrite, OUTPUT_SUFFIXES)
    film, video = open_film(source)
    import av.error

    with film:
        container, others = _CONTAINERS[target.suffix.lower()], _others(film)
        for stream in others:
            if not _holds(container, stream):
                able = [suffix for suffix, other in _CONTAINERS.items() if _holds(other, stream)]
                raise FilmError(
                    f"{source}: {target.suffix} cannot hold its {stream.type} "
                    f"({stream.codec_context.name}): "
                    + (f"write {able[-1]}" if able else "no output can")
                )
        first, notes = _first(source)
        outcome, after = frames.Outcome(notes=notes), []
        total = video.frames or round((film.duration or 0) / 1e6 * (video.guessed_rate or 25))
        temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            with av.open(str(temporary.absolute()), "w", format=container) as output:
                stream = _encoder(output, video, first, crf)
                copies = {other.index: output.add_stream_from_template(other) for other in others}
                for other in others:
                    copies[other.index].metadata.update(other.metadata)
                    copies[other.index].disposition = other.disposition
                output.metadata.update(
                    {
                        key: value
                        for key, value in film.metadata.items()
                        if key not in _CONTAINERS_OWN
                    }
                )
                output.set_chapters(film.chapters())

                def copy(packets: list[Any]) -> None:
                    for packet in packets:
                        packet.stream = copies[packet.stream.index]
                        try:
                            output.mux(packet)
                        except (av.error.ArgumentError, av.error.InvalidDataError):
                            outcome.damaged += 1  # the packet's fault; a disk's is another error

                shape = first.height, first.width
                stage = prefetch(frames.decoded(film, video, others, shape, after, outcome))
                stage = prefetch(frames.predicted(colorizer, stage, outcome))
                join = partial(frames.joined, colorizer, stream.codec_context, outcome)
                with closing(map_ahead(join, stage, _THREADS)) as coloured:
                    for before, frame in coloured:
                        with outcome.working("encode"):
                            copy(before)
                            output.mux(stream.encode(frame))
                        outcome.frames += 1
                        progress(outcome.frames, max(total, outcome.frames))
                copy(after)
                output.mux(stream.encode(None))
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            files.publish(temporary, target, overwrite)
        except av.error.FFmpegError as error:
            raise FilmError(f"{target} could not be written: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)
    return outcome
