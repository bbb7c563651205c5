"""What is typed → a photograph, a folder or a film in colour, or the page."""

import argparse
import dataclasses
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

PROG = "colorjax" if Path(sys.argv[0]).stem == "colorjax" else "colorize.py"
# Colouring one photograph: XLA's chatter about the machine is of no use to anyone.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@contextmanager
def _on_signals(handler: Callable, defaults: dict[str, Any]) -> Iterator[None]:
    """Handle, within, those signals that have their default handler; nohup's choice stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = {getattr(signal, name, None): default for name, default in defaults.items()}
    taken = [n for n, default in numbers.items() if n and signal.getsignal(n) == default]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, numbers[number])


def _quit(number: int, frame: Any) -> None:
    os.write(2, f"{PROG}: interrupted, nothing was written\n".encode())
    os._exit(128 + number)


def _interrupt(number: int, frame: Any) -> None:
    """End a run as Ctrl-C does, at a closed window or a shutdown: nothing half done stays."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


with _on_signals(_quit, {"SIGINT": signal.default_int_handler}):  # the imports take seconds
    import numpy as np
    from PIL import Image

    from colorjax import color, device, report
    from colorjax.checkpoint import WeightsError
    from colorjax.colorizer import Colorizer, confidence_map, neutral
    from colorjax.config import ConfigError
    from colorjax.hints import Hint, HintError
    from colorjax.media import demux, files, folder, hint_files
    from colorjax.media.film import FILM_SUFFIXES, FilmError, colorize_film
    from colorjax.media.film_hints import FilmHints


def command_line() -> argparse.ArgumentParser:
    """Declare the options and their help."""
    call = PROG if PROG == "colorjax" else f"python {PROG}"
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Colour a black-and-white photograph, a folder of them, or a film, at their "
        "own resolution. What has colour already loses it first.",
        epilog="examples:\n"
        f"  {call} old.jpg new.png\n"
        f"  {call} scans coloured\n"
        f"  {call} film.mp4 coloured.mp4\n"
        f"  {call} old.jpg new.png --saturation 1.5\n"
        f"  {call} old.tif new.tif --weights runs/vivid/weights.safetensors\n"
        "  colorjax web            the same in a window (colorjax web --help)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("input", help="the photograph, a folder of photographs, or a film")
    parser.add_argument(
        "output",
        help="the file to write, whose ending says the format; "
        "or the folder, which keeps names and tree",
    )
    parser.add_argument("more", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="of a trained network (default: those in the package)",
    )
    parser.add_argument(
        "--working-size",
        type=int,
        metavar="PIXELS",
        help="size of the copy that the network sees (default: as the weights say)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="of the annealed mean: 1 is the mean of the likely colours, less is bolder "
        "(default: as the weights say)",
    )
    parser.add_argument(
        "--rarity",
        type=float,
        metavar="POWER",
        help="above 0 favours rare colours, below 0 common ones: the power of the weights that "
        "they had in training (default: as the weights say)",
    )
    parser.add_argument(
        "--saturation",
        type=float,
        metavar="FACTOR",
        help="factor on the colours (default: as the weights say)",
    )
    parser.add_argument(
        "--warmth",
        metavar="B",
        help="added to the colours' b*, -100 to 100: above 0 yellower, below bluer; auto makes the "
        "mean of the highlights neutral (default: 0)",
    )
    parser.add_argument(
        "--tint",
        type=float,
        default=0.0,
        metavar="A",
        help="added to their a*, -100 to 100: above 0 redder, below greener (default: 0)",
    )
    parser.add_argument(
        "--hints",
        metavar="FILE",
        help="colours that you know, at places of the photograph or the film: JSON, CSV, a marked "
        "copy of the photograph, or a layer of strokes (docs/hints.md)",
    )
    parser.add_argument(
        "--reach",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="how far hints carry, times what is usual (default: 1)",
    )
    parser.add_argument(
        "--confidence",
        metavar="FILE",
        help="also write a grey picture of how sure the network is: black not at all, white wholly",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="say what the network takes the photograph for, if it has learned labels",
    )
    parser.add_argument("--quality", type=int, default=95, help="of JPEG output (default: 95)")
    parser.add_argument(
        "--crf",
        type=float,
        default=16,
        help="of a film's H.264, 0 to 51: less is better and larger (default: 16)",
    )
    parser.add_argument(
        "--max-megapixels",
        type=float,
        default=500,
        metavar="N",
        help="refuse larger photographs (default: 500)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an existing output, but for a picture beside the input that was not made "
        "from it; in a folder, redo what is done",
    )
    return parser


def check(options: argparse.Namespace) -> None:
    """Check the numbers of the command line: ConfigError names the one that is out of range."""
    if options.warmth != "auto":
        try:
            options.warmth = float(options.warmth or 0)
        except ValueError:
            raise ConfigError(f"--warmth {options.warmth}: it must be a number or auto") from None
    for name, low, high in (
        ("warmth", -100, 100),
        ("tint", -100, 100),
        ("reach", 0.05, 20),
        ("quality", 1, 100),
        ("max_megapixels", 1e-6, 1e6),
        ("working_size", 16, 2048),
        ("temperature", 0.01, 100),
        ("saturation", 0, 100),
        ("rarity", -4, 4),
        ("crf", 0, 51),
    ):
        value = getattr(options, name)
        if value not in (None, "auto") and not low <= value <= high:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} {value:g}: it must be from {low:g} to {high:g}")


def say(line: str, error: bool = False) -> None:
    """Print a line; a console that cannot show it, or is gone, fails nothing."""
    with suppress(OSError, ValueError):  # its window was closed, or the pipe that it went to
        print(line, file=sys.stderr if error else sys.stdout, flush=True)


def complain(line: str) -> None:
    """Print a line on stderr, after the program's name."""
    say(f"{PROG}: {line}", error=True)


def check_replaced(source: Path, target: Path, read: Callable[[Path], np.ndarray]) -> None:
    """Refuse to replace a picture beside the input that was not made from it.

    A shell expands `*.png` to two names where a folder holds two pictures, and the second would be
    lost. What was made from the input has its size, its lightness, and colour.
    """
    if not target.exists() or not target.parent.samefile(source.parent):
        return
    try:
        there = read(target)
    except (files.FileError, FilmError, OSError):
        return  # no picture
    given = read(source)
    coloured = there.ndim == 3 and (np.ptp(there.reshape(-1, 3), axis=1) > 0).any()
    if coloured and given.shape[:2] == there.shape[:2]:
        if np.abs(_small_lightness(given) - _small_lightness(there)).mean() < 2:
            return
    raise ConfigError(
        f"{target} is a picture of its own beside {source}, not made from it (does a wildcard name "
        "both?): name another output, or delete it first"
    )


def _small_lightness(pixels: np.ndarray) -> np.ndarray:
    small = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    small = Image.fromarray(small).convert("RGB").resize((16, 16), Image.Resampling.BOX)
    return np.asarray(color.lightness(np.asarray(small) / np.float32(255)))


def color_photograph(options: argparse.Namespace, source: Path, target: Path) -> int:
    """Colour a photograph; return the exit status."""
    files.check_output(target, options.overwrite)
    if options.confidence:
        for path, what in ((source, "input"), (target, "output")):
            if os.path.realpath(options.confidence) == os.path.realpath(path):
                raise ConfigError(
                    f"--confidence {options.confidence} is the {what}: name another file"
                )
        files.check_output(options.confidence, options.overwrite)
    photograph = files.read(source, options.max_megapixels)
    check_replaced(source, target, lambda path: files.read(path, options.max_megapixels).pixels)
    given = read_hints(options, photograph.pixels)
    if timed := [hint for hint in given if hint.time is not None]:
        raise ConfigError(
            f"--hints {options.hints}: a hint has a time, {timed[0].time:g} s, and {source} is no "
            "film: leave it out"
        )
    colorizer = load(options)
    if options.explain and not colorizer.network.labels:
        raise ConfigError("--explain: these weights have learned no labels (train.py --labels)")
    if options.confidence and colorizer.network.head != "bins":
        raise ConfigError(
            f"--confidence {options.confidence}: these weights have no bins and do "
            "not say how sure they are"
        )
    analysis = colorizer.analyze(photograph.pixels)
    if options.warmth == "auto":
        # The shift takes the tint away with the rest.
        ab = neutral(analysis) + np.array([options.tint, 0], np.float32)
        analysis = dataclasses.replace(analysis, ab=ab)
    pixels = colorizer(photograph.pixels, given, reach=options.reach, analysis=analysis)
    height, width = pixels.shape[:2]
    coloured = dataclasses.replace(photograph, pixels=pixels)
    notes = files.write(target, coloured, options.quality, options.overwrite)
    for note in (*photograph.notes, *notes):
        say(f"note: {note}")
    if options.explain:
        likely = list(colorizer.explain(analysis).items())[:3]
        say("taken for: " + ", ".join(f"{label} {share:.0%}" for label, share in likely))
    say(f"wrote {target} ({width} × {height})")
    if options.confidence:
        grey = files.Photograph(confidence_map(analysis, height, width))
        files.write(options.confidence, grey, options.quality, options.overwrite)
        say(f"wrote {options.confidence}")
    if photograph.partial:
        complain(f"{source} is incomplete: it was coloured as far as it goes")
    return 1 if photograph.partial else 0


def color_folder(options: argparse.Namespace, source: Path, target: Path) -> int:
    """Colour what of a folder is not done yet; return the exit status."""
    if not target.is_dir():
        if target.suffix.lower() in FILM_SUFFIXES:
            raise ConfigError(
                f"{source} is a folder and {target} a film: name a folder for the output, of whose "
                "pictures ffmpeg makes a film"
            )
        if target.exists() or target.suffix.lower() in files.SUFFIXES:
            raise ConfigError(
                f"{source} is a folder and {target} a file: name a folder for the output"
            )
    unopened: list[OSError] = []
    kinds = (*files.SUFFIXES, *FILM_SUFFIXES, *files.OTHER_KINDS)
    found = files.list_images(source, kinds, unopened.append)
    photographs = [path for path in found if path.suffix.lower() in files.SUFFIXES]
    pairs = folder.pairs(source, target, photographs)
    left_out = Counter(
        "films, to be coloured one by one"
        if path.suffix.lower() in FILM_SUFFIXES
        else f"{files.OTHER_KINDS[path.suffix.lower()]} ({path.suffix.lower()})"
        for path in found
        if path.suffix.lower() not in files.SUFFIXES
    )
    failures = [f"{error.filename}: {error.strerror}" for error in unopened]
    if not pairs and not failures:
        others = ", ".join(f"{count} {kind}" for kind, count in left_out.items())
        raise ConfigError(
            f"{source} holds no photographs ({' '.join(files.SUFFIXES)})"
            + (f", but {others}" if others else "")
        )
    todo = [pair for pair in pairs if options.overwrite or not pair[1].exists()]
    before = len(pairs) - len(todo)
    for kind, count in left_out.items():
        say(f"note: left out: {count} {kind}")
    if before:
        say(f"{before} of {len(pairs)} photographs are done already (--overwrite redoes them)")
    partial = []
    if todo:
        device.keep_memory()
        colorizer = load(options)
        try:
            with closing(report.Bar("colouring", "photographs/s")) as bar:
                outcome = folder.colorize_folder(
                    colorizer,
                    todo,
                    options.quality,
                    options.max_megapixels,
                    options.overwrite,
                    lambda done: show(bar, done, len(todo)),
                )
        except KeyboardInterrupt as stop:
            complain("interrupted; the same command goes on with the rest")
            return status_of(stop)
        for note, count in outcome.notes.items():
            say(f"note: {note} ({count} photographs)" if count > 1 else f"note: {note}")
        if outcome.elsewhere:
            say(f"note: another run wrote {outcome.elsewhere} of the photographs meanwhile")
        say(f"coloured {outcome.coloured} of {len(todo)} photographs into {target}")
        failures, partial = failures + outcome.failures, outcome.partial
    for failure in failures:
        say(f"failed: {failure}", error=True)
    for path in partial:
        say(f"incomplete: {path} was coloured as far as it goes", error=True)
    return 1 if failures or partial else 0


def color_film(options: argparse.Namespace, source: Path, target: Path) -> int:
    """Colour a film; return the exit status."""
    if target.suffix.lower() in FILM_SUFFIXES and options.overwrite:
        check_replaced(source, target, lambda path: demux.first_frame(path).pixels)
    given = read_hints(options, demux.first_frame(source).pixels) if options.hints else []
    film_hints = FilmHints(given, options.reach) if given else None
    device.keep_memory()
    colorizer, bar = load(options), report.Bar("colouring", "frames/s")
    try:
        with closing(bar):
            outcome = colorize_film(
                colorizer,
                source,
                target,
                options.crf,
                options.overwrite,
                lambda done, total: show(bar, done, total),
                film_hints,
            )
    except KeyboardInterrupt as stop:
        total = bar.total or "an unknown number"
        complain(f"interrupted at frame {bar.done} of {total}, nothing was written")
        return status_of(stop)
    for note in outcome.notes:
        say(f"note: {note}")
    if film_hints and film_hints.waiting:
        times = ", ".join(f"{hint.time:g} s" for hint in film_hints.waiting)
        say(f"note: hints after the film's end are not used: {times}")
    say(f"wrote {target} ({outcome.frames} frames)")
    if outcome.broken:
        complain(f"{source} is damaged: {outcome.broken}")
    return 1 if outcome.broken else 0


def show(bar: report.Bar, done: int, total: int) -> None:
    """Move a progress bar, on a console that may be gone."""
    with suppress(OSError, ValueError):
        bar.update(done, total)


def status_of(stop: KeyboardInterrupt) -> int:
    """Return the exit status of a program that a signal ended."""
    return 128 + (stop.args[0] if stop.args else signal.SIGINT)


def read_hints(options: argparse.Namespace, image: np.ndarray) -> list[Hint]:
    """Read the hints that the command line names, of a photograph or a frame."""
    if options.hints is None:
        return []
    return hint_files.read(options.hints, image, options.max_megapixels)


def load(options: argparse.Namespace) -> Colorizer:
    """Load the network that the command line asks for."""
    device.use_compilation_cache()
    return Colorizer.load(
        options.weights,
        working_size=options.working_size,
        temperature=options.temperature,
        saturation=options.saturation,
        rarity_power=options.rarity,
        warmth=0.0 if options.warmth == "auto" else options.warmth,
        tint=options.tint,
    )


def run(argv: list[str] | None) -> int:
    """Colour as the command line says; return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["web"]:
        from colorjax.web import command

        return command.run(argv[1:])
    options = command_line().parse_args(argv)
    check(options)
    source, target = Path(options.input), Path(options.output)
    if options.more:
        raise ConfigError(
            f"{len(options.more) + 2} names are given, from {source} to {options.more[-1]}: name "
            "one input and one output, or a folder to colour all that it holds"
        )
    if not os.path.lexists(source):
        raise ConfigError(f"{source}: No such file or folder")
    if source.exists() and target.exists() and source.samefile(target):
        raise ConfigError(f"{target} is the input itself: name another output")
    suffixes = {source.suffix.lower(), target.suffix.lower()}
    action = (
        color_folder
        if source.is_dir()
        else color_photograph
        if suffixes.isdisjoint(FILM_SUFFIXES)
        else color_film
    )
    if action is not color_photograph and (options.confidence or options.explain):
        flag = f"--confidence {options.confidence}" if options.confidence else "--explain"
        what = "folder" if action is color_folder else "film"
        raise ConfigError(f"{flag}: it is of one photograph, and {source} is a {what}")
    if action is color_folder and options.hints:
        raise ConfigError(f"--hints {options.hints}: {source} is a folder: colour one by one")
    if action is not color_photograph and options.warmth == "auto":
        raise ConfigError(f"--warmth auto: it is of one photograph, and {source} is none")
    return action(options, source, target)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    streams: tuple[Any, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        with suppress(AttributeError, OSError, ValueError):  # there is none, or it is closed
            stream.reconfigure(errors="replace")  # a sign that the console's encoding lacks
    try:
        with _on_signals(_interrupt, {"SIGTERM": signal.SIG_DFL, "SIGHUP": signal.SIG_DFL}):
            return run(argv)
    except (ConfigError, HintError, files.FileError, FilmError, WeightsError, OSError) as error:
        complain(str(error))
        return 2
    except (MemoryError, RuntimeError) as error:  # the latter is XLA's, too
        if not device.is_out_of_memory(error):
            raise
        complain(
            "there is too little memory: set a smaller --working-size, or scale the picture down"
        )
        return 2
    except KeyboardInterrupt as stop:
        complain("interrupted, nothing was written")
        return status_of(stop)


if __name__ == "__main__":
    sys.exit(main())
