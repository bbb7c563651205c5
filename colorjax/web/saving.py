"""Photographs of a sitting coloured at their own resolution: each a file, or all in one ZIP."""

import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from colorjax.colorizer import Colorizer
from colorjax.media import files
from colorjax.web.edit import RequestError
from colorjax.web.item import named
from colorjax.web.session import Session


def save(session: Session, id: str, suffix: str | None = None) -> tuple[Path, str, list[str]]:
    """Colour a photograph into a file of our own.

    Args:
        session: that holds it.
        id: of the photograph.
        suffix: of a format; without, its own where that holds colour.

    Returns:
        The file, to be removed by the caller; the name it should have; and what its format could
        not keep.

    Raises:
        RequestError: it is a film, or can no longer be read; there is no such format.
    """
    item, own = session.get(id), session.colorizer
    if item.film:
        raise RequestError(f"{item.name} is a film: the command beside it colours it")
    if suffix and suffix not in files.OUTPUT_SUFFIXES:
        raise RequestError(f"{suffix} is no format to save in")
    name, edit = item.output_name(suffix), item.edit
    target = session.new_path(Path(name).suffix)
    photograph = session.read(item)
    # As colorize.py does it, from the pixels on: the same bytes.
    colorizer = Colorizer(own.params, own.network, edit.decoding(own.decoding))
    pixels = colorizer(photograph.pixels, edit.hints)
    with named(target, item.name):
        notes = files.write(target, replace(photograph, pixels=pixels))
    return target, name, notes


def save_all(
    session: Session, ids: Iterable[str], suffix: str | None = None
) -> tuple[Path, list[str]]:
    """Save photographs into one ZIP, of names that do not clash; films are left out.

    Returns:
        The file, to be removed by the caller; and what the format could not keep.
    """
    target, taken, lost = session.new_path(".zip"), set(), Counter[str]()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for id in ids:
            if session.get(id).film:
                continue
            path, name, notes = save(session, id, suffix)
            lost.update(notes)
            stem, ending, count = Path(name).stem, Path(name).suffix, 1
            while name.lower() in taken:
                count += 1
                name = f"{stem}-{count}{ending}"
            taken.add(name.lower())
            archive.write(path, name)
            path.unlink()
    notes = [f"{note} ({n} photographs)" if n > 1 else note for note, n in lost.items()]
    return target, notes
