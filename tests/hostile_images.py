"""Small image files that claim or unpack to far more than they are, or that point at other files."""

import bz2
import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pydicom
import scipy.io
from pydicom.data import get_testdata_file

BOMB = 256 * 2**20  # bytes of zeros; packed 1,000 times smaller


def cases(folder: Path) -> Iterator[Path]:
    """Each file is to be refused in a line, in two seconds and with 200 MB more at most."""
    for make in (nifti, nrrd, npy, npz, mat, archive, pictures, dicom, hdf5):
        yield from make(folder)


def _packed(start: bytes, path: Path) -> Path:
    """Gzip members one after the other are one stream."""
    path.write_bytes(gzip.compress(start) + gzip.compress(bytes(2**24)) * (BOMB // 2**24))
    return path


def nifti(folder: Path) -> Iterator[Path]:
    header = nibabel.Nifti1Header()
    header.set_data_shape((4, 4, 4))
    header.set_data_dtype(np.uint8)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    yield _packed(header.binaryblock + bytes(4), folder / "small_claim.nii.gz")
    header.set_data_shape((30000, 30000, 30, 30))
    (folder / "great_claim.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4096)))
    yield folder / "great_claim.nii.gz"
    header.set_data_shape((1, 1, 30000, 300))
    (folder / "many.nii").write_bytes(header.binaryblock + bytes(4 + 9_000_000))
    yield folder / "many.nii"


def nrrd(folder: Path) -> Iterator[Path]:
    text = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: %s\nencoding: %s\n\n"
    (folder / "zeros.nrrd").write_bytes(
        text % (b"4 4 4", b"gzip") + _packed(b"", folder / "zeros.gz").read_bytes()
    )
    packed = bz2.compress(bytes(BOMB // 4))
    (folder / "zeros_bz2.nrrd").write_bytes(text % (b"4 4 4", b"bzip2") + packed)
    (folder / "claim.nrrd").write_bytes(text % (b"90000 90000 90000", b"bzip2") + packed)
    yield from (folder / name for name in ("zeros.nrrd", "zeros_bz2.nrrd", "claim.nrrd"))


def npy(folder: Path) -> Iterator[Path]:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (2**31 - 1, 8, 8)}
    )
    (folder / "claim.npy").write_bytes(header.getvalue() + bytes(1000))
    yield folder / "claim.npy"


def npz(folder: Path) -> Iterator[Path]:
    for name, shape in (("small", (4, 4)), ("great", (2**20, 2**20))):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        with zipfile.ZipFile(
            folder / f"{name}.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1
        ) as file:
            with file.open("image.npy", "w") as member:
                member.write(header.getvalue())
                for _ in range(BOMB // 2**24):
                    member.write(bytes(2**24))
        yield folder / f"{name}.npz"


def mat(folder: Path) -> Iterator[Path]:
    """A 4 x 4 array whose numbers are said to be, and are, many more; and one with an honest shape that is too large."""
    for name, sides in (("small", (4, 4)), ("great", (2**15, 2**18))):
        body = struct.pack("<IIIIII", 6, 8, 9, 0, 5, 8) + struct.pack("<ii", *sides)
        body += struct.pack("<II", 1, 5) + b"image\0\0\0" + struct.pack("<II", 2, BOMB)
        packer = zlib.compressobj(1)
        packed = packer.compress(struct.pack("<II", 14, len(body) + BOMB) + body)
        packed += (
            b"".join(packer.compress(bytes(2**24)) for _ in range(BOMB // 2**24)) + packer.flush()
        )
        start = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
        (folder / f"{name}.mat").write_bytes(start + struct.pack("<II", 15, len(packed)) + packed)
        yield folder / f"{name}.mat"
    assert scipy.io.whosmat(folder / "small.mat") == [("image", (4, 4), "uint8")]


def archive(folder: Path) -> Iterator[Path]:
    png = io.BytesIO()
    PIL.Image.new("L", (4, 4)).save(png, "PNG")
    for name, member in (("picture", "a.png"), ("labels", "dataset.json")):
        with zipfile.ZipFile(
            folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1
        ) as file:
            if member != "a.png":
                file.writestr("a.png", png.getvalue())
            with file.open(member, "w") as stream:
                stream.write(png.getvalue())
                for _ in range(BOMB // 2**24):
                    stream.write(bytes(2**24))
        yield folder / f"{name}.zip"


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def pictures(folder: Path) -> Iterator[Path]:
    def png(side: int, data: bytes, *before: bytes) -> bytes:
        header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        return (
            b"\x89PNG\r\n\x1a\n"
            + header
            + b"".join(before)
            + _chunk(b"IDAT", data)
            + _chunk(b"IEND", b"")
        )

    (folder / "claim.png").write_bytes(png(100_000, zlib.compress(bytes(10**6))))
    (folder / "cannot.png").write_bytes(png(13_000, zlib.compress(bytes(10**5))))
    endless = _chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    (folder / "endless.png").write_bytes(png(4, zlib.compress(bytes(20)), endless))
    jpeg = io.BytesIO()
    PIL.Image.new("L", (8, 8)).save(jpeg, "JPEG")
    place = jpeg.getvalue().index(b"\xff\xc0") + 5
    great = (
        jpeg.getvalue()[:place] + struct.pack(">HH", 65000, 65000) + jpeg.getvalue()[place + 4 :]
    )
    (folder / "claim.jpg").write_bytes(great)
    entries = [
        (256, 60000),
        (257, 60000),
        (258, 8),
        (259, 8),
        (262, 1),
        (273, 200),
        (277, 1),
        (278, 60000),
        (279, 10),
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries
    )
    (folder / "claim.tif").write_bytes(struct.pack("<2sHI", b"II", 42, 8) + directory + bytes(200))
    yield from (
        folder / name
        for name in ("claim.png", "cannot.png", "endless.png", "claim.jpg", "claim.tif")
    )


def dicom(folder: Path) -> Iterator[Path]:
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    ds.NumberOfFrames = 2_000_000_000
    ds.save_as(folder / "frames.dcm")
    ds.NumberOfFrames, ds.Rows, ds.Columns = 1, 65535, 65535
    ds.save_as(folder / "sides.dcm")
    packed = pydicom.dcmread(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm", download=False))
    frame = next(pydicom.encaps.generate_frames(packed.PixelData, number_of_frames=1))
    place = frame.index(b"\xff\xc0") + 5
    frame = frame[:place] + struct.pack(">HH", 13000, 13000) + frame[place + 4 :]
    packed.PixelData = pydicom.encaps.encapsulate([frame])
    packed.save_as(folder / "stream.dcm")
    small = pydicom.dcmread(get_testdata_file("image_dfl.dcm", download=False))
    small.save_as(folder / "deflated.dcm")
    raw = (folder / "deflated.dcm").read_bytes()
    start = 144 + small.file_meta.FileMetaInformationGroupLength
    inner = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw[start:])
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = (
        packer.compress(inner)
        + b"".join(packer.compress(bytes(2**24)) for _ in range(BOMB // 2**24))
        + packer.flush()
    )
    (folder / "deflated.dcm").write_bytes(raw[:start] + body)
    yield from (folder / name for name in ("frames.dcm", "sides.dcm", "stream.dcm", "deflated.dcm"))


def hdf5(folder: Path) -> Iterator[Path]:
    """Claims, and the three ways to another file, which here is a secret."""
    import h5py

    (folder / "secret.txt").write_bytes(b"secret number 42" * 64)
    with h5py.File(folder / "secret.hdf5", "w") as file:
        file["image"] = np.frombuffer((folder / "secret.txt").read_bytes(), np.uint8).reshape(
            32, 32
        )
    with h5py.File(folder / "claim.h5", "w") as file:
        file.create_dataset("image", (2**31 - 1, 8, 8), "u1", chunks=(1, 8, 8))
    with h5py.File(folder / "chunk.h5", "w") as file:
        file.create_dataset(
            "image", (3, 2**16, 2**14), "f4", chunks=(3, 2**14, 2**14), compression="gzip"
        )
    with h5py.File(folder / "link.h5", "w") as file:
        file["image"] = h5py.ExternalLink(str(folder / "secret.hdf5"), "/image")
    with h5py.File(folder / "storage.h5", "w") as file:
        file.create_dataset(
            "image", (32, 32), "u1", external=[(str(folder / "secret.txt"), 0, 1024)]
        )
    with h5py.File(folder / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((32, 32), "u1")
        layout[:] = h5py.VirtualSource(str(folder / "secret.hdf5"), "image", (32, 32))
        file.create_virtual_dataset("image", layout)
    with h5py.File(folder / "soft.h5", "w") as file:
        file["elsewhere"] = h5py.ExternalLink(str(folder / "secret.hdf5"), "/")
        file["image"] = h5py.SoftLink("/elsewhere/image")
    for name in ("claim", "chunk", "link", "storage", "virtual", "soft"):
        yield folder / f"{name}.h5"
    for name in ("link", "storage", "virtual"):  # as MATLAB 7.3
        data = (folder / f"{name}.h5").read_bytes()
        (folder / f"{name}_7.3.mat").write_bytes(data)
        yield folder / f"{name}_7.3.mat"
