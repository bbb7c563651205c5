"""Colour a black-and-white photograph, at its own resolution, its lightness untouched."""

import os
import sys
from pathlib import Path

# Colouring one photograph: XLA's chatter about the machine is of no use to anyone.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from colorjax import config, files
from colorjax.checkpoint import WeightsError
from colorjax.colorizer import Colorizer


def run(argv: list[str] | None) -> int:
    """Colour as the command line says; the exit status."""
    options = config.colorize_parser().parse_args(argv)
    source, target = Path(options.input), Path(options.output)
    for name, value, low, high in (
        ("--quality", options.quality, 1, 100),
        ("--max-megapixels", options.max_megapixels, 1e-6, 1e6),
        ("--working-size", 64 if options.working_size is None else options.working_size, 16, 2048),
    ):
        if not low <= value <= high:
            raise config.ConfigError(f"{name} {value}: it must be from {low:g} to {high:g}")
    if source.exists() and target.exists() and source.samefile(target):
        raise config.ConfigError(f"{target} is the input itself: name another output")
    files.check_output(target, options.overwrite)
    photograph = files.read(source, options.max_megapixels)
    config.use_compilation_cache()
    colorizer = Colorizer.load(options.weights, options.working_size)
    coloured = files.Photograph(
        pixels=colorizer(photograph.pixels), alpha=photograph.alpha, exif=photograph.exif,
        dpi=photograph.dpi,
    )  # fmt: skip
    notes = files.write(target, coloured, options.quality, options.overwrite)
    for note in (*photograph.notes, *notes):
        print(f"note: {note}")
    height, width = photograph.pixels.shape[:2]
    print(f"wrote {target} ({width} × {height})")
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
