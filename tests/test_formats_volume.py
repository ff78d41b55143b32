"""NIfTI and NRRD: the slices that nibabel and pynrrd give, turned upright and back, put together again with the same affine."""

import gzip
import logging
import random
import sys
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import torch

from data import formats
from data.formats import Image

SHIPPED = Path(nibabel.__file__).parent
ENDINGS = (".nii", ".nii.gz", ".hdr", ".img", ".mgz")


def outcome(path: Path) -> str:
    """`same` if every slice along every axis is nibabel's; else the reason, in a word."""
    try:
        images = {
            axis: [formats.read(path, i, axis) for i in range(formats.count(path, axis))]
            for axis in range(3)
        }
    except ValueError as error:
        assert "\n" not in str(error) and str(error).startswith(str(path))
        return next(
            (
                word
                for word in ("not a known image file", "dimensions", "NaN")
                if word in str(error)
            ),
            "damaged",
        )
    expected = np.asarray(nibabel.load(path).dataobj, dtype=np.float64)
    expected = expected.reshape((*expected.shape, 1, 1)[:4])
    for axis, slices in images.items():
        for i, image in enumerate(slices):
            t, k = divmod(i, expected.shape[axis])
            error = np.abs(image.pixels[0].numpy() - np.take(expected[..., t], k, axis)).max()
            assert error <= 2**-23 * np.abs(expected).max(), (
                path,
                axis,
                i,
            )  # float32, and nibabel's own float32 scaling
    return "same"


def test_every_shipped_nifti_reads_as_nibabel_reads_it_or_fails_in_one_line(capsys):
    files = [p for p in sorted(SHIPPED.rglob("*")) if p.name.lower().endswith(ENDINGS)]
    table = {p.name: outcome(p) for p in files}
    with capsys.disabled():
        print("\n" + "\n".join(f"  {name:28s}{word}" for name, word in table.items()))
    expected = dict.fromkeys(
        ("anatomical.nii", "example4d.nii.gz", "example_nifti2.nii.gz", "functional.nii"), "same"
    )
    expected |= {"reoriented_anat_moved.nii": "same", "standard.nii.gz": "same"}
    expected |= {"resampled_anat_moved.nii": "NaN", "row_major.dconn.nii": "dimensions"}
    assert {name: table[name] for name in expected} == expected
    assert {word for name, word in table.items() if name not in expected} <= {
        "not a known image file"
    }


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "name", ["anatomical.nii", "functional.nii", "example4d.nii.gz", "reoriented_anat_moved.nii"]
)
def test_nifti_volume_is_put_together_again(tmp_path, name, axis):
    path = next(SHIPPED.rglob(name))
    source = nibabel.load(path)
    images = [
        formats.upright(formats.read(path, i, axis)) for i in range(formats.count(path, axis))
    ]
    random.Random(0).shuffle(images)
    formats.reassemble(images, tmp_path / "out.nii.gz")
    back = nibabel.load(tmp_path / "out.nii.gz")
    assert back.get_data_dtype() == source.get_data_dtype() and back.shape == source.shape
    assert np.array_equal(
        np.asarray(back.dataobj.get_unscaled()), np.asarray(source.dataobj.get_unscaled())
    )
    assert (
        np.array_equal(back.affine, source.affine)
        and back.header.get_zooms() == source.header.get_zooms()
    )
    assert np.array_equal(np.asarray(back.dataobj), np.asarray(source.dataobj))
    with pytest.raises(ValueError, match="incomplete"):
        formats.reassemble(images[1:], tmp_path / "part.nii.gz")
    with pytest.raises(ValueError, match="incomplete"):
        formats.reassemble([*images, images[0]], tmp_path / "part.nii.gz")
    assert [p.name for p in tmp_path.iterdir()] == ["out.nii.gz"]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("codes", [True, False])
def test_one_slice_keeps_its_place(tmp_path, axis, codes):
    path = next(SHIPPED.rglob("anatomical.nii"))
    if not codes:  # readers centre it
        whole = nibabel.load(path)
        whole.set_qform(None, 0)
        whole.set_sform(None, 0)
        nibabel.save(whole, path := tmp_path / "centred.nii")
    source = nibabel.load(path)
    formats.write(formats.upright(formats.read(path, 7, axis)), tmp_path / "one.nii")
    one = nibabel.load(tmp_path / "one.nii")
    where = [0, 0, 0, 1]
    where[axis] = 7
    assert np.allclose(one.affine @ [0, 0, 0, 1], source.affine @ where, atol=1e-4)
    assert np.array_equal(
        np.asarray(one.dataobj).squeeze(), np.take(np.asarray(source.dataobj), 7, axis)
    )


@pytest.mark.parametrize("first, step, count", [(0, 1, 9), (0, 1, 4), (3, 2, 3), (-0.25, 0.5, 18)])
def test_a_part_of_a_volume_without_transforms_stays_in_its_place(tmp_path, first, step, count):
    """Readers centre a header whose two codes are 0: the whole stays without them, a part says where it lies."""
    source = nibabel.Nifti1Image(np.zeros((6, 5, 9), np.int16), None)
    source.header.set_zooms((1, 2, 3))
    nibabel.save(source, tmp_path / "in.nii")
    source = nibabel.load(tmp_path / "in.nii")
    metas = [formats.read(tmp_path / "in.nii", k).meta for k in range(9)]
    made = [Image(torch.zeros(1, 6, 5), m) for m in formats.stacked(metas, first, step, count)]
    formats.reassemble(made, tmp_path / "out.nii")
    part = nibabel.load(tmp_path / "out.nii")
    codes = [int(part.header[key]) for key in ("qform_code", "sform_code")]
    assert part.shape == (6, 5, count) and codes == [0, 2 if count in (4, 3) else 0]
    for k in range(count):
        assert np.allclose(part.affine @ (1, 2, k, 1), source.affine @ (1, 2, first + k * step, 1))


def test_super_resolved_volume_has_finer_voxels_in_the_same_place(tmp_path):
    path = next(SHIPPED.rglob("anatomical.nii"))
    source = nibabel.load(path)
    images = []
    for i in range(25):
        image = formats.upright(formats.read(path, i))
        fine = image.pixels.repeat_interleave(2, 1).repeat_interleave(2, 2)
        images.append(Image(fine, formats.resized(image.meta, 2)))
    formats.reassemble(images, tmp_path / "fine.nii.gz")
    fine = nibabel.load(tmp_path / "fine.nii.gz")
    assert fine.shape == (66, 82, 25)
    assert np.array_equal(np.asarray(fine.dataobj)[::2, 1::2], np.asarray(source.dataobj))
    # outer corners of the field of view, half a voxel beyond the centres
    for old, new in (
        ([-0.5, -0.5, 0, 1], [-0.5, -0.5, 0, 1]),
        ([32.5, 40.5, 24, 1], [65.5, 81.5, 24, 1]),
    ):
        assert np.allclose(fine.affine @ new, source.affine @ old, atol=1e-3)
    assert np.allclose(fine.header.get_zooms(), np.array(source.header.get_zooms()) / [2, 2, 1])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, 1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_upright_looks_the_same_however_the_file_is_stored(tmp_path, order, signs, axis):
    """A volume with world coordinates as values: upright rows go toward feet (else back), columns toward the left (else back)."""
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * np.array(signs)
    grid = np.stack(np.meshgrid(range(4), range(5), range(6), indexing="ij"), -1)
    world = grid @ affine[:3, :3].T  # mm to the right, front, head
    directions = []
    for coordinate in range(3):
        nibabel.save(
            nibabel.Nifti1Image(world[..., coordinate].astype(np.float32), affine),
            tmp_path / f"{coordinate}.nii",
        )
        image = formats.upright(formats.read(tmp_path / f"{coordinate}.nii", 0, axis))
        directions.append(
            (
                float(image.pixels[0, 1, 0] - image.pixels[0, 0, 0]),
                float(image.pixels[0, 0, 1] - image.pixels[0, 0, 0]),
            )
        )
        formats.write(image, tmp_path / "back.nii")
        assert np.array_equal(
            np.asarray(nibabel.load(tmp_path / "back.nii").dataobj).squeeze(),
            np.take(world[..., coordinate], 0, axis),
        )
    across = int(np.abs(affine[:3, axis]).argmax())
    expected = {
        2: ((0, -1, 0), (-1, 0, 0)),
        1: ((0, 0, -1), (-1, 0, 0)),
        0: ((0, 0, -1), (0, -1, 0)),
    }[across]
    assert tuple(zip(*directions)) == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("space", ["left-posterior-superior", "right-anterior-superior", None])
@pytest.mark.parametrize("encoding", ["raw", "gzip", "ascii"])
def test_nrrd(tmp_path, encoding, space, axis):
    array = np.random.default_rng(0).integers(-1000, 3000, (5, 6, 7)).astype(np.int16)
    place = {
        "space": space,
        "space directions": np.diag([0.7, 0.8, 5.0]),
        "space origin": [1.0, 2.0, 3.0],
    }
    header = (place if space else {"spacings": [0.7, 0.8, 5.0]}) | {
        "encoding": encoding,
        "PatientName": "Smith^John",
    }
    nrrd.write(str(tmp_path / "a.nrrd"), array, header)
    images = [formats.read(tmp_path / "a.nrrd", i, axis) for i in range(array.shape[axis])]
    assert all(
        np.array_equal(image.pixels[0], np.take(array, i, axis)) for i, image in enumerate(images)
    )
    formats.reassemble([formats.upright(image) for image in images[::-1]], tmp_path / "b.nrrd")
    back, after = nrrd.read(str(tmp_path / "b.nrrd"))
    assert (
        np.array_equal(back, array) and back.dtype == array.dtype and after["encoding"] == encoding
    )
    for key in header.keys() - {"PatientName", "encoding"}:
        assert np.all(np.asarray(after[key]) == np.asarray(header[key])), key
    assert b"Smith" not in (tmp_path / "b.nrrd").read_bytes()
    formats.write(Image(images[2].pixels.repeat_interleave(2, 1).repeat_interleave(2, 2), formats.resized(images[2].meta, 2)),
                  tmp_path / "c.nrrd")  # fmt: skip
    fine = formats.read(tmp_path / "c.nrrd", axis=axis).meta
    assert np.allclose(fine.spacing, np.array(images[2].meta.spacing) / 2)
    if space:
        where = np.array([-0.5, -0.5, -0.5, 1.0])
        there = where.copy()
        where[axis], there[axis] = 2, 0
        assert np.allclose(np.array(fine.affine) @ there, np.array(images[2].meta.affine) @ where)


def test_rgb_complex_and_big_endian_nifti(tmp_path):
    draw = np.random.default_rng(0)
    colour = np.zeros((4, 5, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name in "RGB":
        colour[name] = draw.integers(0, 256, (4, 5, 3))
    waves = (draw.normal(size=(4, 5, 3)) + 1j * draw.normal(size=(4, 5, 3))).astype(np.complex64)
    swapped = nibabel.Nifti1Image(
        draw.normal(size=(4, 5, 3)).astype(np.float32), np.diag([2, 3, 4, 1])
    )
    swapped = nibabel.Nifti1Image(swapped.dataobj, swapped.affine, swapped.header.as_byteswapped())
    for image in (
        nibabel.Nifti1Image(colour, np.eye(4)),
        nibabel.Nifti2Image(waves, np.eye(4)),
        swapped,
    ):
        nibabel.save(image, tmp_path / "a.nii")
        images = [formats.read(tmp_path / "a.nii", i) for i in range(3)]
        formats.reassemble(images, tmp_path / "b.nii")
        back = nibabel.load(tmp_path / "b.nii")
        assert type(back) is type(image) and np.array_equal(
            np.asarray(back.dataobj), np.asarray(image.dataobj)
        )
    nibabel.save(nibabel.Nifti1Image(colour, np.eye(4)), tmp_path / "a.nii")
    assert torch.equal(
        formats.read(tmp_path / "a.nii", 1).pixels[2], torch.tensor(colour["B"][:, :, 1]).float()
    )


def test_a_voxel_size_of_zero_is_told_in_the_record_alone(tmp_path, capfd):
    volume = nibabel.Nifti1Image(np.zeros((6, 5, 4), np.int16), None)
    volume.header["pixdim"][1:4] = 0
    (tmp_path / "in.nii").write_bytes(volume.header.binaryblock + bytes(4 + 2 * 6 * 5 * 4))
    data = bytearray((tmp_path / "in.nii").read_bytes())
    data[108:112] = np.float32(352).tobytes()  # vox_offset
    (tmp_path / "in.nii").write_bytes(data)
    handler = logging.StreamHandler(sys.stderr)  # nibabel's own, on the stderr of this test
    logging.getLogger("nibabel.global").addHandler(handler)
    try:
        image = formats.read(tmp_path / "in.nii", 0)
    finally:
        logging.getLogger("nibabel.global").removeHandler(handler)
    assert image.meta.notes == ("a voxel size of 0 in the header is read as 1",)
    assert image.meta.spacing == (1, 1) and capfd.readouterr().err == ""


def test_scaled_integers_and_free_text(tmp_path):
    source = nibabel.Nifti1Image(
        np.arange(24, dtype=np.int16).reshape(2, 3, 4) * 1000 - 9000, np.eye(4)
    )
    source.header["descrip"], source.header["db_name"] = b"Smith^John", b"Smith"
    source.header.set_slope_inter(0.0007, -1.5)
    raw = bytearray(source.to_bytes())
    raw[112:120] = np.array(
        [0.0007, -1.5], "<f4"
    ).tobytes()  # nibabel resets the scale when it saves
    (tmp_path / "a.nii").write_bytes(raw)
    images = [formats.read(tmp_path / "a.nii", i) for i in range(4)]
    assert np.allclose(images[0].meta.slope, 0.0007) and np.allclose(
        images[0].pixels[0, 0, 0], -9000 * 0.0007 - 1.5
    )
    moved = [
        Image(image.pixels + 0.0003, image.meta) for image in images
    ]  # under half a stored unit
    formats.reassemble(moved, tmp_path / "b.nii")
    back = nibabel.load(tmp_path / "b.nii")
    assert np.array_equal(np.asarray(back.dataobj.get_unscaled()), np.asarray(source.dataobj))
    assert (
        b"Smith" in (tmp_path / "a.nii").read_bytes()
        and b"Smith" not in (tmp_path / "b.nii").read_bytes()
    )
    formats.reassemble(images, tmp_path / "c.nii", keep_patient=True)
    assert b"Smith" in (tmp_path / "c.nii").read_bytes()


def test_slices_of_a_packed_volume_are_unpacked_once(tmp_path, monkeypatch):
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((8, 9, 10), np.int16), np.eye(4)), tmp_path / "a.nii.gz"
    )
    opened, honest = [], gzip.open
    monkeypatch.setattr(gzip, "open", lambda *a, **k: opened.append(a) or honest(*a, **k))
    for i in range(10):
        formats.read(tmp_path / "a.nii.gz", i)
    assert len(opened) == 2  # header, then data
