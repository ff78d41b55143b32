"""DICOM: pydicom's own pixels, lossless results, new identities, geometry, and no patient in what is written."""

import logging
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_color_lut

from data import formats
from data.formats import Image

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
GOLDEN = Path(__file__).parent / "golden" / "pydicom-3.0.2.txt"
MORE = ("same", "plug-in")
PHI = ("PatientName", "PatientID", "PatientBirthDate", "InstitutionName", "ReferringPhysicianName", "StudyDate", "SOPInstanceUID",
       "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "StationName", "AccessionNumber")  # fmt: skip


def shipped(name: str) -> Path:
    return Path(get_testdata_file(name, download=False))


def pydicom_frames(path: Path) -> np.ndarray:
    """[N, C, H, W] as pydicom gives it, before rescaling."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(path)
        array = ds.pixel_array
        if ds.PhotometricInterpretation == "PALETTE COLOR":
            array = apply_color_lut(array, ds)
    array = array if int(ds.get("NumberOfFrames") or 1) > 1 else array[None]
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array[:, None]


def outcome(path: Path) -> str:
    """`same`: our pixels are pydicom's. Otherwise why not, in a word; anything but a one-line ValueError is raised."""
    try:
        count = formats.count(path)
        images = [formats.read(path, i) for i in range(count)]
    except ValueError as error:
        assert "\n" not in str(error) and str(error).startswith(str(path))
        for word in ("no image", "plug-in", "not a known image file", "no DICM mark", "2^23"):
            if word in str(error):
                return word
        return "damaged"
    stored = pydicom_frames(path)
    assert len(stored) == count
    for image, frame in zip(images, stored):
        expected = frame.astype(np.float64)
        if image.meta.photometric == "MONOCHROME1":
            expected = 2**image.meta.bits - 1 - expected
        expected = expected * image.meta.slope + image.meta.intercept
        # one rounding to float32, at most 2^-24 of the value
        assert np.abs(image.pixels.numpy() - expected).max() <= 2**-24 * max(
            1, np.abs(expected).max()
        ), path
    return "same"


def test_every_shipped_dicom_reads_as_pydicom_reads_it_or_fails_in_one_line():
    """The table of outcomes is golden/pydicom-3.0.2.txt; "plug-in" may become "same" where more of them are installed."""
    files = [p for p in sorted(SHIPPED.rglob("*")) if p.is_file()]
    table = {p.relative_to(SHIPPED).as_posix(): outcome(p) for p in files}
    expected = dict(line.rsplit(maxsplit=1)[::-1] for line in GOLDEN.read_text().splitlines())
    known = table.keys() & expected.keys()  # other versions of pydicom ship other files
    assert len(known) > 150
    assert {
        n: (table[n], expected[n])
        for n in known
        if table[n] != expected[n] and (table[n], expected[n]) != MORE
    } == {}
    # What pydicom itself reads, we read. Only what float32 cannot hold is refused on top.
    refused = {
        name for name, word in table.items() if word != "same" and has_pixels(SHIPPED / name)
    }
    assert {table[name] for name in refused} <= {"2^23", "no DICM mark", "not a known image file"}
    assert sorted(name for name in refused if table[name] == "2^23") == [
        "SC_rgb_rle_32bit.dcm",
        "SC_rgb_rle_32bit_2frame.dcm",
    ]
    # independent of which plug-ins are installed:
    assert table["MR_truncated.dcm"] == table["badVR.dcm"] == "damaged"
    assert table["rtplan.dcm"] == table["dicomdirtests/DICOMDIR"] == "no image"
    assert (
        table["CT_small.dcm"]
        == table["liver_1frame.dcm"]
        == table["examples_palette.dcm"]
        == table["image_dfl.dcm"]
        == "same"
    )
    assert Counter(table.values())["same"] >= 79


def has_pixels(path: Path) -> bool:
    try:
        pydicom_frames(path)
    except Exception:  # whatever pydicom says: it cannot read it either
        return False
    return True


ROUND_TRIP = ["CT_small.dcm", "MR_small_bigendian.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "examples_overlay.dcm",
              "liver_1frame.dcm", "SC_rgb_rle_16bit_2frame.dcm", "examples_palette.dcm", "dicomdirtests/77654033/CR1/6154",
              "rtdose.dcm", "SC_ybr_full_422_uncompressed.dcm", "image_dfl.dcm"]  # fmt: skip


@pytest.mark.parametrize("name", ROUND_TRIP)
@pytest.mark.parametrize("keep_patient", [False, True])
def test_round_trip(tmp_path, name, keep_patient):
    """Signed, 12- and 14-bit, 1-bit, RGB, palette, MONOCHROME1, slopes: exact, and every geometry and unit the same."""
    image = formats.read(SHIPPED / name, formats.count(SHIPPED / name) - 1)
    moved = Image(
        image.pixels + 0.3 * image.meta.slope, image.meta
    )  # under half a stored unit: rounding brings it back
    formats.write(moved, tmp_path / "a.dcm", keep_patient=keep_patient)
    back = formats.read(tmp_path / "a.dcm")
    assert torch.equal(back.pixels, image.pixels)
    for field in (
        "dtype",
        "bits",
        "slope",
        "intercept",
        "window",
        "spacing",
        "affine",
        "photometric",
        "position",
    ):
        assert getattr(back.meta, field) == getattr(image.meta, field), field
    stored = pydicom_frames(tmp_path / "a.dcm")[0]
    if "palette" not in name:
        assert np.array_equal(
            stored, pydicom_frames(SHIPPED / name)[-1]
        )  # MONOCHROME1 is put back as it was


def test_monochrome1_is_inverted_and_its_window_with_it():
    image = formats.read(SHIPPED / "dicomdirtests/77654033/CR1/6154")
    ds = pydicom.dcmread(SHIPPED / "dicomdirtests/77654033/CR1/6154")
    plain = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    ends = 2 * float(ds.RescaleIntercept) + 4095 * float(ds.RescaleSlope)
    assert np.allclose(image.pixels[0].numpy(), ends - plain, rtol=1e-6)
    centre, width = (
        v[0] if isinstance(v, pydicom.multival.MultiValue) else v
        for v in (ds.WindowCenter, ds.WindowWidth)
    )
    assert np.allclose(image.meta.window, (ends - centre - width / 2, ends - centre + width / 2))


@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_monochrome1_leaves_numbers_with_a_unit_as_they_are(tmp_path, modality):
    """HU are HU however they are to be shown, in the image and its window, and the file says MONOCHROME1 again."""
    ds = pydicom.dcmread(SHIPPED / "CT_small.dcm")
    ds.PhotometricInterpretation, ds.Modality = "MONOCHROME1", modality
    ds.WindowCenter, ds.WindowWidth = 40, 400
    ds.save_as(tmp_path / "in.dcm")
    image = formats.read(tmp_path / "in.dcm")
    assert torch.equal(image.pixels, formats.read(SHIPPED / "CT_small.dcm").pixels)
    assert image.meta.window == (-160, 240)
    formats.write(image, tmp_path / "out.dcm")
    out = pydicom.dcmread(tmp_path / "out.dcm")
    assert out.PhotometricInterpretation == "MONOCHROME1"
    assert np.array_equal(out.pixel_array, ds.pixel_array)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "examples_ybr_color.dcm"])
def test_no_patient_data_unless_asked_for(tmp_path, name, caplog):
    source = pydicom.dcmread(SHIPPED / name)
    source.InstitutionName, source.PatientComments = "Hôpital secret", "comment about Smith^John"
    source.add_new(0x00091001, "LO", "private Smith^John")
    source.save_as(tmp_path / "in.dcm")
    with caplog.at_level(logging.DEBUG):
        image = formats.read(tmp_path / "in.dcm", 0)
        formats.write(
            image,
            tmp_path / "out.dcm",
            image_id="scan-7",
            config="c0ffee",
            derivation="daps, seed 0",
        )
        formats.write(
            image, tmp_path / "kept.dcm", image_id="scan-7", config="c0ffee", keep_patient=True
        )
    telling = [str(source.get(key)) for key in PHI if source.get(key)] + ["secret", "Smith^John"]
    raw = (tmp_path / "out.dcm").read_bytes()
    for text in telling:
        assert text not in caplog.text and text not in repr(image.meta), text
        assert len(text) < 5 or text.encode() not in raw, (
            text
        )  # a short one may turn up among the pixels by chance
    out, kept = pydicom.dcmread(tmp_path / "out.dcm"), pydicom.dcmread(tmp_path / "kept.dcm")
    assert kept.PatientID == source.PatientID and kept.StudyInstanceUID == source.StudyInstanceUID
    assert kept.SOPInstanceUID == out.SOPInstanceUID != source.SOPInstanceUID
    assert kept.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert out.PatientIdentityRemoved == "YES" and out.PatientID == image.meta.subject
    assert list(out.ImageType[:2]) == ["DERIVED", "SECONDARY"]
    assert out.DerivationDescription == "daps, seed 0; research use, not for diagnosis"
    assert not [e for e in out.iterall() if e.tag.is_private or str(e.value) in telling]


def test_uids_are_digests_of_image_and_config(tmp_path):
    image = formats.read(shipped("CT_small.dcm"))

    def uids(**how):
        formats.write(image, tmp_path / "a.dcm", **how)
        ds = pydicom.dcmread(tmp_path / "a.dcm")
        assert (
            ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
            and ds.SOPInstanceUID.is_valid
        )
        return ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID

    first, other_id, other_config = (
        uids(image_id="a", config="1"),
        uids(image_id="b", config="1"),
        uids(image_id="a", config="2"),
    )
    assert first == uids(image_id="a", config="1", derivation="another text")
    assert (
        first[0] != other_id[0] and first[1:] == other_id[1:]
    )  # another image of the same series and study
    assert (
        first[0] != other_config[0] and first[1] != other_config[1] and first[2] == other_config[2]
    )


def test_super_resolution_divides_the_spacing_and_moves_the_first_centre(tmp_path):
    image = formats.read(shipped("CT_small.dcm"))
    fine = Image(
        image.pixels.repeat_interleave(2, 1).repeat_interleave(2, 2), formats.resized(image.meta, 2)
    )
    formats.write(fine, tmp_path / "a.dcm")
    old, new = pydicom.dcmread(shipped("CT_small.dcm")), pydicom.dcmread(tmp_path / "a.dcm")
    assert (new.Rows, new.Columns) == (256, 256)
    assert np.allclose(np.array(new.PixelSpacing, float), np.array(old.PixelSpacing, float) / 2)
    # axial, rows along +x and columns along +y: the centre of the first of four small pixels
    shift = np.array([-1, -1, 0]) * float(old.PixelSpacing[0]) / 4
    assert np.allclose(
        np.array(new.ImagePositionPatient, float),
        np.array(old.ImagePositionPatient, float) + shift,
        atol=1e-6,
    )
    back = formats.read(tmp_path / "a.dcm").meta
    assert np.allclose(back.affine, fine.meta.affine, atol=1e-6) and np.allclose(
        back.spacing, fine.meta.spacing
    )


def test_enhanced_multi_frame_takes_the_geometry_of_its_frame(tmp_path):
    path = enhanced(tmp_path)
    images = [formats.read(path, i) for i in range(3)]
    assert [m.meta.intercept for m in images] == [0, 10, 20] and images[2].meta.affine[2][3] == 10.0
    assert images[1].meta.spacing == (0.5, 0.25)
    fine = formats.resized(images[2].meta, 2)
    formats.write(
        Image(images[2].pixels.repeat_interleave(2, 1).repeat_interleave(2, 2), fine),
        tmp_path / "one.dcm",
    )
    one = formats.read(tmp_path / "one.dcm")
    assert one.meta.count == 1 and one.meta.spacing == (0.25, 0.125) and one.meta.intercept == 20
    assert np.allclose(one.meta.affine, fine.affine)
    formats.reassemble(images[::-1], tmp_path / "all.dcm")
    again = [formats.read(tmp_path / "all.dcm", i) for i in range(3)]
    for a, b in zip(images, again):
        assert (
            torch.equal(a.pixels, b.pixels)
            and a.meta.affine == b.meta.affine
            and a.meta.slope == b.meta.slope
        )
    with pytest.raises(ValueError, match="slices 1 are missing"):
        formats.reassemble([images[0], images[2]], tmp_path / "part.dcm")
    assert not (tmp_path / "part.dcm").exists()


def enhanced(folder: Path) -> Path:
    """Three 4×6 frames whose place and scale are in functional groups."""
    ds = pydicom.dcmread(shipped("CT_small.dcm"))
    for keyword in (
        "PixelSpacing",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        del ds[keyword]
    ds.Rows, ds.Columns, ds.NumberOfFrames = 4, 6, 3
    ds.PixelData = np.arange(72, dtype=np.int16).tobytes()

    def group(name: str, **values) -> pydicom.Dataset:
        outer, inner = pydicom.Dataset(), pydicom.Dataset()
        for key, value in values.items():
            setattr(inner, key, value)
        setattr(outer, name, [inner])
        return outer

    shared = group("PixelMeasuresSequence", PixelSpacing=[0.5, 0.25], SliceThickness=5)
    shared.PlaneOrientationSequence = group(
        "PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0]
    )[0x00209116].value
    ds.SharedFunctionalGroupsSequence, frames = [shared], []
    for i in range(3):
        frame = group("PlanePositionSequence", ImagePositionPatient=[1, 2, 5 * i])
        scale = group("PixelValueTransformationSequence", RescaleSlope=2, RescaleIntercept=10 * i)
        frame.PixelValueTransformationSequence = scale.PixelValueTransformationSequence
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = frames
    ds.save_as(folder / "enhanced.dcm")
    return folder / "enhanced.dcm"


def series(folder: Path, n: int = 4) -> list[Path]:
    """Slices of one series; file names and InstanceNumbers run against the normal."""
    paths = []
    for k in range(n):
        ds = pydicom.dcmread(shipped("CT_small.dcm"))
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k}"
        ds.ImagePositionPatient, ds.InstanceNumber = [*ds.ImagePositionPatient[:2], 5.0 * k], n - k
        ds.PixelData = (ds.pixel_array + k).astype(np.int16).tobytes()
        paths.append(folder / f"{n - k}.dcm")
        ds.save_as(paths[-1])
    return paths


def test_series_is_reassembled_in_order_along_its_normal(tmp_path):
    images = [formats.read(path) for path in sorted(series(tmp_path))]
    ids = [f"id-{i}" for i in range(4)]
    formats.reassemble(images, tmp_path / "out", image_ids=ids, config="c")
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["0001.dcm", "0002.dcm", "0003.dcm", "0004.dcm"]
    out = [pydicom.dcmread(tmp_path / "out" / name) for name in names]
    assert [float(ds.ImagePositionPatient[2]) for ds in out] == [0, 5, 10, 15] and [
        ds.InstanceNumber for ds in out
    ] == [
        1,
        2,
        3,
        4,
    ]
    assert (
        len({ds.SeriesInstanceUID for ds in out}) == len({ds.StudyInstanceUID for ds in out}) == 1
    )
    assert len({ds.SOPInstanceUID for ds in out}) == 4
    formats.write(images[0], tmp_path / "a.dcm", image_id=ids[0], config="c")
    assert pydicom.dcmread(tmp_path / "a.dcm").SOPInstanceUID in {ds.SOPInstanceUID for ds in out}
    with pytest.raises(ValueError, match="given twice"):
        formats.reassemble([*images, images[0]], tmp_path / "twice")
    other = formats.read(shipped("MR_small.dcm"))
    with pytest.raises(ValueError, match="several DICOM series"):
        formats.reassemble([*images, other], tmp_path / "mixed")
    with pytest.raises(ValueError, match="new or empty folder"):
        formats.reassemble(images, tmp_path / "out")
    assert not [
        p for p in tmp_path.iterdir() if p.name in ("twice", "mixed") or p.name.endswith(".tmp")
    ]
