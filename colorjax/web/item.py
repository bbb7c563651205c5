"""One photograph of a sitting: what is known of it, and the hints that may be kept beside it."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from colorjax.media import files
from colorjax.media.film import FilmError
from colorjax.palette import Decoding
from colorjax.web.edit import Edit, RequestError
from colorjax.web.frame import Frame


@dataclass
class Item:
    """A photograph, or a film by one of its frames."""

    id: str
    name: str  # as the person knows it; never part of a path
    source: Path
    given: bool  # named on the command line: read where it lies, hints may be kept beside it
    size: tuple[int, int]  # width, height
    thumbnail: np.ndarray  # grey sRGB values of its lightness, uint8 H W
    content_fraction: tuple[float, float]  # of ab's rows and columns that it fills
    notes: tuple[str, ...] = ()
    film: Frame | None = None
    example: bool = False  # of ours, shown while there is no photograph
    edit: Edit = field(default_factory=Edit)
    keep: bool = False  # the hints in a file beside it, at every change

    def to_json(self) -> dict[str, Any]:
        """Tell what the page knows of it."""
        return {
            "id": self.id,
            "name": self.name,
            "width": self.size[0],
            "height": self.size[1],
            "fraction": self.content_fraction,
            "notes": self.notes,
            "film": self.film and {"time": self.film.time, "duration": self.film.duration},
            "given": self.given,
            "example": self.example,
            "edit": self.edit.to_json(),
            "keep": self.keep,
        }

    @property
    def kept_path(self) -> Path:
        """Name the file in which its hints are kept."""
        return self.source.with_name(self.source.name + ".hints.json")

    def read_kept(self, own: Decoding) -> Edit | None:
        """Read the hints beside it; None where there is something else."""
        try:
            return Edit.from_file(self.kept_path.read_bytes(), self.size, own)
        except (RequestError, OSError):
            return None

    def write_kept(self) -> None:
        """Write its hints beside it."""
        path = self.kept_path
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            temporary.write_bytes(self.edit.to_file())
            os.replace(temporary, path)
        except OSError as error:
            self.keep = False
            raise RequestError(f"{path} could not be written: {error.strerror}") from None
        finally:
            temporary.unlink(missing_ok=True)

    def set_keep(self, keep: bool, own: Decoding) -> None:
        """Keep its hints in a file beside it from now on, or no longer."""
        if not self.given:
            raise RequestError(
                f"{self.name} was dropped, and a page does not learn where it lies: "
                "save its hints as a file"
            )
        if keep and not self.keep and self.kept_path.exists() and self.read_kept(own) is None:
            raise RequestError(f"{self.kept_path} holds something else: move it first")
        self.keep = keep
        if keep:
            self.write_kept()

    def output_name(self, suffix: str | None = None) -> str:
        """Name what it becomes, in a format or in its own where that holds colour."""
        own = Path(self.name).suffix.lower()
        if self.film:
            own = own if own == ".mkv" else ".mp4"
        elif own not in files.OUTPUT_SUFFIXES:
            own = ".png"
        return f"{Path(self.name).stem}-coloured{suffix or own}"

    def command(self, own: Decoding, weights: str | None) -> str:
        """Write the shell's command for the same colours: a photograph's, or the whole film's.

        Args:
            own: what the weights say.
            weights: their file; None for the default.
        """
        words = ["colorjax", str(self.source) if self.given else self.name, self.output_name()]
        if self.edit.hints:
            words += ["--hints", str(self.kept_path) if self.keep else f"{self.name}.hints.json"]
        if weights:
            words += ["--weights", weights]
        return " ".join(_quoted(word) for word in (*words, *self.edit.options(own)))


@contextmanager
def named(path: Path, name: str) -> Iterator[None]:
    """Refuse, within, a file that cannot be read or written, by the name that the person knows."""
    try:
        yield
    except (files.FileError, FilmError) as error:
        raise RequestError(str(error).replace(str(path), name)) from None
    except MemoryError:
        raise RequestError(f"{name} does not fit into memory: scale it down") from None


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w@%+=:,./-]+", word) else "'" + word.replace("'", "'\\''") + "'"
