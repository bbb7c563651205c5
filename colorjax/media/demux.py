"""Films as FFmpeg reads them: their streams, their packets in time, their frames upright."""

import heapq
import threading
import time
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

# Containers whose headers say how long the film is, so that one which breaks off is noticed.
_PROMISING = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "asf", "flv")
# FFmpeg's names of a colour matrix → swscale's, which knows BT.601 by one of its two names alone.
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_NO_TIME = -(1 << 62)
_BACK, _AHEAD = 1.0, 10.0  # seconds; a clock that jumps by more has started anew
_LOCK = threading.Lock()


class FilmError(ValueError):
    """A film cannot be read, or not be written as asked; its message is one sentence."""


@dataclass
class Outcome:
    """What became of a film."""

    frames: int = 0
    notes: list[str] = field(default_factory=list)  # what could not be kept, one line each
    damaged: int = 0  # parts of it, packets or frames, that could not be read or not wholly
    ended: str = ""  # where it ended, if that was before its end
    # Seconds that each stage worked.
    busy: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def broken(self) -> str:
        """What of the film could not be read, in words; nothing if all of it could."""
        parts = f"{self.damaged} of its parts could not be read whole" if self.damaged else ""
        return " and ".join(filter(None, (parts, self.ended)))

    def note(self, line: str) -> None:
        """Add a note that is not there yet."""
        if line not in self.notes:
            self.notes.append(line)

    @contextmanager
    def working(self, stage: str) -> Iterator[None]:
        """Count the time inside for a stage."""
        start = time.perf_counter()
        yield
        with _LOCK:
            self.busy[stage] += time.perf_counter() - start


@dataclass(frozen=True)
class Frame:
    """A picture of a film, upright."""

    pts: int  # in units of the stream's time base, as is the duration
    duration: int
    pixels: np.ndarray  # uint8, H W if it is grey, else H W 3
    turned: bool  # the film holds it lying on its side


def open_film(path: Path) -> tuple[Any, Any]:
    """Open a film and find its stream of pictures.

    Raises:
        FilmError: it is no film, or PyAV is missing.
    """
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
    best: Any = film.streams.best("video")
    video: Any = best if best in pictures else next(iter(pictures), None)
    if film.format.name.endswith(("_pipe", "image2")):
        wrong = "is a picture, not a film"
    elif video is None:
        wrong = "holds no pictures"
    elif video.codec_context is None:
        wrong = "holds pictures of an unknown kind"
    else:
        video.thread_type = "AUTO"
        return film, video
    film.close()
    raise FilmError(f"{path} {wrong}")


def other_streams(film: Any) -> list[Any]:
    """List the streams that are written beside the pictures."""
    return [
        stream
        for stream in film.streams
        if stream.type in ("audio", "subtitle") and stream.codec_context
    ]


def packets(film: Any, streams: list[Any], outcome: Outcome) -> Generator[Any]:
    """Read the packets of some streams; times go on where the film's clock starts anew.

    It does where recordings were joined by writing one behind the other. Pictures and sound tell:
    they follow on themselves, whereas subtitles overlap and pause.
    """
    from av.format import Flags

    starts: dict[int, float] = {}  # of each stream's last packet, in seconds
    end, shift = 0.0, 0.0
    ahead = _AHEAD if film.format.flags & Flags.ts_discont.value else inf
    for packet in film.demux(*streams):
        if packet.dts is None and packet.stream.type != "video":
            packet.dts = packet.pts
        if packet.dts is not None:
            unit, own = float(packet.time_base), packet.stream_index
            if packet.stream.type != "subtitle":
                start = packet.dts * unit + shift
                if own in starts and not starts[own] - _BACK <= start <= end + ahead:
                    outcome.note("its clock starts anew within: the parts follow without a gap")
                    shift, start = shift + end - start, end
                starts[own], end = start, max(end, start + (packet.duration or 0) * unit)
            if shift:
                packet.dts += round(shift / unit)
                packet.pts = None if packet.pts is None else packet.pts + round(shift / unit)
        yield packet


def frames(source: Path, outcome: Outcome) -> Generator[Frame]:
    """Decode every frame of a film, upright, in order of time, at the size of the first."""
    film, video = open_film(source)
    with film:
        # AVI knows no times of frames but by their order; what a decoder makes of it is shuffled.
        shuffled = 8 if film.format.name == "avi" and video.codec_context.has_b_frames else 0
        step, last = max(1, round(1 / (video.guessed_rate or 25) / video.time_base)), None
        for frame in _in_order(_decoded(film, video, outcome), shuffled):
            pts = frame.pts
            if pts == _NO_TIME:
                pts = 0 if last is None else last + step
            elif last is not None and pts <= last:  # half a frame later, so the next keeps its own
                pts = last + max(1, step // 2)
            yield replace(frame, pts=pts, duration=frame.duration or step)
            last = pts


def first_frame(source: Path) -> Frame:
    """Decode a film's first frame; FilmError if there is none."""
    with closing(frames(source, Outcome())) as found:
        for frame in found:
            return frame
    raise FilmError(f"{source} holds no frames that can be read")


def _in_order(frames: Iterable[Frame], window: int) -> Iterator[Frame]:
    """Order the times of frames, if none is more than a window from its place."""
    waiting, times = deque(), []
    for frame in frames:
        waiting.append(frame)
        heapq.heappush(times, frame.pts)
        if len(waiting) > window:
            yield replace(waiting.popleft(), pts=heapq.heappop(times))
    while waiting:
        yield replace(waiting.popleft(), pts=heapq.heappop(times))


def _decoded(film: Any, video: Any, outcome: Outcome) -> Iterator[Frame]:
    """Decode as `frames` does, with times as they are."""
    from av.error import FFmpegError

    streams, reached, like = [video, *other_streams(film)], 0.0, None
    source = packets(film, streams, outcome)
    while True:
        found = []
        try:
            with outcome.working("decode"):
                if (packet := next(source, None)) is None:
                    break
                outcome.damaged += packet.is_corrupt
                if packet.stream is video:
                    decoded = packet.decode()
                    outcome.damaged += sum(frame.is_corrupt for frame in decoded)
                    like = like or next(iter(decoded), None)
                    found = [upright(frame, like, outcome) for frame in decoded]
        except FFmpegError:
            outcome.damaged += 1
            continue
        if packet.pts is not None:
            reached = max(reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        yield from found
    promised = _promised(film, streams)
    if reached < promised - 0.5:
        outcome.ended = f"it breaks off at {reached:.1f} of {promised:.1f} s"


def _promised(film: Any, streams: list[Any]) -> float:
    """Read from the header when the film ends, in seconds; 0 if it does not say."""
    video = streams[0]
    if film.format.name not in _PROMISING:
        return 0.0
    if film.format.name == "avi":  # its duration is made to fit what is left of the file
        return float(video.frames / (video.guessed_rate or 25))
    ends = [
        ((stream.start_time or 0) + stream.duration) * stream.time_base
        for stream in streams
        if stream.duration
    ]
    if not ends and len(streams) == len(film.streams):  # no other stream could be the longest
        ends = [(film.duration or 0) / 1e6]  # from 0, or from the start: whichever is less
    return float(max(ends, default=0))


def upright(frame: Any, like: Any, outcome: Outcome) -> Frame:
    """Turn and size a decoded frame as the first of its film is; notes what is not kept."""
    from av.video.reformatter import ColorRange, Interpolation

    size, first = f"{frame.width} × {frame.height}", f"{like.width} × {like.height}"
    if size != first:
        outcome.note(f"its frames change from {first} to {size}: all are written as {first}")
    if frame.interlaced_frame:
        outcome.note(
            "it is interlaced: its frames keep their combs but lose the flag by which players hide "
            "them: deinterlace it before"
        )
    tag = frame.colorspace  # without one it is what players take it for, by its size
    rgb = frame.reformat(
        like.width,
        like.height,
        "rgb24",
        src_colorspace=_MATRICES.get(int(tag), 1 if like.height >= 720 else 5),
        dst_color_range=ColorRange.JPEG,
        # Without full chroma, 4:2:0 and its like come out darker by up to 2.3 of 255.
        interpolation=(Interpolation.BILINEAR if size == first else Interpolation.BICUBIC)
        | Interpolation.ACCURATE_RND
        | Interpolation.FULL_CHR_H_INT,
    ).to_ndarray()
    grey = rgb[..., 1]
    if (rgb[..., 0] == grey).all() and (rgb[..., 2] == grey).all():
        rgb = grey
        if frame.format.name.startswith("gray") and frame.color_range == ColorRange.MPEG:
            # Which swscale takes for full range, whatever its tag.
            given = frame.reformat(like.width, like.height, frame.format.name).to_ndarray()
            given = given / 2.0 ** (frame.format.components[0].bits - 8)
            rgb = np.clip(np.round((given - 16) * 255 / 219), 0, 255).astype(np.uint8)
    turns = round(like.rotation / 90)
    return Frame(
        pts=_NO_TIME if frame.pts is None else frame.pts,
        duration=frame.duration,
        pixels=np.ascontiguousarray(np.rot90(rgb, turns)),
        turned=turns % 2 == 1,
    )
