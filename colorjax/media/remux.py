"""The second pass of a film: its coloured pictures beside its sound, subtitles and chapters.

FFmpeg copies their packets, all shifted by the film's one start time, so the output begins at 0.
Sound that the container cannot hold is encoded anew or left out; a trial finds out which.
"""

import heapq
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from colorjax.media.demux import FilmError, Outcome, open_film, other_streams, packets

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_CONTAINERS_OWN = ("major_brand", "minor_version", "compatible_brands", "encoder")
_TRIAL = 300  # packets of a film that are written for trial before any frame is coloured
_LAYOUTS = ("mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1")  # of 1 to 8 channels


@dataclass(frozen=True)
class Plan:
    """How a film's other streams are written beside its pictures."""

    format: str  # FFmpeg's name of the container; "tee" writes Matroska, too
    codecs: dict[int, str] = field(default_factory=dict)  # stream → its encoder, "" for a copy


def remux(
    pictures: Path,
    begin: Fraction,
    source: Path,
    target: Path,
    plan: Plan,
    most: int | None = None,
) -> tuple[int, int]:
    """Write coloured pictures beside a film's other streams.

    Args:
        pictures: a file that `_encode` wrote.
        begin: the time of its first frame in the film, in seconds.
        source: the film.
        target: the file to write, of any name.
        plan: what to do with each stream.
        most: packets of the film to read, for a trial.

    Returns:
        How many packets of the other streams were written, and how many the container refused.
    """
    import av
    from av.error import ArgumentError, InvalidDataError
    from av.format import Flags

    name = str(target.absolute())
    if plan.format == "tee":  # which reads a list of outputs
        name = "[f=matroska]" + "".join(f"\\{c}" if c in "\\'|[] " else c for c in name)
    film, shown = open_film(source)
    written, refused, last = 0, 0, {}
    with (
        film,
        av.open(str(pictures.absolute()), options={"ignore_editlist": "1"}) as coloured,
        av.open(name, "w", format=plan.format) as output,
    ):
        start = min(Fraction(max(film.start_time or 0, 0), 10**6), begin)
        output.metadata.update(
            {k: v for k, v in film.metadata.items() if k.lower() not in _CONTAINERS_OWN}
        )
        output.set_chapters(_chapters(film, start))
        video: Any = output.add_stream_from_template(coloured.streams.video[0], opaque=True)
        video.codec_context.framerate = shown.guessed_rate or 25
        video.metadata.update(
            {k: v for k, v in shown.metadata.items() if k in ("language", "title")}
        )
        video.disposition = shown.disposition
        streams = {
            index: _add(output, film.streams[index], codec) for index, codec in plan.codecs.items()
        }
        for font in film.streams.attachments if plan.format in ("matroska", "tee") else ():
            output.add_stream_from_template(font)
        output.start_encoding()
        step = 0 if output.format.flags & Flags.ts_nonstrict.value else 1

        def put(packet: Any, stream: Any) -> None:
            """Write a packet, in order where two of the source's times are the same."""
            unit = packet.time_base / stream.time_base
            dts, duration = round(packet.dts * unit), round((packet.duration or 0) * unit)
            pts = dts if packet.pts is None else round(packet.pts * unit)
            packet.time_base, packet.duration = stream.time_base, duration
            packet.dts = max(dts, last.get(stream.index, dts - 1) + step)
            packet.pts = max(pts, packet.dts)
            last[stream.index] = packet.dts
            packet.stream = stream
            output.mux(packet)

        rest = _rest(film, shown, streams, plan, start, most)
        own = ((packet, video) for packet in _begun_at(begin - start, coloured.demux(video=0)))
        by_time = heapq.merge(own, rest, key=lambda pair: float(pair[0].dts * pair[0].time_base))
        for packet, stream in by_time:
            try:
                put(packet, stream)
                written += stream is not video
            except (ArgumentError, InvalidDataError):
                if stream is video:
                    raise
                refused += 1  # the packet's fault; a disk's is another error
    return written, refused


def _begun_at(seconds: Fraction, packets: Iterable[Any]) -> Iterator[Any]:
    """Shift packets that have a time, so that the first is shown then."""
    ticks = None
    for packet in packets:
        if packet.dts is not None:
            if ticks is None:
                ticks = round(seconds / packet.time_base - packet.pts)
            packet.dts += ticks
            packet.pts += ticks
            yield packet


def _rest(
    film: Any,
    shown: Any,
    streams: dict[int, Any],
    plan: Plan,
    start: Fraction,
    most: int | None,
) -> Iterator[tuple[Any, Any]]:
    """Read packets of the film's other streams, with the streams that they go to."""
    source = packets(film, [shown, *other_streams(film)], Outcome()) if streams else ()
    transcoders = {
        index: _Transcoder(film.streams[index], streams[index])
        for index, codec in plan.codecs.items()
        if codec
    }
    for packet in islice(source, most):
        stream = streams.get(packet.stream_index)
        if stream is None or packet.dts is None:
            continue
        ticks = round(start / packet.time_base)
        packet.dts -= ticks
        packet.pts = None if packet.pts is None else packet.pts - ticks
        if packet.stream_index in transcoders:
            yield from ((other, stream) for other in transcoders[packet.stream_index](packet))
        else:
            yield packet, stream
    for index, sound in transcoders.items():
        yield from ((other, streams[index]) for other in sound(None))


class _Transcoder:
    """Sound that is decoded and encoded anew."""

    def __init__(self, given: Any, stream: Any):
        """Take a stream of a film, and that of the output, whose encoder is open."""
        from av import AudioResampler

        self._given, self._stream, context = given, stream, stream.codec_context
        self._end = 0  # of what was encoded, in samples
        size = context.frame_size or None
        self._resampler = AudioResampler(context.format, context.layout, context.rate, size)

    def __call__(self, packet: Any) -> list[Any]:
        """Encode what a packet holds; None, for the end, gives what is left."""
        from av.error import FFmpegError

        frames, encoded = [], []
        with suppress(FFmpegError):  # it was counted when the film was read
            frames = self._given.codec_context.decode(packet)
        for frame in (*frames, *([None] if packet is None else [])):
            for part in self._resampler.resample(frame):
                if part.pts is None:  # as of what a decoder gives last
                    part.pts = self._end
                self._end = part.pts + part.samples
                encoded += self._stream.encode(part)
        return encoded + (self._stream.encode(None) if packet is None else [])


def _add(output: Any, given: Any, codec: str) -> Any:
    """Add the output's stream for one of the film's, copied or encoded anew."""
    context, layout = given.codec_context, None
    if given.type == "audio" and context.layout.name.endswith(" channels"):  # as PCM's of AVI
        layout = _LAYOUTS[context.channels - 1] if context.channels <= len(_LAYOUTS) else None
    if layout:
        context.layout = layout
    if codec:
        stream = output.add_stream(codec, rate=context.sample_rate, layout=context.layout.name)
        if codec == "aac":
            stream.codec_context.bit_rate = 96000 * context.channels
    else:
        stream = output.add_stream_from_template(given, opaque=True)
        if layout:
            stream.codec_context.layout = layout
    stream.metadata.update(given.metadata)
    stream.disposition = given.disposition
    return stream


def _chapters(film: Any, start: Fraction) -> Any:
    """List a film's chapters, counted from its start."""
    found = []
    for chapter in film.chapters():
        ticks = round(start / chapter["time_base"])
        if chapter["end"] > ticks:
            times = {"start": max(0, chapter["start"] - ticks), "end": chapter["end"] - ticks}
            found.append(chapter | times)
    return found


def _encoders(context: Any) -> tuple[str, ...]:
    """List what sound may become: as it was decoded, then what any player plays."""
    wide = context.format and context.format.name.startswith(("s32", "dbl"))
    return ("pcm_s32le" if wide else "pcm_s16le", "aac")


def plan(
    source: Path, target: Path, temporary: Path, pictures: Path, begin: Fraction, outcome: Outcome
) -> Plan:
    """Find out how each of a film's streams can be written, by writing its first packets.

    Raises:
        FilmError: the target cannot hold subtitles that another container holds.
    """
    from av.error import FFmpegError

    container = CONTAINERS[target.suffix.lower()]

    def works(index: int, codec: str, container: str) -> bool:
        alone = Plan(container, {index: codec})
        try:
            written, refused = remux(pictures, begin, source, temporary, alone, _TRIAL)
        except (FFmpegError, ValueError):
            return False
        return refused <= written

    remux(pictures, begin, source, temporary, Plan(container))  # else no stream is at fault
    film, _ = open_film(source)
    with film:
        others = [
            (stream.index, stream.type, stream.codec_context) for stream in other_streams(film)
        ]
        # Tee would lose chapters.
        ways = (
            (container, "tee") if container == "matroska" and not film.chapters() else [container]
        )
        codecs, form = {}, container
        for index, kind, context in others:
            what = f"its {'sound' if kind == 'audio' else 'subtitles'} ({context.name})"
            if way := next((way for way in ways if works(index, "", way)), None):
                codecs[index], form = "", "tee" if way == "tee" else form
            elif kind == "audio":
                encoders = _encoders(context)
                if codec := next((c for c in encoders if works(index, c, container)), None):
                    codecs[index] = codec
                    outcome.note(f"{what} becomes {codec}: {target.suffix} cannot hold it")
            elif able := [s for s, other in CONTAINERS.items() if works(index, "", other)]:
                raise FilmError(f"{source}: {target.suffix} cannot hold {what}: write {able[-1]}")
            if index not in codecs:
                outcome.note(f"{what} is left out: {target.suffix} cannot hold it")
    return Plan(form, codecs)
