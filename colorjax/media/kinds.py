"""Which kind of picture a file is, where Pillow alone does not read it: by its first bytes."""

from pathlib import Path
from typing import BinaryIO

from colorjax.media import tiff

# Kind -> its suffixes, how its files begin: place and bytes.
_KINDS = {
    "raw": (
        ".dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .raf .orf .rw2 .rwl .pef .srw .x3f .mrw .3fr "
        ".iiq .erf .kdc .dcr .mef .mos .fff .raw",
        [(0, b"FUJIFILMCCD-RAW"), (0, b"IIRO"), (0, b"IIRS"), (0, b"MMOR"), (0, b"IIU\0")]
        + [(0, b"FOVb"), (0, b"\0MRM"), (4, b"ftypcrx "), (6, b"HEAPCCDR"), (8, b"CR\2")],
    ),
    "Photoshop": (".psd .psb", [(0, b"8BPS")]),
    "GIMP": (".xcf", [(0, b"gimp xcf")]),
    "Krita": (".kra", [(30, b"mimetypeapplication/x-krita")]),
    "OpenRaster": (".ora", [(30, b"mimetypeimage/openraster")]),
    "Illustrator": (".ai", []),
    "PDF": (".pdf", [(0, b"%PDF")]),
    "EPS": (".eps", [(0, b"%!PS"), (0, b"\xc5\xd0\xd3\xc6")]),
    "SVG": (".svg .svgz", []),
    "DjVu": (".djvu", [(0, b"AT&TFORM")]),
    "JPEG XL": (".jxl", [(0, b"\xff\x0a"), (4, b"JXL \r\n\x87\n")]),
    "JPEG XR": (".jxr .wdp", [(0, b"II\xbc")]),
    "OpenEXR": (".exr", [(0, b"v/1\x01")]),
    "Radiance HDR": (".hdr", [(0, b"#?RADIANCE"), (0, b"#?RGBE")]),
    "PFM": (".pfm", [(0, b"PF\n"), (0, b"Pf\n")]),
    "PAM": (".pam", [(0, b"P7\n")]),
    "Targa": (".tga", []),
    "PCX": (".pcx", [(0, b"\x0a\5\1\x08")]),
    "icon": (".ico", [(0, b"\0\0\1\0"), (0, b"\0\0\2\0")]),
    "QOI": (".qoi", [(0, b"qoif")]),
    "MNG": (".mng", [(0, b"\x8aMNG")]),
    "JNG": ("", [(0, b"\x8bJNG")]),
    "BPG": ("", [(0, b"BPG\xfb")]),
    "DICOM": (".dcm", [(128, b"DICM")]),
    "FITS": (".fits", [(0, b"SIMPLE  =")]),
    "Windows metafile": (".wmf .emf", [(0, b"\xd7\xcd\xc6\x9a"), (40, b" EMF")]),
}
# Suffix -> kind of the pictures that are not read.
OTHER_KINDS = {suffix: kind for kind, (names, _) in _KINDS.items() for suffix in names.split()}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif"}


def kind_of(file: BinaryIO, name: str | Path) -> str | None:
    """Name the kind of a picture, "TIFF" and "HEIC" among them; None where Pillow may tell."""
    file.seek(0)
    head = file.read(1024)
    for kind, (_, beginnings) in _KINDS.items():
        for place, magic in beginnings:
            if head.startswith(magic, place):
                return kind
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[place : place + 4] for place in range(16, head[3] & 252, 4))}
        return "HEIC" if brands & _HEIC and not brands & {b"avif", b"avis"} else None
    if b"<svg" in head:
        return "SVG"
    if head[:2] == b"\xff\xd8" and (kind := _rare_jpeg(file)):
        return kind
    if head[:4] in tiff.MAGIC:
        return "raw" if OTHER_KINDS.get(Path(name).suffix.lower()) == "raw" else "TIFF"
    return None


def _rare_jpeg(file: BinaryIO) -> str | None:
    """Name the kind of a JPEG that is not baseline or progressive of 8 bits, by its header."""
    file.seek(2)
    while len(mark := file.read(5)) == 5 and mark[0] == 255:
        kind, size = mark[1], int.from_bytes(mark[2:4])
        if kind == 0xF7:
            return "JPEG-LS"
        if kind in range(0xC0, 0xD0) and kind not in (0xC4, 0xC8, 0xCC):
            lossless = kind in (0xC3, 0xC5, 0xC6, 0xC7) or kind > 0xCA
            return "lossless JPEG" if lossless else "JPEG of 12 bits" if mark[4] == 12 else None
        if kind == 0xDA or size < 2:
            return None
        file.seek(size - 3, 1)
    return None
