"""Which axis of an NRRD file is what: kinds, missing directions and missing spacings decide."""

import nrrd
import numpy as np
import pytest

from data import formats

NONE = [np.nan] * 3
PLACES = [[0.5, 0, 0], [0, 0.6, 0], [0, 0, 2]]


def written(path, array, kinds=None, axis=None, **header):
    """axis: the one without a direction."""
    rows = list(PLACES[: array.ndim - (axis is not None)])
    if axis is not None:
        rows.insert(axis, NONE)
    header = {
        "space": "left-posterior-superior",
        "space directions": np.array(rows),
        "space origin": [1, 2, 3],
    } | header
    nrrd.write(str(path), array, header | ({"kinds": kinds} if kinds else {}))
    return path


def volumes(path):
    """[X, Y, Z, T] or [X, Y, Z, T, 3] as the slices give them."""
    images = [formats.read(path, i) for i in range(formats.count(path))]
    return images, np.stack([image.pixels.numpy() for image in images], -1)


@pytest.mark.parametrize("kind", ["list", "vector", "time", "none", "domain"])
@pytest.mark.parametrize("axis", [0, 3, 1])
def test_an_axis_outside_space_is_repetitions(tmp_path, kind, axis):
    array = np.random.default_rng(0).integers(0, 99, (6, 8, 7)).astype(np.int16)
    stack = np.stack([array + 100 * k for k in range(5)], axis)
    kinds = ["domain"] * 3
    kinds.insert(axis, kind)
    path = written(tmp_path / "a.nrrd", stack, kinds, axis)
    images, read = volumes(path)
    assert len(images) == 35 and read.shape == (1, 6, 8, 35)
    for index, image in enumerate(images):  # slice first, then repetition
        repetition, k = divmod(index, 7)
        assert np.array_equal(image.pixels[0], array[:, :, k] + 100 * repetition)
        assert image.meta.spacing == (0.5, 0.6)
    formats.reassemble([formats.upright(image) for image in images[::-1]], tmp_path / "b.nrrd")
    back, header = nrrd.read(str(tmp_path / "b.nrrd"))
    assert np.array_equal(back, stack) and header["kinds"] == kinds
    assert np.isnan(header["space directions"][axis]).all() and np.array_equal(
        header["space origin"], [1, 2, 3]
    )
    formats.write(images[9], tmp_path / "one.nrrd")
    one, header = nrrd.read(str(tmp_path / "one.nrrd"))
    assert np.array_equal(one, stack.take(1, axis)[:, :, 2:3]) and header["kinds"] == ["domain"] * 3
    assert np.array_equal(header["space origin"], [1, 2, 7])


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("RGB-color", "u1"), ("vector", "u1"), ("3-color", "i2"), ("RGB-color", "f4")],
)
def test_colours(tmp_path, kind, dtype):
    array = np.random.default_rng(0).integers(0, 255, (3, 6, 8, 7)).astype(dtype)
    path = written(tmp_path / "a.nrrd", array, [kind, *["domain"] * 3], 0)
    images, _ = volumes(path)
    assert len(images) == 7 and np.array_equal(images[2].pixels, array[..., 2])
    formats.reassemble(images, tmp_path / "b.nrrd")
    assert np.array_equal(nrrd.read(str(tmp_path / "b.nrrd"))[0], array)


def test_colours_stand_last_and_vectors_are_no_colours(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    nrrd.write(str(tmp_path / "a.nrrd"), array, {"kinds": ["domain", "domain", "RGB-color"]})
    assert np.array_equal(formats.read(tmp_path / "a.nrrd").pixels, array.transpose(2, 0, 1))
    field = np.random.default_rng(0).normal(size=(3, 6, 8, 7)).astype(np.float32)
    images, _ = volumes(written(tmp_path / "field.nrrd", field, ["vector", *["domain"] * 3], 0))
    assert len(images) == 21 and np.array_equal(images[8].pixels[0], field[1, :, :, 1])


ODD = {"complex": 2, "RGBA-color": 4, "4-vector": 4, "3D-matrix": 9, "HSV-color": 3, "3D-masked-symmetric-matrix": 7,
       "quaternion": 4, "scalar": 5, "RGB-color": 4}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_what_cannot_be_placed_is_refused(tmp_path, kind):
    array = np.zeros((ODD[kind], 5, 40), np.float32)
    nrrd.write(str(tmp_path / "a.nrrd"), array, {"kinds": [kind, "domain", "domain"]})
    with pytest.raises(ValueError, match="allowed"):
        formats.count(tmp_path / "a.nrrd")


def test_five_axes_and_two_lists_are_refused(tmp_path):
    for kinds in (
        ["list", "list", "domain", "domain"],
        ["list", *["domain"] * 4],
        ["list", "list", "domain"],
    ):
        nrrd.write(
            str(tmp_path / "a.nrrd"), np.zeros((2,) * len(kinds), np.float32), {"kinds": kinds}
        )
        with pytest.raises(ValueError, match="two or three, at most one"):
            formats.count(tmp_path / "a.nrrd")


def test_missing_spacings_and_single_entries(tmp_path):
    array = np.arange(5 * 6 * 8, dtype=np.int16).reshape(5, 6, 8)
    nrrd.write(str(tmp_path / "a.nrrd"), array, {"spacings": [np.nan, 0.5, 0.6]})
    images, _ = volumes(tmp_path / "a.nrrd")
    assert len(images) == 5 and images[0].meta.spacing == (0.5, 0.6)
    assert np.array_equal(images[3].pixels[0], array[3])
    nrrd.write(
        str(tmp_path / "b.nrrd"),
        array[:1],
        {"kinds": ["stub", "domain", "domain"], "spacings": [np.nan, 0.5, 0.6]},
    )
    image = formats.read(tmp_path / "b.nrrd")
    assert np.array_equal(image.pixels[0], array[0])
    formats.write(image, tmp_path / "c.nrrd")
    assert np.array_equal(nrrd.read(str(tmp_path / "c.nrrd"))[0], array[:1])


def test_a_plane_keeps_its_place_when_it_is_enlarged(tmp_path):
    """Two axes, in a space of two or of three dimensions: spacing and origin follow."""
    array = np.arange(48, dtype=np.int16).reshape(6, 8)
    flat = {
        "space dimension": 2,
        "space directions": np.array([[0.5, 0], [0, 0.6]]),
        "space origin": [1, 2],
    }
    nrrd.write(str(tmp_path / "2.nrrd"), array, flat)
    written(tmp_path / "3.nrrd", array)
    for name in "23":
        image = formats.read(tmp_path / f"{name}.nrrd")
        assert image.meta.spacing == (0.5, 0.6)
        fine = formats.Image(
            image.pixels.repeat_interleave(2, 1).repeat_interleave(2, 2),
            formats.resized(image.meta, 2),
        )
        formats.write(fine, tmp_path / "fine.nrrd")
        back, header = nrrd.read(str(tmp_path / "fine.nrrd"))
        assert back.shape == (12, 16) and np.allclose(header["space directions"][0][0], 0.25)
        assert np.allclose(header["space origin"][:2], [1 - 0.125, 2 - 0.15])
