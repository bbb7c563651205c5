"""Which kind of picture a file is, where Pillow alone does not read it: by its first bytes."""

from pathlib import Path
from typing import BinaryIO

from colorjax.media import tiff

_RAW = (
    ".dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .raf .orf .rw2 .rwl .pef .srw .x3f .mrw .3fr "
    ".iiq .erf .kdc .dcr .mef .mos .fff .raw"
)
# Suffix -> kind of the pictures that are not read.
OTHER_KINDS = dict.fromkeys(_RAW.split(), "raw") | {
    ".psd": "Photoshop",
    ".psb": "Photoshop",
    ".xcf": "GIMP",
    ".kra": "Krita",
    ".ora": "OpenRaster",
    ".ai": "Illustrator",
    ".pdf": "PDF",
    ".eps": "EPS",
    ".svg": "SVG",
    ".svgz": "SVG",
    ".djvu": "DjVu",
    ".jxl": "JPEG XL",
    ".jxr": "JPEG XR",
    ".wdp": "JPEG XR",
    ".exr": "OpenEXR",
    ".hdr": "Radiance HDR",
    ".pfm": "PFM",
    ".pam": "PAM",
    ".tga": "Targa",
    ".pcx": "PCX",
    ".ico": "icon",
    ".qoi": "QOI",
    ".mng": "MNG",
    ".dcm": "DICOM",
    ".fits": "FITS",
    ".wmf": "Windows metafile",
    ".emf": "Windows metafile",
}
# How other kinds begin: place, bytes, name.
_MAGIC = (
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "EPS"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL \r\n\x87\n", "JPEG XL"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"gimp xcf", "GIMP"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"PF\n", "PFM"),
    (0, b"Pf\n", "PFM"),
    (0, b"P7\n", "PAM"),
    (0, b"qoif", "QOI"),
    (0, b"\x8aMNG", "MNG"),
    (0, b"\x8bJNG", "JNG"),
    (0, b"\0\0\1\0", "icon"),
    (0, b"\0\0\2\0", "icon"),
    (0, b"\x0a\5\1\x08", "PCX"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"\xd7\xcd\xc6\x9a", "Windows metafile"),
    (40, b" EMF", "Windows metafile"),
    (30, b"mimetypeapplication/x-krita", "Krita"),
    (30, b"mimetypeimage/openraster", "OpenRaster"),
    (0, b"FUJIFILMCCD-RAW", "raw"),
    (4, b"ftypcrx ", "raw"),
    (6, b"HEAPCCDR", "raw"),
    (0, b"IIRO", "raw"),
    (0, b"IIRS", "raw"),
    (0, b"MMOR", "raw"),
    (0, b"IIU\0", "raw"),
    (0, b"FOVb", "raw"),
    (0, b"\0MRM", "raw"),
    (8, b"CR\2", "raw"),
)
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif"}


def kind_of(file: BinaryIO, name: str | Path) -> str | None:
    """Name the kind of a picture, "TIFF" and "HEIC" among them; None where Pillow may tell."""
    file.seek(0)
    head = file.read(1024)
    for place, magic, kind in _MAGIC:
        if head[place : place + len(magic)] == magic:
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
