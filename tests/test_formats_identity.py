"""Canaries: a word in every place where a file can hold one, and none of them in what is written, said or told in an error."""

import gzip
import io
import json
import zipfile

import h5py
import nibabel
import nrrd
import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import PIL.TiffImagePlugin
import pydicom
import pytest
import scipy.io
from pydicom.data import get_testdata_file
from pydicom.datadict import DicomDictionary, dictionary_VR

from data import formats
from data.formats.dicom_words import NUMBERS, WORDS

CANARY = "CANARY"
TEXT = {
    "AE": 16,
    "CS": 16,
    "LO": 64,
    "LT": 64,
    "PN": 64,
    "SH": 16,
    "ST": 64,
    "UC": 64,
    "UR": 64,
    "UT": 64,
}


def silent(*written: bytes | str) -> bool:
    """No canary, in any case, nor in what is packed inside."""
    for text in written:
        raw = text if isinstance(text, bytes) else text.encode(errors="surrogateescape")
        if raw[:2] == b"\x1f\x8b":
            raw += gzip.decompress(raw)
        if raw[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(raw)) as archive:
                raw += b"".join(archive.read(name) for name in archive.namelist())
        if CANARY.lower().encode() in raw.lower():
            return False
    return True


def check(path, out):
    """An image of the file, written alone and with all others."""
    images = [formats.read(path, i) for i in range(formats.count(path))]
    for image in images:
        assert silent(repr(image.meta))
    if out.suffix != ".zip":
        formats.write(images[0], out, image_id="scan", derivation="daps")
        assert silent(out.read_bytes())
    if len(images) > 1:
        formats.reassemble(images, out)
        assert silent(out.read_bytes())


def filled(ds: pydicom.Dataset, keywords) -> list[str]:
    """Put a canary, with a number of its own, into every text attribute of the list."""
    placed = []
    for number, keyword in enumerate(keywords):
        vr = dictionary_VR(keyword).split(" ")[0]
        if vr in TEXT and keyword not in ("SpecificCharacterSet", "PhotometricInterpretation"):
            ds.add_new(keyword, vr, f"{CANARY}{number}"[: TEXT[vr]])
            placed.append(keyword)
    return placed


def test_dicom(tmp_path):
    """Every text attribute of the dictionary, at the top and inside the sequences that are kept; with VRs that lie, too."""
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    known = [
        entry[4]
        for tag, entry in DicomDictionary.items()
        if entry[4] and tag >> 16 > 2 and tag >> 16 < 0x5000
    ]
    placed = filled(ds, known)
    assert len(placed) > 1500
    macro = pydicom.Dataset()
    filled(macro, known)
    macro.PixelSpacing = [1, 1]
    inner = pydicom.Dataset()
    for keyword in NUMBERS | set(WORDS):
        if dictionary_VR(keyword) == "SQ":
            setattr(inner, keyword, [macro])
    ds.SharedFunctionalGroupsSequence, ds.SequenceOfUltrasoundRegions = [inner], [macro]
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    ds.add_new(0x00091001, "LO", f"private {CANARY}")
    ds.preamble = f"preamble {CANARY}".encode().ljust(128, b"\0")
    ds.file_meta.SourceApplicationEntityTitle = CANARY
    for keyword in (
        "KVP",
        "FlipAngle",
        "ExposureTime",
    ):  # numbers that are none: text under a number's tag
        ds.add_new(keyword, "LO", f"{CANARY} here")
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=False)
    assert not silent((tmp_path / "a.dcm").read_bytes())
    image = formats.read(tmp_path / "a.dcm")
    formats.reassemble([image], tmp_path / "series")
    check(tmp_path / "a.dcm", tmp_path / "b.dcm")
    assert silent((tmp_path / "series/0001.dcm").read_bytes())


@pytest.mark.parametrize("keyword", sorted(WORDS))
def test_defined_terms_pass_and_others_do_not(tmp_path, keyword):
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    for value in (sorted(WORDS[keyword])[0], CANARY):
        if keyword == "PhotometricInterpretation":
            continue
        ds.add_new(keyword, dictionary_VR(keyword), value)
        ds.save_as(tmp_path / "a.dcm", enforce_file_format=False)
        formats.write(formats.read(tmp_path / "a.dcm"), tmp_path / "b.dcm")
        assert (pydicom.dcmread(tmp_path / "b.dcm").get(keyword) == value) == (value != CANARY)


@pytest.mark.parametrize("version", [1, 2])
def test_nifti(tmp_path, version):
    kind = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}[version]
    image = kind(np.zeros((4, 5, 3), np.int16), np.eye(4))
    for field in image.header.keys():
        if image.header.structarr.dtype[field].kind == "S" and field not in ("magic", "eol_check"):
            image.header[field] = CANARY[: image.header.structarr.dtype[field].itemsize].encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", CANARY.encode()))
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert not silent((tmp_path / "a.nii.gz").read_bytes())
    check(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")


def test_nrrd(tmp_path):
    header = {"kinds": [CANARY, "domain", "domain"], "units": [CANARY, "mm", "um"], "space units": [CANARY, "mm", "mm"],
              "labels": [CANARY] * 3, "content": CANARY, "space": "left-posterior-superior", "sample units": CANARY,
              "space directions": np.eye(3), "Patient": CANARY, "encoding": "gzip"}  # fmt: skip
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((4, 5, 3), np.int16), header)
    (tmp_path / "a.nrrd").write_bytes(
        (tmp_path / "a.nrrd")
        .read_bytes()
        .replace(b"\nencoding", f"\n# {CANARY}\ncenters: {CANARY} cell cell\nencoding".encode())
    )
    check(tmp_path / "a.nrrd", tmp_path / "b.nrrd")
    back = nrrd.read_header(str(tmp_path / "b.nrrd"))
    assert back["units"] == ["", "mm", "um"] and back["centerings"] == ["none", "cell", "cell"]


def test_names_of_arrays(tmp_path):
    stack = np.random.default_rng(0).integers(0, 99, (4, 6, 5)).astype(np.int16)
    np.savez(tmp_path / "a.npz", **{f"{CANARY}_JOHN": stack})
    scipy.io.savemat(tmp_path / "a.mat", {f"{CANARY}_JOHN": stack.transpose(1, 2, 0)})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[f"{CANARY}_JOHN"] = stack
        file.attrs["who"] = file[f"{CANARY}_JOHN"].attrs["who"] = CANARY
    np.save(tmp_path / "a.npy", stack)
    for suffix in (".npz", ".mat", ".h5", ".npy"):
        check(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}")
    with np.load(tmp_path / "b.npz") as file:
        assert file.files == ["image"]


def test_pictures_and_archives(tmp_path):
    gray = PIL.Image.fromarray(np.zeros((6, 5), np.uint8))
    text, exif, tags = (
        PIL.PngImagePlugin.PngInfo(),
        PIL.Image.Exif(),
        PIL.TiffImagePlugin.ImageFileDirectory_v2(),
    )
    text.add_text("Author", CANARY)
    text.add_itxt(CANARY, CANARY)
    exif[0x013B] = exif[0x010E] = tags[270] = tags[315] = CANARY
    gray.save(tmp_path / "a.png", pnginfo=text, exif=exif)
    gray.save(tmp_path / "a.jpg", exif=exif, comment=CANARY)
    gray.save(tmp_path / "a.tif", tiffinfo=tags)
    for suffix in (".png", ".jpg", ".tif"):
        assert not silent((tmp_path / f"a{suffix}").read_bytes())
        check(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.comment = CANARY.encode()
        for name in (f"{CANARY}/2.png", f"{CANARY}/1.png"):
            archive.write(tmp_path / "a.png", name)
        archive.writestr(
            "dataset.json", json.dumps({"labels": [[f"{CANARY}/1.png", 7], [f"{CANARY}/2.png", 3]]})
        )
    check(tmp_path / "a.zip", tmp_path / "b.zip")
    assert [formats.read(tmp_path / "b.zip", i).meta.label for i in range(2)] == [7, 3]


def test_errors_do_not_quote(tmp_path):
    """Damaged files whose decoders would name what is inside."""

    def told(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError) as caught:
            formats.read(tmp_path / name, 0)
        return str(caught.value)

    nrrd_text = b"NRRD0004\ntype: %s\ndimension: 2\nsizes: 4 5\nencoding: raw\n%s\n\n" + bytes(20)
    lines = [told("a.nrrd", nrrd_text % (CANARY.encode(), b"kinds: domain domain")),
             told("a.nrrd", nrrd_text % (b"uint8", CANARY.encode())),
             told("a.nrrd", nrrd_text % (b"uint8", b"spacings: " + CANARY.encode()))]  # fmt: skip
    two = io.BytesIO()
    np.savez(two, **{f"{CANARY}a": np.zeros((4, 5)), f"{CANARY}b": np.zeros((4, 5))})
    scipy.io.savemat(
        tmp_path / "b.mat", {f"{CANARY}a": np.zeros((4, 5)), f"{CANARY}b": np.zeros((4, 5))}
    )
    lines += [told("a.npz", two.getvalue()), told("a.mat", (tmp_path / "b.mat").read_bytes())]
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        picture = io.BytesIO()
        PIL.Image.new("L", (4, 4)).save(picture, "PNG")
        archive.writestr(f"{CANARY}.png", picture.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": [[f"{CANARY}.png", CANARY]]}))
    lines.append(told("a.zip", (tmp_path / "b.zip").read_bytes()))
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    filled(ds, ["PatientName", "StudyDescription", "InstitutionName"])
    ds.RescaleSlope = 0
    out = io.BytesIO()
    ds.save_as(out)
    lines += [told("a.dcm", out.getvalue()), told("b.dcm", out.getvalue()[:3000])]
    for line in lines:
        assert silent(line) and "allowed" in line, line
