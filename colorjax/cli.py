"""Colour black-and-white photographs and films, at their own resolution, lightness untouched."""

import argparse
import dataclasses
import os
import sys
from contextlib import closing
from pathlib import Path

# Colouring one photograph: XLA's chatter about the machine is of no use to anyone.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from colorjax import device
from colorjax.checkpoint import WeightsError
from colorjax.colorizer import Colorizer, confidence_map
from colorjax.config import ConfigError
from colorjax.media import files
from colorjax.media.film import FILM_SUFFIXES, FilmError, colorize_film


def command_line() -> argparse.ArgumentParser:
    """The options and their help."""
    parser = argparse.ArgumentParser(
        prog="colorize.py",
        description="Colour a black-and-white photograph, a folder of them, or a film, at their "
        "own resolution. What has colour already loses it first.",
        epilog="examples:\n"
        "  python colorize.py old.jpg new.png\n"
        "  python colorize.py scans coloured\n"
        "  python colorize.py film.mp4 coloured.mp4\n"
        "  python colorize.py old.jpg new.png --saturation 1.5\n"
        "  python colorize.py old.tif new.tif --weights runs/vivid/weights.safetensors",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("input", help="the photograph, a folder of photographs, or a film")
    parser.add_argument(
        "output",
        help="the file to write, whose ending says the format; "
        "or the folder, which keeps names and tree",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="of a trained network (default: those that come with colorjax)",
    )
    parser.add_argument(
        "--working-size",
        type=int,
        metavar="PIXELS",
        help="size of the copy that the network sees (default: 1.5 times what it was trained on)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="of the annealed mean: 1 is "
        "the mean of the likely colours, less is bolder (default: as the weights "
        "say)",
    )
    parser.add_argument(
        "--rarity",
        type=float,
        metavar="POWER",
        help="more makes rare colours "
        "likelier, below 0 common ones: the power of the weights that they had in "
        "training (default: as the weights say)",
    )
    parser.add_argument(
        "--saturation",
        type=float,
        metavar="FACTOR",
        help="factor on the colours (default: as the weights say)",
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
        help="replace an existing output; in a folder, redo what is done",
    )
    return parser


def check(options: argparse.Namespace) -> None:
    """The numbers of the command line: ConfigError names the one that is out of range."""
    for name, low, high in (
        ("quality", 1, 100),
        ("max_megapixels", 1e-6, 1e6),
        ("working_size", 16, 2048),
        ("temperature", 0.01, 100),
        ("saturation", 0, 100),
        ("rarity", -4, 4),
        ("crf", 0, 51),
    ):
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} {value:g}: it must be from {low:g} to {high:g}")


def color_photograph(options: argparse.Namespace, source: Path, target: Path) -> int:
    """Colour a photograph; the exit status."""
    files.check_output(target, options.overwrite)
    if options.confidence:
        for path, what in ((source, "input"), (target, "output")):
            if os.path.realpath(options.confidence) == os.path.realpath(path):
                raise ConfigError(
                    f"--confidence {options.confidence} is the {what}: name another file"
                )
        files.check_output(options.confidence, options.overwrite)
    photograph = files.read(source, options.max_megapixels)
    colorizer = load(options)
    if options.explain and not colorizer.network.labels:
        raise ConfigError("--explain: these weights have learned no labels (train.py --labels)")
    lightness, filled = colorizer.to_network_input(photograph.pixels)
    ab, confidence = colorizer.predict(lightness[None])
    height, width = photograph.pixels.shape[:2]
    if options.confidence and confidence is None:
        raise ConfigError(
            f"--confidence {options.confidence}: these weights have no bins and do "
            "not say how sure they are"
        )
    pixels = colorizer.merge(photograph.pixels, ab[0], filled)
    coloured = dataclasses.replace(photograph, pixels=pixels)
    notes = files.write(target, coloured, options.quality, options.overwrite)
    for note in (*photograph.notes, *notes):
        print(f"note: {note}")
    if options.explain:
        likely = list(colorizer.explain(lightness).items())[:3]
        print("taken for: " + ", ".join(f"{label} {share:.0%}" for label, share in likely))
    print(f"wrote {target} ({width} × {height})")
    if options.confidence and confidence is not None:
        grey = files.Photograph(confidence_map(confidence[0], filled, (height, width)))
        files.write(options.confidence, grey, options.quality, options.overwrite)
        print(f"wrote {options.confidence}")
    return 0


def color_folder(options: argparse.Namespace, source: Path, target: Path) -> int:
    """Colour a folder, but for what is done already; the exit status."""
    from colorjax import report
    from colorjax.media import folder

    if target.is_file() or (target.suffix.lower() in files.SUFFIXES and not target.exists()):
        raise ConfigError(f"{source} is a folder and {target} a file: name a folder for the output")
    pairs = folder.pairs(source, target)
    if not pairs:
        raise ConfigError(f"{source} holds no photographs ({' '.join(files.SUFFIXES)})")
    todo = [pair for pair in pairs if options.overwrite or not pair[1].exists()]
    before, films = len(pairs) - len(todo), len(files.list_images(source, FILM_SUFFIXES))
    if films:
        print(f"note: films are left out: colour each by itself ({films})")
    if before:
        print(f"{before} of {len(pairs)} photographs are done already (--overwrite redoes them)")
    if not todo:
        return 0
    colorizer = load(options)
    try:
        with closing(report.Bar("colouring", "photographs/s")) as bar:
            outcome = folder.colorize_folder(
                colorizer,
                todo,
                options.quality,
                options.max_megapixels,
                options.overwrite,
                lambda done: bar.update(done, len(todo)),
            )
    except KeyboardInterrupt:
        print("colorize.py: interrupted; the same command goes on with the rest", file=sys.stderr)
        return 130
    for note, count in outcome.notes.items():
        print(f"note: {note} ({count} photographs)" if count > 1 else f"note: {note}")
    print(f"coloured {outcome.coloured} of {len(todo)} photographs into {target}")
    for failure in outcome.failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if outcome.failures else 0


def color_film(options: argparse.Namespace, source: Path, target: Path) -> int:
    """Colour a film; the exit status."""
    from colorjax import report

    colorizer, bar = load(options), report.Bar("colouring", "frames/s")
    try:
        with closing(bar):
            outcome = colorize_film(
                colorizer, source, target, options.crf, options.overwrite, bar.update
            )
    except KeyboardInterrupt:
        print(
            f"colorize.py: interrupted at frame {bar.done} of {bar.total or 'an unknown number'}"
            ", nothing was written",
            file=sys.stderr,
        )
        return 130
    for note in outcome.notes:
        print(f"note: {note}")
    print(f"wrote {target} ({outcome.frames} frames)")
    if outcome.broken:
        print(f"colorize.py: {source} is damaged: {outcome.broken}", file=sys.stderr)
    return 1 if outcome.broken else 0


def load(options: argparse.Namespace) -> Colorizer:
    """The network that the command line asks for."""
    device.use_compilation_cache()
    return Colorizer.load(
        options.weights,
        options.working_size,
        options.temperature,
        options.saturation,
        options.rarity,
    )


def run(argv: list[str] | None) -> int:
    """Colour as the command line says; the exit status."""
    options = command_line().parse_args(argv)
    check(options)
    source, target = Path(options.input), Path(options.output)
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
    return action(options, source, target)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    try:
        return run(argv)
    except (ConfigError, files.FileError, FilmError, WeightsError, OSError) as error:
        print(f"colorize.py: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:  # the latter is XLA's, too
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        what = "there is too little memory: set a smaller --working-size, or scale the picture down"
        print(f"colorize.py: {what}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("colorize.py: interrupted, nothing was written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
