"""The same photographs by several networks, side by side, to be judged by eye.

    python benchmarks/gallery.py examples/*.jpg --weights FILE FILE --out gallery.jpg

A row a photograph, scaled to one width: without colour, then a column a network (the one that
comes along, unless others are named), each as `colorize.py` would colour it; last, where the
photograph has colour, the photograph. `--across` turns that about: a column a photograph, all of
one height, without titles.
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


def row(pixels: np.ndarray, networks: list[Colorizer]) -> list[np.ndarray]:
    """A photograph, uint8 `H W 3`, in each column but the last."""
    grey = np.round(255 * report.grey(pixels / np.float32(255))).astype(np.uint8)
    return [grey, *(network(pixels) for network in networks)]


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


def draw_across(rows: list[list[np.ndarray]]) -> Image.Image:
    """Rows of pictures of one height, as columns beside each other."""
    sheet = draw([[picture.swapaxes(0, 1) for picture in pictures] for pictures in rows], [])
    return sheet.transpose(Image.Transpose.TRANSPOSE)


def run(argv: list[str] | None) -> int:
    """Colour and draw; the exit status."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("photographs", nargs="+", metavar="PHOTOGRAPH")
    parser.add_argument("--weights", nargs="*", metavar="FILE", help="networks, a column each")
    parser.add_argument("--titles", nargs="*", metavar="TEXT", help="of their columns")
    parser.add_argument(
        "--width",
        type=int,
        default=256,
        help="of a column (default: 256); or with --across the height of a row",
    )
    parser.add_argument("--across", action="store_true", help="a column a photograph")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    if not 16 <= options.width <= 4096:
        raise config.ConfigError(f"--width {options.width}: it must be from 16 to 4096")
    weights = options.weights or [None]
    titles = options.titles or [Path(path).parent.name if path else "colorjax" for path in weights]
    if len(titles) != len(weights):
        raise config.ConfigError(f"--titles: {len(titles)} of them for {len(weights)} networks")
    files.check_output(options.out, overwrite=True)
    device.use_compilation_cache()
    networks, rows = [Colorizer.load(path) for path in weights], []
    for path in options.photographs:
        pixels = files.read(path).pixels
        pixels = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
        picture = Image.fromarray(pixels).convert("RGB")
        scale = options.width / (picture.height if options.across else picture.width)
        size = [max(1, round(scale * side)) for side in picture.size]
        pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
        pictures = row(pixels, networks)
        if color.colorfulness(pixels / np.float32(255), absolute=True) >= 5:
            pictures.append(pixels)
        rows.append(pictures)
    titles = ["without colour", *titles, "in truth"]
    sheet = draw_across(rows) if options.across else draw(rows, titles)
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
