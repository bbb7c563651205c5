"""One frame of a film, to try hints on."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from colorjax.media.demux import FilmError, Outcome, open_film, upright


@dataclass(frozen=True)
class Frame:
    """A frame, upright, and where in the film it is; seconds from the first picture."""

    pixels: np.ndarray  # sRGB, uint8, H W if it is grey, else H W 3
    time: float
    duration: float


def read(path: Path, time: float | None = None) -> Frame:
    """Decode the frame at a time, or one a third into the film, where most have begun.

    Raises:
        FilmError: it is no film, or holds no frame there.
    """
    film, video = open_film(path)
    import av.error

    with film:
        start, opened = float((video.start_time or 0) * video.time_base), film.start_time or 0
        duration = max(0.0, ((film.duration or 0) + opened) / 1e6 - start)
        wanted = duration / 3 if time is None else min(max(time, 0.0), duration)
        with suppress(av.error.FFmpegError):
            film.seek(round((start + wanted) * 1e6))
        found = None
        with suppress(av.error.FFmpegError):  # a film that breaks off: the last that can be read
            for found in film.decode(video):
                if found.time is None or found.time - start >= wanted:
                    break
        if found is None:
            raise FilmError(f"{path} holds no frame that can be read")
        pixels = upright(found, found, Outcome()).pixels
        return Frame(pixels, max(0.0, (found.time or 0) - start), duration)
