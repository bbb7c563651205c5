"""Colour a black-and-white photograph, at its own resolution, its lightness untouched."""

import argparse
import dataclasses
import os
import sys
from pathlib import Path

# Colouring one photograph: XLA's chatter about the machine is of no use to anyone.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from colorjax import config, files
from colorjax.checkpoint import WeightsError
from colorjax.colorizer import Colorizer, confidence_map


def check(options: argparse.Namespace) -> None:
    """The numbers of the command line: ConfigError names the one that is out of range."""
    for name, low, high in (
        ("quality", 1, 100), ("max_megapixels", 1e-6, 1e6), ("working_size", 16, 2048),
        ("temperature", 0.01, 100), ("saturation", 0, 100),
    ):  # fmt: skip
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            flag = "--" + name.replace("_", "-")
            raise config.ConfigError(f"{flag} {value:g}: it must be from {low:g} to {high:g}")


def run(argv: list[str] | None) -> int:
    """Colour as the command line says; the exit status."""
    options = config.colorize_parser().parse_args(argv)
    source, target = Path(options.input), Path(options.output)
    check(options)
    if source.exists() and target.exists() and source.samefile(target):
        raise config.ConfigError(f"{target} is the input itself: name another output")
    files.check_output(target, options.overwrite)
    if options.confidence:
        if Path(options.confidence).absolute() == target.absolute():
            raise config.ConfigError(f"--confidence {target} is the output: name another file")
        files.check_output(options.confidence, options.overwrite)
    photograph = files.read(source, options.max_megapixels)
    config.use_compilation_cache()
    colorizer = Colorizer.load(
        options.weights, options.working_size, options.temperature, options.saturation
    )
    lightness, filled = colorizer.shrink(photograph.pixels)
    ab, confidence = colorizer.predict(lightness[None])
    height, width = photograph.pixels.shape[:2]
    wrote = [f"{target} ({width} × {height})"]
    if options.confidence:
        if confidence is None:
            raise config.ConfigError(f"--confidence {options.confidence}: these weights have no "
                                     "bins and do not say how sure they are")  # fmt: skip
        grey = files.Photograph(confidence_map(confidence[0], filled, (height, width)))
        files.write(options.confidence, grey, options.quality, options.overwrite)
        wrote.append(options.confidence)
    coloured = dataclasses.replace(
        photograph, pixels=colorizer.join(photograph.pixels, ab[0], filled)
    )
    notes = files.write(target, coloured, options.quality, options.overwrite)
    for note in (*photograph.notes, *notes):
        print(f"note: {note}")
    for name in wrote:
        print(f"wrote {name}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    try:
        return run(argv)
    except (config.ConfigError, files.FileError, WeightsError, OSError) as error:
        print(f"colorize.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("colorize.py: interrupted, nothing was written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
