"""The same photographs by several networks, side by side, to be judged by eye.

    python benchmarks/gallery.py examples/*.jpg --weights FILE FILE --out gallery.jpg

A row holds a photograph without colour, then as each network colours it, and last the photograph
itself where it has colour; all are scaled to one width. With `--across` a photograph is a column
and all have one height. Titles stand above rows only.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (0, 1)]

from colorjax import checkpoint, color, config, device, report
from colorjax.colorizer import Colorizer
from colorjax.media import files

GAP, TITLE = 4, 24  # pixels


def small(path: str, side: int, across: bool) -> np.ndarray:
    """A photograph, uint8 `H W 3`, scaled to a width, or across to a height."""
    pixels = files.read(path).pixels
    pixels = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    picture = Image.fromarray(pixels).convert("RGB")
    scale = side / (picture.height if across else picture.width)
    width, height = (max(1, round(scale * length)) for length in picture.size)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def row(pixels: np.ndarray, networks: list[Colorizer]) -> list[np.ndarray]:
    """A photograph, uint8 `H W 3`: without colour, by each network, and as it is if colourful."""
    values = pixels / np.float32(255)
    grey = np.round(255 * report.grey(values)).astype(np.uint8)
    truth = [pixels] if color.colorfulness(values, absolute=True) >= 5 else []
    return [grey, *(network(pixels) for network in networks), *truth]


def draw(rows: list[list[np.ndarray]], titles: list[str]) -> Image.Image:
    """Rows of pictures of one width below each other, under their titles."""
    columns, width = max(map(len, rows)), rows[0][0].shape[1]
    heights, top = [pictures[0].shape[0] for pictures in rows], TITLE if titles else GAP
    size = columns * (width + GAP) + GAP, top + sum(heights) + GAP * len(rows)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for place, title in enumerate(titles[:columns]):
        pen.text((GAP + place * (width + GAP), 4), title, "black", font_size=13)
    for pictures, height in zip(rows, heights, strict=True):
        for place, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (GAP + place * (width + GAP), top))
        top += height + GAP
    return sheet


def run(argv: list[str] | None) -> int:
    """Colour and draw; the exit status."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    add = parser.add_argument
    add("photographs", nargs="+", metavar="PHOTOGRAPH")
    add("--weights", nargs="*", metavar="FILE", help="(default: those in the package)")
    add("--titles", nargs="*", metavar="TEXT", help="of the networks' columns")
    add("--width", type=int, default=256, help="of a column, across: height (default: 256)")
    add("--across", action="store_true", help="a column a photograph")
    add("--out", required=True, type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    if not 16 <= options.width <= 4096:
        raise config.ConfigError(f"--width {options.width}: it must be from 16 to 4096")
    weights = options.weights or [None]
    titles = options.titles or [Path(path).parent.name if path else "colorjax" for path in weights]
    if len(titles) != len(weights):
        raise config.ConfigError(f"--titles: {len(titles)} of them for {len(weights)} networks")
    files.check_output(options.out, overwrite=True)
    device.use_compilation_cache()
    networks = [Colorizer.load(path) for path in weights]
    rows = [
        row(small(path, options.width, options.across), networks) for path in options.photographs
    ]
    if options.across:
        turned = [[picture.swapaxes(0, 1) for picture in pictures] for pictures in rows]
        sheet = draw(turned, []).transpose(Image.Transpose.TRANSPOSE)
    else:
        sheet = draw(rows, ["without colour", *titles, "in truth"])
    files.write(options.out, files.Photograph(np.asarray(sheet)), overwrite=True)
    print(f"wrote {options.out} ({sheet.width} × {sheet.height})")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    try:
        return run(argv)
    except (config.ConfigError, files.FileError, checkpoint.WeightsError, OSError) as error:
        print(f"gallery.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
