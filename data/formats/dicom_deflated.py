"""DICOM files that are deflated as a whole: unpacked once, no further than their header promises."""

import io
import zlib
from functools import lru_cache
from pathlib import Path

import pydicom

from data.files import Refusal
from data.formats import bounds
from data.formats.image import decoding

HEADER = 2**24  # bytes of a deflated file that hold its header, at most


def source_of(path: Path) -> Path | io.BytesIO:
    """The file, or what a deflated file unpacks to."""
    with path.open("rb") as file:
        start = file.read(1024)
    if pydicom.uid.DeflatedExplicitVRLittleEndian.encode() not in start:
        return path
    status = path.stat()
    return io.BytesIO(_inflated(path, status.st_mtime_ns, status.st_size))


def size_of(source: Path | io.BytesIO) -> int:
    return source.getbuffer().nbytes if isinstance(source, io.BytesIO) else source.stat().st_size


@lru_cache(maxsize=1)
def _inflated(path: Path, changed: int, size: int) -> bytes:
    """A deflated file as an Explicit VR Little Endian one, unpacked no further than its header promises.

    Of a file whose syntax is another after all (the UID may stand elsewhere), the file. changed, size: of the file.
    """
    raw = path.read_bytes()
    with decoding(path, "DICOM", private=True):
        meta = pydicom.filereader.read_file_meta_info(path)
        if meta.TransferSyntaxUID != pydicom.uid.DeflatedExplicitVRLittleEndian:
            return raw
        length = int(meta.FileMetaInformationGroupLength)
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        start = pydicom.filebase.DicomBytesIO()
        start.write(bytes(128) + b"DICM")
        pydicom.filewriter.write_file_meta_info(start, meta, enforce_standard=False)
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = stream.decompress(raw[144 + length :], HEADER)
        with decoding(path, "DICOM", private=True):
            ds = pydicom.dcmread(io.BytesIO(start.getvalue() + data), stop_before_pixels=True)
            sides = [int(ds.get(key) or 0) for key in ("SamplesPerPixel", "Rows", "Columns")]
            total, bits = (
                max(1, int(ds.get("NumberOfFrames") or 1)),
                int(ds.get("BitsAllocated") or 8),
            )
        claim = bounds.check(path, sides, total, -(-bits // 8), len(raw) * bounds.DEFLATE)
        room = claim + HEADER + bounds.SURPLUS - len(data)
        data += stream.decompress(stream.unconsumed_tail, room)
        if stream.unconsumed_tail and stream.decompress(stream.unconsumed_tail, 1):
            raise Refusal(
                f"{path}: unpacks to more than the {claim} bytes it promises; an honest header is allowed"
            )
    except zlib.error as error:
        raise Refusal(
            f"{path}: its deflated data are damaged ({error}); an undamaged DICOM file is allowed"
        ) from error
    return start.getvalue() + data
