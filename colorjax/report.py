"""What a run shows of itself: progress, sample grids, the strip of its validations, its log.

Pictures are sRGB in 0…1, written as 8-bit PNG.
"""

import json
import sys
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from colorjax import checkpoint, color

STRIP = 8  # validations that the strip shows at most, beside grey and truth


class Bar:
    """A progress bar on a terminal, a plain line every ten seconds elsewhere."""

    def __init__(self, title: str, unit: str = ""):
        """Name what begins now, and in what its pace is shown, as "frames/s"."""
        self._title, self._unit, self._bar, self.done, self.total = title, unit, None, 0, 0
        self._began = time.monotonic()
        self._first, self._start, self._last = -1, 0.0, 0.0

    def update(self, done: int, total: int, text: str = "") -> None:
        """Show how far it has come."""
        now = time.monotonic()
        if self._first < 0:
            self._first, self._start, self._last = done, now, now
        self.done, self.total = done, total
        if self._unit:
            text = f"{done / max(now - self._began, 1e-9):.1f} {self._unit}"
        if sys.stdout.isatty():
            if self._bar is None:
                from rich import progress

                columns = ["{task.description}", progress.BarColumn()]
                columns += [progress.MofNCompleteColumn(), "{task.fields[text]}"]
                self._bar = progress.Progress(*columns, progress.TimeRemainingColumn(), "left")
                self._bar.add_task(self._title, completed=done, total=total, text=text)
                self._bar.start()
            self._bar.update(self._bar.task_ids[0], completed=done, text=text)
        elif now - self._last >= 10:
            self._last = now
            left = (now - self._start) / max(done - self._first, 1) * (total - done)
            print(f"{self._title} {done}/{total}  {text}  {left:.0f} s left", flush=True)

    def close(self) -> None:
        """Take the bar off the screen; the next update brings it back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _write(path: Path, picture: np.ndarray) -> None:
    checkpoint.replace_file(path, iio.imwrite("<bytes>", picture, extension=".png"))


def _column(pictures: np.ndarray) -> np.ndarray:
    """Stack `N S S 3` in 0…1 to one picture, N of them below each other, a white gap between."""
    pictures = np.round(255 * np.asarray(pictures)).astype(np.uint8)
    return np.concatenate(
        list(np.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255))
    )


def grey(truth: np.ndarray) -> np.ndarray:
    """Take the colour from sRGB pictures `… 3` in 0…1; their lightness stays."""
    grey = color.lightness_to_grey(color.lightness(truth))
    return np.repeat(np.asarray(grey)[..., None], 3, axis=-1)


def write_columns(path: Path, columns: list[np.ndarray]) -> None:
    """Write a PNG: each of the columns holds `N S S 3` pictures in 0…1, a row a photograph."""
    _write(path, np.concatenate([_column(pictures) for pictures in columns], axis=1))


def sample_grid(directory: Path, step: int, truth: np.ndarray, prediction: np.ndarray) -> None:
    """Write `samples/step-….png`: a row a photograph, its grey, prediction and truth.

    `strip.png` is written anew: the same photographs, a column for each of up to eight validations
    (the paper's figure 3.2), grey first and the truth last.
    """
    samples = directory / "samples"
    samples.mkdir(exist_ok=True)
    first, last = _column(grey(truth)), _column(truth)
    grid = np.concatenate([first, _column(prediction), last], axis=1)
    _write(samples / f"step-{step:07}.png", grid)
    paths = sorted(samples.glob("step-*.png"))
    chosen = np.unique(np.linspace(0, len(paths) - 1, STRIP).round().astype(int))
    width = first.shape[1]
    columns = [iio.imread(paths[index])[:, width : 2 * width] for index in chosen]
    _write(directory / "strip.png", np.concatenate([first, *columns, last], axis=1))


def log(directory: Path, **values: float) -> None:
    """Add a line to `log.jsonl`."""
    with open(directory / "log.jsonl", "a") as file:
        print(json.dumps(values), file=file)


def cut_back(directory: Path, step: int) -> None:
    """Remove from log and samples what they say of steps after the one to resume from."""
    log = directory / "log.jsonl"
    if log.exists():
        lines = log.read_text().splitlines(keepends=True)
        # The last one may have been cut off in the middle of writing.
        kept = [x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= step]
        checkpoint.replace_file(log, "".join(kept).encode())
    for path in (directory / "samples").glob("step-*.png"):
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()
