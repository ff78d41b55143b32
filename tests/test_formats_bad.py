"""Files that are not what they should be: one line each (file, reason, what is allowed), and nothing half-written."""

import errno
import gzip
import io
import os
import struct
import zipfile
from pathlib import Path
from unittest import mock

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

from data import formats
from data.formats import Image, Meta

GRAY = np.arange(600, dtype=np.uint8).reshape(20, 30)


def good(folder: Path, suffix: str) -> Path:
    """A sound little file of each format."""
    path = folder / f"good{suffix}"
    dtype = {".jpg": "uint8", ".bmp": "uint8", ".zip": "uint8"}.get(
        suffix, "int16" if suffix in (".nii", ".nii.gz", ".nrrd", ".dcm") else "uint16"
    )
    pixels = torch.tensor(np.random.default_rng(0).integers(0, 255, (1, 20, 30))).float()
    if suffix == ".zip":
        formats.reassemble([Image(pixels, Meta("png", label=i)) for i in range(2)], path)
    else:
        formats.write(Image(pixels, Meta(formats.SUFFIXES[suffix], dtype)), path)
    return path


def refuse(path: Path, *words: str, index: int | None = None) -> None:
    for attempt in (formats.read, formats.count) if not words else (formats.read,):
        with pytest.raises(ValueError) as caught:
            attempt(path, **({"index": index} if attempt is formats.read else {}))
        line = str(caught.value)
        assert "\n" not in line and line.startswith(str(path)) and len(line) < 1000, line
        for word in words:
            assert word in line, line


PACKED = [
    ".png",
    ".jpg",
    ".bmp",
    ".tif",
    ".dcm",
    ".nii",
    ".nii.gz",
    ".nrrd",
    ".npy",
    ".npz",
    ".zip",
    ".h5",
    ".mat",
]


@pytest.mark.parametrize("suffix", PACKED)
def test_truncated(tmp_path, suffix):
    data = good(tmp_path, suffix).read_bytes()
    for kept in (1, 4, 10, len(data) // 3, len(data) // 2, len(data) * 9 // 10):
        path = tmp_path / f"{kept}{suffix}"
        path.write_bytes(data[:kept])
        refuse(path, "", index=0)


@pytest.mark.parametrize("suffix", PACKED)
def test_empty_and_renamed(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"")
    refuse(tmp_path / f"a{suffix}")
    refuse(tmp_path / f"a{suffix}", "empty")
    (tmp_path / f"b{suffix}").write_bytes(b"this is a text file, whatever its name says\n" * 20)
    refuse(
        tmp_path / f"b{suffix}",
        "allowed" if suffix in (".dcm", ".nii", ".nii.gz", ".mat") else "its name says",
    )
    other = ".png" if suffix != ".png" else ".jpg"
    (tmp_path / f"c{suffix}").write_bytes(good(tmp_path, other).read_bytes())
    refuse(tmp_path / f"c{suffix}", "its name says", formats.SUFFIXES[other])
    refuse_unknown = tmp_path / "d.xyz"
    refuse_unknown.write_bytes(b"x" * 200)
    refuse(refuse_unknown, "not a known image file")


def test_pictures_that_would_be_misread(tmp_path):
    PIL.Image.fromarray(np.stack([GRAY] * 4, -1), "CMYK").save(tmp_path / "cmyk.jpg")
    refuse(tmp_path / "cmyk.jpg", "colour mode CMYK", "allowed")
    PIL.Image.fromarray(np.stack([GRAY] * 4, -1), "CMYK").save(tmp_path / "cmyk.tif")
    refuse(tmp_path / "cmyk.tif", "CMYK", "allowed")
    PIL.Image.fromarray(np.stack([GRAY] * 4, -1)).save(tmp_path / "alpha.png")
    refuse(tmp_path / "alpha.png", "alpha varies", "allowed")
    keyed = PIL.Image.fromarray(GRAY)
    keyed.save(tmp_path / "keyed.png", transparency=7)
    refuse(tmp_path / "keyed.png", "alpha varies", "allowed")
    for name, value in (("nan.tif", np.nan), ("inf.tif", np.inf), ("inf.npy", -np.inf)):
        array = GRAY.astype(np.float32)
        array[3, 4] = value
        np.save(tmp_path / name, array) if name.endswith("npy") else PIL.Image.fromarray(
            array
        ).save(tmp_path / name)
        refuse(
            tmp_path / name, "1 of 600 values are NaN or infinite", "only finite values are allowed"
        )
    fine = GRAY.astype(np.float32) / 7 - 20
    PIL.Image.fromarray(fine).save(tmp_path / "float.tif")
    assert np.array_equal(formats.read(tmp_path / "float.tif").pixels[0], fine)


def test_sixteen_bits_are_never_cut_to_eight(tmp_path):
    """Pillow reads 16-bit colour as 8-bit colour without a word."""
    pixels = torch.arange(6 * 7 * 3).reshape(3, 6, 7).float() * 500 + 3
    for name, format in (("colour.png", "png"), ("colour.tif", "tiff")):
        formats.write(Image(pixels, Meta(format, "uint16")), tmp_path / name)
        with PIL.Image.open(tmp_path / name) as picture:
            assert picture.mode == "RGB"  # here they are cut
        assert torch.equal(formats.read(tmp_path / name).pixels, pixels)
    # big-endian TIFF by hand: 2×1 RGB
    entries = [
        (256, 4, 1, 2),
        (257, 4, 1, 1),
        (258, 3, 3, 122),
        (259, 3, 1, 1 << 16),
        (262, 3, 1, 2 << 16),
        (273, 4, 1, 128),
    ]
    entries += [(277, 3, 1, 3 << 16), (278, 4, 1, 1), (279, 4, 1, 12)]
    directory = (
        struct.pack(">H", len(entries))
        + b"".join(struct.pack(">HHII", *entry) for entry in entries)
        + bytes(4)
    )
    body = struct.pack(">9H", 16, 16, 16, 300, 301, 302, 4000, 50000, 65535)
    (tmp_path / "big.tif").write_bytes(b"MM\0*" + struct.pack(">I", 8) + directory + body)
    assert formats.read(tmp_path / "big.tif").pixels[:, 0].T.tolist() == [
        [300, 301, 302],
        [4000, 50000, 65535],
    ]
    np.save(tmp_path / "deep.npy", np.full((4, 5), 2**23 + 1, np.int32))
    refuse(tmp_path / "deep.npy", "2^23")


def test_dicom(tmp_path):
    source = Path(get_testdata_file("CT_small.dcm", download=False))

    def changed(name: str, **values) -> Path:
        ds = pydicom.dcmread(source)
        for key, value in values.items():
            setattr(ds, key, value) if value is not None else delattr(ds, key)
        ds.save_as(tmp_path / name)
        return tmp_path / name

    refuse(changed("pixels.dcm", PixelData=None), "allowed")
    refuse(changed("rows.dcm", Rows=None), "no image (CT Image Storage)", "allowed")
    refuse(
        changed("short.dcm", PixelData=b"\0" * 1000),
        "promises 32768",
        "more than the file can hold",
    )
    refuse(changed("long.dcm", Rows=64), "(2, 64, 128)", "(64, 128)")
    refuse(changed("frames.dcm", NumberOfFrames=3), "promises 98304", "more than the file can hold")
    refuse(changed("frames.dcm", NumberOfFrames=3), "", index=2)
    refuse(changed("slope.dcm", RescaleSlope=0), "RescaleSlope 0.0", "allowed")
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 16], bytes(8)
    refuse(changed("lut.dcm", ModalityLUTSequence=[table]), "Modality LUT", "allowed")
    refuse(changed("colour.dcm", PhotometricInterpretation="YBR_ODD"), "allowed")
    raw = source.read_bytes()
    (tmp_path / "nopreamble.dcm").write_bytes(raw[132:])
    refuse(tmp_path / "nopreamble.dcm", "no DICM mark", "allowed")


def test_nifti(tmp_path):
    def saved(name: str, array: np.ndarray) -> Path:
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / name)
        return tmp_path / name

    refuse(
        saved("4d.nii", np.zeros((4, 5, 3, 2), np.int16)),
        "holds 6 slices; an index 0 to 5 is needed",
    )
    refuse(saved("4d.nii", np.zeros((4, 5, 3, 2), np.int16)), "outside 0 to 5", index=6)
    refuse(saved("5d.nii", np.zeros((4, 5, 3, 2, 2), np.int16)), "two to four")
    refuse(saved("nan.nii", np.full((4, 5, 3), np.nan, np.float32)), "NaN", index=0)
    data = saved(
        "cut.nii.gz", np.random.default_rng(0).integers(0, 99, (20, 20, 5)).astype(np.int16)
    ).read_bytes()
    for cut in (1, 4, 8, 100, len(data) // 2):
        (tmp_path / "cut.nii.gz").write_bytes(data[:-cut])
        refuse(tmp_path / "cut.nii.gz", "gz", index=0)
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(gzip.decompress(data)[:400]))
    refuse(tmp_path / "bomb.nii.gz", "promises 4000 bytes", index=0)
    with pytest.raises(ValueError, match="slice axis 3; 0, 1 or 2 is allowed"):
        formats.read(saved("4d.nii", np.zeros((4, 5, 3), np.int16)), 0, axis=3)


def test_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    refuse(tmp_path / "none.zip", "no pictures inside", "allowed")
    with zipfile.ZipFile(tmp_path / "json.zip", "w") as archive:
        archive.writestr("a.png", good(tmp_path, ".png").read_bytes())
        archive.writestr("dataset.json", '{"labels": [["a.png", [0, 1]]]}')
    refuse(tmp_path / "json.zip", "allowed")
    np.savez(tmp_path / "two.npz", a=GRAY, b=GRAY)
    refuse(tmp_path / "two.npz", "holds 2 arrays", "allowed")
    np.save(tmp_path / "object.npy", np.array([[{}]]), allow_pickle=True)
    refuse(tmp_path / "object.npy", "allowed")
    np.save(tmp_path / "text.npy", np.array([["a", "b"]]))
    refuse(tmp_path / "text.npy", "allowed")
    np.save(tmp_path / "line.npy", np.arange(5))
    refuse(tmp_path / "line.npy", "shape (5,)", "allowed")


def test_paths_that_are_no_files(tmp_path, monkeypatch):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    refuse(tmp_path / "loop.png", "symbolic links")
    refuse(tmp_path / "absent.png", "No such file")
    (tmp_path / "folder.png").mkdir()
    refuse(tmp_path / "folder.png", "not a file")
    os.mkfifo(tmp_path / "pipe.png")
    refuse(tmp_path / "pipe.png", "not a file")
    (tmp_path / "two\nlines.png").write_bytes(b"")
    with pytest.raises(ValueError) as caught:
        formats.read(tmp_path / "two\nlines.png")
    assert "\n" not in str(caught.value)
    secret = good(tmp_path, ".png")

    def forbidden(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "open", forbidden)  # chmod does not stop the superuser
    refuse(secret, "Permission denied")


@pytest.mark.parametrize("suffix", PACKED)
def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, suffix):
    path = good(tmp_path, suffix)
    before, image = path.read_bytes(), formats.read(path, 0)

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match="the disk is full, .*No space left on device") as caught:
        if suffix == ".zip":
            formats.reassemble([formats.read(path, i) for i in range(2)], path)
        else:
            formats.write(image, path)
    assert (
        "\n" not in str(caught.value)
        and path.read_bytes() == before
        and os.listdir(tmp_path) == [path.name]
    )
    if suffix == ".dcm":
        with pytest.raises(ValueError, match="No space left on device"):
            formats.reassemble([image], tmp_path / "series")
        assert os.listdir(tmp_path) == [path.name]


def test_what_is_not_written(tmp_path):
    pixels = torch.zeros(1, 4, 5)
    bad = pixels.clone()
    bad[0, 1, 1] = torch.nan
    for image, name, words in (
        (Image(bad, Meta("png")), "a.png", "only finite values are allowed"),
        (Image(pixels[0], Meta("png")), "a.png", r"\[C, H, W\] is allowed"),
        (Image(pixels.expand(2, -1, -1), Meta("png")), "a.png", "1 or 3 are allowed"),
        (Image(pixels, Meta("png", "float32")), "a.png", "uint8 or uint16 is allowed"),
        (Image(pixels, Meta("jpeg", "uint16")), "a.jpg", "uint8 is allowed"),
        (Image(pixels, Meta("png")), "a.tif", r"\.png is allowed"),
        (Image(pixels, Meta("png")), "no/such/folder/a.png", "No such file or directory"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            formats.write(image, tmp_path / name)
        assert "\n" not in str(caught.value) and not os.listdir(tmp_path)


def one_line_or_image(path: Path) -> bool:
    """The whole promise: an Image of finite float32 pixels, or a ValueError of one line that begins with the file."""
    try:
        image = formats.read(path, 0)
    except ValueError as error:
        assert "\n" not in str(error) and str(error).startswith(str(path)), repr(error)
        return False
    assert (
        image.pixels.dtype == torch.float32
        and image.pixels.ndim == 3
        and bool(torch.isfinite(image.pixels).all())
    )
    return True


DAMAGE = st.tuples(
    st.sampled_from(PACKED),
    st.lists(
        st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=8
    ),  # headers: the first bytes
    st.one_of(st.none(), st.integers(0, 3000)),  # and cut there
)


def check_damage(folder: Path, case) -> None:
    suffix, changes, cut = case
    sound = folder / f"good{suffix}"
    data = bytearray((sound if sound.exists() else good(folder, suffix)).read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    path = folder / f"damaged{suffix}"
    path.write_bytes(data[:cut])
    one_line_or_image(path)


relaxed = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
    "derandomize": True,
}


@given(DAMAGE)
@settings(max_examples=60, **relaxed)
def test_damaged_headers_give_one_line(tmp_path, case):
    check_damage(tmp_path, case)


@pytest.mark.slow
@given(DAMAGE)
@settings(max_examples=2000, **relaxed)
def test_damaged_headers_give_one_line_2000(tmp_path, case):
    check_damage(tmp_path, case)


ODD = st.one_of(
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.sampled_from(["", "1A", "nan", "1\\2\\3", "\\", "é" * 9, "9" * 40, "-1", "0"]),
)
DICOM_FIELDS = """
Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel PlanarConfiguration NumberOfFrames
PhotometricInterpretation RescaleSlope RescaleIntercept WindowCenter WindowWidth PixelSpacing ImagePositionPatient ImageType
ImageOrientationPatient PatientID InstanceNumber SeriesInstanceUID SOPInstanceUID SOPClassUID SpecificCharacterSet
""".split()
NIFTI_FIELDS = """
dim datatype bitpix scl_slope scl_inter vox_offset sform_code qform_code srow_x quatern_b pixdim cal_min cal_max
""".split()
NRRD_LINES = """type: {}\ndimension: {}\nsizes: {} {} 1\nencoding: {}\nendian: {}\nspace: {}\nspace directions: {} {} none
space origin: ({},{},0)\nkinds: {} {} domain\ndata file: {}\nspacings: {} {} 1\nline skip: {}\nbyte skip: {}""".split(
    "\n"
)
ODD_HEADER = st.one_of(
    st.tuples(
        st.just(".dcm"), st.dictionaries(st.sampled_from(DICOM_FIELDS), ODD, min_size=1, max_size=3)
    ),
    st.tuples(
        st.just(".nii"), st.dictionaries(st.sampled_from(NIFTI_FIELDS), ODD, min_size=1, max_size=3)
    ),
    st.tuples(
        st.just(".nrrd"), st.dictionaries(st.sampled_from(NRRD_LINES), ODD, min_size=1, max_size=3)
    ),
)


def check_odd_header(folder: Path, case) -> None:
    """A sound file but for a few fields; what can be read can also be written, or says why not."""
    suffix, fields = case
    sound = folder / f"good{suffix}"
    data = (sound if sound.exists() else good(folder, suffix)).read_bytes()
    path = folder / f"odd{suffix}"
    path.write_bytes(
        {".dcm": odd_dicom, ".nii": odd_nifti, ".nrrd": odd_nrrd}[suffix](data, fields)
    )
    if one_line_or_image(path):
        try:
            with mock.patch(
                "os.fsync"
            ):  # thousands of them, on a disk that is not the subject here
                formats.write(formats.read(path, 0), folder / f"again{suffix}")
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            assert one_line_or_image(folder / f"again{suffix}")


def odd_dicom(data: bytes, fields: dict) -> bytes:
    """The text or number goes in as raw bytes: pydicom would not write it."""
    ds = pydicom.dcmread(io.BytesIO(data))
    for keyword, value in fields.items():
        tag = pydicom.datadict.tag_for_keyword(keyword)
        vr = pydicom.datadict.dictionary_VR(tag)
        raw = (
            struct.pack("<q", value)[:2]
            if vr == "US" and isinstance(value, int)
            else str(value).encode()
        )
        raw += b" " * (len(raw) % 2)
        ds[tag] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag(tag), vr, len(raw), raw, 0, False, True
        )
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=False)
    return out.getvalue()


def odd_nifti(data: bytes, fields: dict) -> bytes:
    header = nibabel.Nifti1Header(data[:348], check=False)
    for name, value in fields.items():
        number = value if isinstance(value, (int, float)) else len(value) * 300
        kind = header.structarr[name].dtype
        with np.errstate(all="ignore"):
            number = (
                np.float64(number)
                if kind.kind == "f"
                else np.int64(number if np.isfinite(number) and abs(number) < 2**62 else -1)
            )
            header.structarr[name] = number.astype(kind)
    return header.binaryblock + data[348:]


def odd_nrrd(data: bytes, fields: dict) -> bytes:
    start, _, body = data.partition(b"\n\n")
    added = [line.replace("{}", str(value)) for line, value in fields.items()]
    names = tuple(line.split(":")[0].encode() + b":" for line in added)
    kept = [line for line in start.split(b"\n") if not line.startswith(names)]
    return b"\n".join([*kept, *(line.encode() for line in added)]) + b"\n\n" + body


@given(ODD_HEADER)
@settings(max_examples=60, **relaxed)
def test_odd_headers_give_one_line(tmp_path, case):
    check_odd_header(tmp_path, case)


@pytest.mark.slow
@given(ODD_HEADER)
@settings(max_examples=2000, **relaxed)
def test_odd_headers_give_one_line_2000(tmp_path, case):
    check_odd_header(tmp_path, case)
