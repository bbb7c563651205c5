"""The frames of a film on their way from file to encoder, in stages that overlap.

One thread decodes, one predicts colour and steadies it, two join it to the frames, and whoever asks
for them encodes. Each stage is some frames ahead of the next, so memory does not grow with length.
What is not picture (sound, subtitles) runs along with the frame that it came before.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice, repeat
from typing import Any

import numpy as np

from colorjax.colorizer import Colorizer
from colorjax.steady import Steady

BATCH = 8  # frames that the network takes at a time
_AHEAD = 8  # frames that a stage may be ahead of the next
# Containers whose headers say how long the film is, so that one which breaks off is noticed.
_PROMISING = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "asf")
_LOCK = threading.Lock()


@dataclass
class Outcome:
    """What became of a film."""

    frames: int = 0
    notes: list[str] = field(default_factory=list)  # what could not be kept, one line each
    broken: str = ""  # where and how it ended, if that was before its end
    # Seconds that each stage worked.
    busy: dict[str, float] = field(default_factory=lambda: defaultdict(float))

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


# A frame, its ab `h w 2`, and what of that it fills, as `Colorizer.join` takes them.
Coloured = tuple[Frame, np.ndarray, tuple[float, float]]


def overlapped(function: Callable, items: Iterable, threads: int) -> Generator:
    """`map` by threads of its own, in order, some items ahead of whoever asks.

    Closed early, it waits for its threads, then closes the items: a film must not be closed while
    a stage before still reads from it.
    """
    pool, pending = ThreadPoolExecutor(threads), deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        if isinstance(items, Generator):
            items.close()


def ahead(items: Generator) -> Generator:
    """The same items, made by a thread of its own before they are asked for."""
    end = object()
    with closing(items), closing(overlapped(lambda _: next(items, end), repeat(0), 1)) as steps:
        yield from iter(lambda: next(steps), end)


def decoded(
    film: Any, video: Any, packets: Iterator[Any], shape: tuple[int, int], after: list[Any],
    outcome: Outcome,
) -> Generator[Frame]:  # fmt: skip
    """Every frame, upright, of a shape before that, with the packets of other streams before it.

    Those behind the last frame are added to `after`.
    """
    from av.error import FFmpegError

    step = max(1, round(1 / (video.guessed_rate or 25) / video.time_base))
    last, reached, damaged = None, 0.0, 0
    before: list[Any] = []
    while damaged < 1000:  # beyond, the reader is stuck
        frames = []
        try:
            with outcome.working("decode"):
                if (packet := next(packets, None)) is None:
                    break
                if packet.stream is video:
                    frames = [_pixels(frame, shape) for frame in packet.decode()]
        except FFmpegError:
            damaged += 1
            continue
        if packet.pts is not None:
            reached = max(reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream is not video and packet.dts is not None:
            before.append(packet)
        for pts, duration, pixels in frames:
            # Times that are missing or do not increase are made up; all others stay.
            if pts is None or (last is not None and pts <= last):
                pts = 0 if last is None else last + step
            yield Frame(pts, duration or step, pixels, before)
            last, before = pts, []
    after += before
    promised = ((film.start_time or 0) + (film.duration or 0)) / 1e6
    if film.format.name == "avi":  # its duration is made to fit what is left of the file
        promised = float(video.frames * step * video.time_base)
    if damaged:
        outcome.broken = f"{damaged} of its parts could not be read"
    if film.format.name in _PROMISING and reached < promised - 0.5:
        outcome.broken = f"it breaks off at {reached:.1f} of {promised:.1f} s"


def _pixels(frame: Any, shape: tuple[int, int]) -> tuple[int | None, int, np.ndarray]:
    """A frame's time, duration and pixels, upright: `H W` if it is grey, else `H W 3`."""
    from av.video.reformatter import ColorRange, Interpolation

    tag = frame.colorspace  # without one it is what players take it for, by its size
    matrix = tag if tag in (1, 4, 5, 7, 9) else 1 if shape[0] >= 720 else 5
    rgb = frame.reformat(
        shape[1], shape[0], "rgb24", src_colorspace=matrix, dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
    ).to_ndarray()  # fmt: skip
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
                small = [colorizer.shrink(frame.pixels) for frame in group]
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
        rgb = colorizer.join(frame.pixels, ab, filled)
        picture = VideoFrame.from_ndarray(rgb, "rgb24").reformat(
            format=context.pix_fmt, dst_colorspace=1, dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
        )  # fmt: skip
    picture.pts, picture.duration, picture.time_base = frame.pts, frame.duration, context.time_base
    return frame.before, picture
