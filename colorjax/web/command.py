"""`colorjax web`: what is typed, into a page that is served."""

import argparse
from functools import partial
from pathlib import Path

from colorjax import device
from colorjax.colorizer import Colorizer
from colorjax.config import ConfigError
from colorjax.media import files


def run(argv: list[str]) -> int:
    """Serve the page, as the words after `colorjax web` say; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="colorjax web",
        description="Colour photographs in the browser. They stay on this machine.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "photographs", nargs="*", metavar="PHOTOGRAPH", help="file or folder to open"
    )
    parser.add_argument("--port", type=int, default=0, help="to listen on (default: a free one)")
    parser.add_argument("--host", default="127.0.0.1", help="to listen on (default: this machine)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("--weights", metavar="FILE", help="of a trained network")
    options = parser.parse_args(argv)
    if not 0 <= options.port < 65536:
        raise ConfigError(f"--port {options.port}: it must be from 0 to 65535")
    photographs = []
    for path in map(Path, options.photographs):
        if not path.exists():
            raise ConfigError(f"{path}: No such file or folder")
        photographs += files.list_images(path) if path.is_dir() else [path]
    try:
        from colorjax.web.start import serve
    except ImportError as error:
        if error.name not in ("starlette", "uvicorn", "anyio"):
            raise
        raise ConfigError("the page needs more: pip install 'colorjax[web]'") from None
    device.use_compilation_cache()
    weights = options.weights and str(Path(options.weights).absolute())
    return serve(
        partial(Colorizer.load, weights),
        [path.absolute() for path in photographs],
        options.host,
        options.port,
        not options.no_browser,
        weights,
    )
