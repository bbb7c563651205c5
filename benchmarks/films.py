"""How fast films are coloured, where the time goes, and what H.264 adds to their lightness.

Films of a grainy scene that moves, with sound, of 640 × 360 and 1920 × 1080, or those named. Each
is coloured once before anything is timed. A stage's share is the time that it works (by its own
clock, waiting for a core included) over the time that all takes; stages overlap, so the shares add
up to more than one, and `colour` has two threads.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (0, 1)]

import timing

from colorjax import checkpoint, color, config, device
from colorjax.colorizer import Colorizer
from colorjax.media import demux, files
from colorjax.media.film import FilmError, colorize_film

SIZES = ((360, 640), (1080, 1920))
STAGES = ("decode", "network", "colour", "encode")


def make(path: Path, height: int, width: int, count: int) -> None:
    """A grey film of 25 frames/s: shapes that drift, grain, a tone."""
    import av

    random = np.random.default_rng(0)
    ground = np.zeros((height, width + 2 * count), np.float32)
    for cells, strength in ((8, 110), (40, 60), (200, 25)):
        coarse = Image.fromarray(random.random((cells, 2 * cells), np.float32))
        size = ground.shape[1], height
        ground += strength * np.asarray(coarse.resize(size, Image.Resampling.BICUBIC))
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        tone = out.add_stream("aac", rate=44100)
        for number in range(count):
            grain = random.normal(0, 4, (height, width)).astype(np.float32)
            grey = np.clip(ground[:, 2 * number :][:, :width] + grain, 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.repeat(grey[..., None], 3, axis=2), "rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        wave = np.sin(np.arange(44100 * count // 25) / 30, dtype=np.float32)[None]
        for start in range(0, wave.shape[1], 1024):
            part = np.ascontiguousarray(wave[:, start : start + 1024])
            sound = av.AudioFrame.from_ndarray(part, "fltp", "mono")
            sound.sample_rate, sound.pts, sound.time_base = 44100, start, Fraction(1, 44100)
            out.mux(tone.encode(sound))
        out.mux(tone.encode(None))


def error(source: Path, target: Path) -> tuple[float, float]:
    """Mean |ΔL*| between two films, and what 99 % of the pixels stay below; every tenth frame."""

    def lightness(path: Path):
        for number, frame in enumerate(demux.frames(path, demux.Outcome())):
            if number % 10 == 0:
                values = frame.pixels / np.float32(255)
                grey = values.ndim == 2
                yield color.grey_lightness(values) if grey else color.lightness(values)

    steps, total, counts = np.linspace(0, 100, 10001), 0.0, np.zeros(10000, np.int64)
    for a, b in zip(lightness(source), lightness(target), strict=True):
        away = np.abs(np.asarray(a - b))
        total += float(away.sum())
        counts += np.histogram(away, steps)[0]
    most = steps[1 + np.searchsorted(np.cumsum(counts), 0.99 * counts.sum())]
    return total / counts.sum(), float(most)


def measure(colorizer: Colorizer, source: Path, crf: float) -> dict:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as place:
        target = Path(place, "out.mkv")
        colorize_film(colorizer, source, target, crf)
        start = time.perf_counter()
        outcome = colorize_film(colorizer, source, target, crf, overwrite=True)
        seconds = time.perf_counter() - start
        mean, most = error(source, target)
        film, stream = demux.open_film(target)
        with film:
            size = f"{stream.width} × {stream.height}"
    return {
        "film": source.name,
        "size": size,
        "frames": outcome.frames,
        "frames_per_second": round(outcome.frames / seconds, 1),
        "shares": {stage: round(outcome.busy[stage] / seconds, 2) for stage in STAGES},
        "lightness_error": round(mean, 2),
        "lightness_error_99": round(most, 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def run(argv: list[str] | None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "films", nargs="*", type=Path, metavar="FILM", help="(default: two made up)"
    )
    parser.add_argument("--weights", metavar="FILE", help="(default: those in the package)")
    parser.add_argument("--frames", type=int, default=200, help="of those made up (default: 200)")
    parser.add_argument("--crf", type=float, default=16, help="(default: 16)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    options = parser.parse_args(argv)
    if options.frames < 1:
        raise config.ConfigError(f"--frames {options.frames}: it must be 1 or more")
    if options.json and not options.json.parent.is_dir():
        raise config.ConfigError(f"--json {options.json}: there is no folder {options.json.parent}")
    device.use_compilation_cache()
    colorizer = Colorizer.load(options.weights)
    report: dict = timing.device() | {"crf": options.crf, "rows": []}
    print(
        f"{'film':24} {'size':>12} {'frames/s':>9}"
        + "".join(f"{s:>9}" for s in STAGES)
        + f"{'|ΔL|':>7} {'99 %':>6}"
    )
    with tempfile.TemporaryDirectory() as place:
        for height, width in () if options.films else SIZES:
            path = Path(place, f"{height}p.mp4")
            make(path, height, width, options.frames)
            options.films.append(path)
        for path in options.films:
            row = measure(colorizer, path, options.crf)
            report["rows"].append(row)
            shares = "".join(f"{share:9.0%}" for share in row["shares"].values())
            print(
                f"{row['film']:24} {row['size']:>12} {row['frames_per_second']:>9}{shares}"
                f"{row['lightness_error']:7.2f} {row['lightness_error_99']:6.2f}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    try:
        return run(argv)
    except (
        config.ConfigError,
        files.FileError,
        FilmError,
        checkpoint.WeightsError,
        OSError,
    ) as error:
        print(f"films.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
