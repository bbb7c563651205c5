"""The frames of a film on their way from file to encoder, in stages that overlap.

One thread decodes, one predicts colour and steadies it, some join it to the frames, and whoever
asks for them encodes. Each stage is some frames ahead of the next, so memory does not grow with
length.
What is not picture (sound, subtitles) runs along with the frame that it came before.
"""

import heapq
import threading
import time
from collections import defaultdict, deque
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

from colorjax.colorizer import Colorizer
from colorjax.media.temporal import Steady

BATCH = 8  # frames that the network takes at a time
# Containers whose headers say how long the film is, so that one which breaks off is noticed.
_PROMISING = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "asf", "flv")
_NO_TIME = -(1 << 62)
_BACK = 1.0  # seconds; times that fall back by more have started anew
# FFmpeg's names of a colour matrix → swscale's, which knows BT.601 by one of its two names alone.
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_LOCK = threading.Lock()


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
    pixels: np.ndarray  # H W if it is grey, else H W 3
    before: list[Any]  # packets of other streams that came before it


# A frame, its ab `h w 2`, and what of that it fills, as `Colorizer.merge` takes them.
Coloured = tuple[Frame, np.ndarray, tuple[float, float]]


def decoded(
    film: Any,
    video: Any,
    others: list[Any],
    shape: tuple[int, int],
    after: list[Any],
    outcome: Outcome,
) -> Generator[Frame]:
    """Every frame, upright, of a shape before that, with the packets of other streams before it.

    Those behind the last frame are added to `after`.
    """
    # AVI knows no times of frames but by their order, and what a decoder makes of it is shuffled.
    shuffled = 8 if film.format.name == "avi" and video.codec_context.has_b_frames else 0
    step, last = max(1, round(1 / (video.guessed_rate or 25) / video.time_base)), None
    for frame in _in_order(_read(film, video, others, shape, after, outcome), shuffled):
        pts = frame.pts
        if pts == _NO_TIME or (last is not None and pts <= last):  # or not increasing: made up
            pts = 0 if last is None else last + step
        yield replace(frame, pts=pts, duration=frame.duration or step)
        last = pts


def _in_order(frames: Iterator[Frame], window: int) -> Iterator[Frame]:
    """The same frames; their times rise, if none is more than a window from its place."""
    waiting, times = deque(), []
    for frame in frames:
        waiting.append(frame)
        heapq.heappush(times, frame.pts)
        if len(waiting) > window:
            yield replace(waiting.popleft(), pts=heapq.heappop(times))
    while waiting:
        yield replace(waiting.popleft(), pts=heapq.heappop(times))


def _read(
    film: Any,
    video: Any,
    others: list[Any],
    shape: tuple[int, int],
    after: list[Any],
    outcome: Outcome,
) -> Iterator[Frame]:
    """As `decoded`, with times as they are."""
    from av.error import FFmpegError

    packets, before, reached, times = film.demux(video, *others), [], 0.0, _Times()
    while True:
        pictures = []
        try:
            with outcome.working("decode"):
                if (packet := next(packets, None)) is None:
                    break
                times.set(packet)
                outcome.damaged += packet.is_corrupt
                if packet.stream is video:
                    decoded = packet.decode()
                    outcome.damaged += sum(frame.is_corrupt for frame in decoded)
                    pictures = [_pixels(frame, shape) for frame in decoded]
        except FFmpegError:
            outcome.damaged += 1
            continue
        if packet.pts is not None:
            reached = max(reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream is not video and packet.dts is not None:
            before.append(packet)
        for pts, duration, pixels in pictures:
            yield Frame(_NO_TIME if pts is None else pts, duration, pixels, before)
            before = []
    after += before
    promised = _promised(film, [video, *others])
    if reached < promised - 0.5:
        outcome.ended = f"it breaks off at {reached:.1f} of {promised:.1f} s"


class _Times:
    """Goes on with the time where a film's own starts anew, as in two that were joined."""

    def __init__(self):
        self._ends: dict[int, float] = {}
        self._shift = 0.0

    def set(self, packet: Any) -> None:
        if packet.dts is None:
            return
        unit, own = float(packet.time_base), packet.stream_index
        start = packet.dts * unit + self._shift
        if own in self._ends and start < self._ends[own] - _BACK:
            self._shift += max(self._ends.values()) - start
        if self._shift:
            for name in ("dts", "pts"):
                if (value := getattr(packet, name)) is not None:
                    setattr(packet, name, value + round(self._shift / unit))
        self._ends[own] = (packet.dts + (packet.duration or 0)) * unit


def _promised(film: Any, streams: list[Any]) -> float:
    """When the film ends by its header, in seconds; 0 if that does not say."""
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
        ends = [((film.start_time or 0) + (film.duration or 0)) / 1e6]
    return float(max(ends, default=0))


def _pixels(frame: Any, shape: tuple[int, int]) -> tuple[int | None, int, np.ndarray]:
    """A frame's time, duration and pixels, upright: `H W` if it is grey, else `H W 3`."""
    from av.video.reformatter import ColorRange, Interpolation

    tag = frame.colorspace  # without one it is what players take it for, by its size
    matrix = _MATRICES.get(int(tag), 1 if shape[0] >= 720 else 5)
    rgb = frame.reformat(
        shape[1],
        shape[0],
        "rgb24",
        src_colorspace=matrix,
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
    ).to_ndarray()
    grey = rgb[..., 1]
    if (rgb[..., 0] == grey).all() and (rgb[..., 2] == grey).all():
        rgb = grey
    upright = np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90)))
    return frame.pts, frame.duration, upright


def predicted(
    colorizer: Colorizer, frames: Generator[Frame], outcome: Outcome
) -> Generator[Coloured]:
    """Give each frame its colour, a batch of them at a time."""
    steady = Steady()
    with closing(frames):
        while group := list(islice(frames, BATCH)):
            with outcome.working("network"):
                small = [colorizer.to_network_input(frame.pixels) for frame in group]
                lightness = np.stack([light for light, _ in small])
                # Always a whole batch, if need be with copies: compiled but once.
                filled = np.resize(lightness, (BATCH, *lightness.shape[1:]))
                colours = list(map(steady, lightness, colorizer.predict(filled)[0]))
            for frame, ab in zip(group, colours, strict=True):
                yield frame, ab, small[0][1]


def joined(
    colorizer: Colorizer, context: Any, outcome: Outcome, coloured: Coloured
) -> tuple[list[Any], Any]:
    """Packets before a frame, and the frame in colour, ready for the encoder."""
    from av import VideoFrame
    from av.video.reformatter import ColorRange, Interpolation

    frame, ab, filled = coloured
    with outcome.working("colour"):
        rgb = colorizer.merge(frame.pixels, ab, filled)
        picture = VideoFrame.from_ndarray(rgb, "rgb24").reformat(
            format=context.pix_fmt,
            dst_colorspace=1,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
        )
    picture.pts, picture.duration, picture.time_base = frame.pts, frame.duration, context.time_base
    return frame.before, picture
