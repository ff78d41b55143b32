"""Radial and spiral scans from the scanner's file: every format holds the same samples, and the picture is the magnitude."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from scans import simulated
from test_measured_mri import least_squares, picture, prepared, psnr

from data.formats import kspace as files
from data.seeding import Noise
from solvers.measured.mri import with_model_errors
from solvers.measured.noise_level import estimated_sigma_y
from solvers.problem import Gaussian

FORMATS = ("scan.mrd", "scan.cfl", "scan.npy")
RADIAL = ("--trajectory", "radial", "--shots", "48")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    return folder, [simulated(folder, name, *RADIAL, slices=2) for name in FORMATS][0]


def test_all_formats_hold_the_same_samples(scans):
    folder, _ = scans
    first = files.read(folder / "scan.npy", 1)
    assert first.kspace.shape == (8, 48, 128) and first.matrix == first.kept == (64, 56)
    for name in FORMATS:
        raw = files.read(folder / name, 1)
        assert files.count(folder / name) == 2 and raw.matrix == (64, 56)
        torch.testing.assert_close(raw.kspace, first.kspace, rtol=1e-6, atol=0)
        torch.testing.assert_close(raw.trajectory, first.trajectory, rtol=0, atol=1e-5)
        assert raw.spacing == pytest.approx((2, 3)) and raw.noise is not None
        np.testing.assert_allclose(raw.affine, first.affine, atol=1e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_a_radial_scan_comes_out_as_its_magnitude(scans, name):
    """The truth explains the samples but for what maps and phase are wrong by."""
    folder, truth = scans
    made, problem = prepared(folder / name, 1)
    assert problem.whitened().sigma_y * made.intensity.high == pytest.approx(0.01e-4, rel=0.05)
    x = least_squares(problem)
    assert float(problem.residual(x)) < 1.25
    assert psnr(picture(made, x), truth[1]) > 28
    exact = (truth[1] / made.intensity.high * 2 - 1)[None, None]
    assert 0.97 < float(problem.residual(exact)) < 1.2
    without = prepared(folder / name, 1, phase=False)[1]
    assert float(without.residual(least_squares(without))) > 3, "the phase is not worth knowing"


def test_what_maps_and_phase_err_by_counts_as_noise_along_spokes_too(scans):
    """Variances add; the error of such an estimate of 80,000 free numbers is below 1 %."""
    folder, _ = scans
    _, problem = prepared(folder / "scan.mrd", 1)
    more = Noise(problem.ids, "noise", 7).like(problem.y)
    clean = replace(problem, likelihood=Gaussian(problem.whitened().sigma_y))
    added = replace(clean, y=clean.y + 0.9 * clean.sigma_y * more)
    before, found = (with_model_errors(p).deviation.square().mean().sqrt() for p in (clean, added))
    sum_of_squares = float(before) ** 2 + 0.81 * clean.sigma_y**2
    assert float(found) ** 2 == pytest.approx(sum_of_squares, rel=0.06)


@pytest.mark.parametrize("shape", [(64, 56), (61, 57)])
def test_spirals_and_odd_sizes(tmp_path, shape):
    truth = simulated(tmp_path, "s.npy", "--trajectory", "spiral", slices=1, shape=shape)
    made, problem = prepared(tmp_path / "s.npy")
    assert psnr(picture(made, least_squares(problem)), truth[0]) > 28


def test_an_npz_holds_its_own_trajectory_and_its_noise_is_found(tmp_path):
    """Without a noise scan sigma is what no image explains, and more where maps and phase err: the truth leaves as much."""
    truth = simulated(tmp_path, "s.npy", *RADIAL, slices=1)
    k = np.load(tmp_path / "s-traj.npy")
    np.savez(tmp_path / "own.npz", kspace=np.load(tmp_path / "s.npy"), trajectory=k)
    (tmp_path / "own.yaml").write_text("matrix: [64, 56]\n")
    made, problem = prepared(tmp_path / "own.npz")
    sigma_y = problem.whitened().sigma_y
    assert 0.95e-6 < sigma_y * made.intensity.high < 1.25e-6
    exact = (truth[0] / made.intensity.high * 2 - 1)[None, None]
    assert float(problem.residual(exact)) == pytest.approx(1, abs=0.1)
    assert psnr(picture(made, least_squares(problem)), truth[0]) > 27
    assert sigma_y < float(estimated_sigma_y(problem)) < 1.25 * sigma_y
    assert problem.operator.files()["trajectory"].shape == (1, 2, 48, 128)
    assert problem.ids == ("a",) and Noise(problem.ids, "noise")


def silent(folder):
    data = np.load(folder / "s.npy")
    data[:, :, 3] = 0
    np.save(folder / "s.npy", data)


def shorter(folder):
    np.save(folder / "s-traj.npy", np.load(folder / "s-traj.npy")[:-1])


def other_order(folder):
    np.save(folder / "s-traj.npy", np.roll(np.load(folder / "s-traj.npy"), 50, 1))


def shuffled(folder):
    np.save(folder / "s-traj.npy", np.load(folder / "s-traj.npy")[np.arange(48) * 7 % 48])


def pixels(folder):
    np.save(folder / "s-traj.npy", np.load(folder / "s-traj.npy") / 64)


def pixels_alone(folder):
    pixels(folder)
    (folder / "s.yaml").write_text("trajectory: s-traj.npy")


def in_space(folder):
    k = np.load(folder / "s-traj.npy")
    np.save(folder / "s-traj.npy", np.concatenate([k, k[..., :1]], -1))


def no_matrix(folder):
    (folder / "s.yaml").write_text("trajectory: s-traj.npy\nmatrix: [.4, .4]")


def no_middle(folder):
    for name, axis in (("s.npy", 3), ("s-traj.npy", 1)):
        np.save(folder / name, np.delete(np.load(folder / name), np.arange(32, 97), axis))


BAD = {
    no_matrix: "a matrix of",
    silent: "1 of 48 shots are all 0",
    shorter: "48 shots of 128 samples, but a trajectory of 47 of 128",
    other_order: "are trajectory and samples in one order",
    shuffled: r"no image explains \d+% of its k-space; its trajectory",
    pixels: "cycles per pixel",
    pixels_alone: "cycles per pixel",
    in_space: "a trajectory in three dimensions",
    no_middle: "no calibration region: 26 samples in the middle",
}


@pytest.mark.parametrize("change", BAD, ids=lambda change: change.__name__)
def test_bad_files_are_one_line(tmp_path, change):
    simulated(tmp_path, "s.npy", *RADIAL, slices=1)
    change(tmp_path)
    with pytest.raises(ValueError, match=BAD[change]) as error:
        prepared(tmp_path / "s.npy")
    assert "\n" not in str(error.value)


def test_a_trajectory_that_is_not_there_is_one_line(tmp_path):
    simulated(tmp_path, "s.cfl", *RADIAL, slices=1)
    (tmp_path / "s-traj.cfl").unlink()
    with pytest.raises(ValueError, match="`trajectory: FILE` in s.yaml, or s-traj.cfl"):
        prepared(tmp_path / "s.cfl")
    simulated(tmp_path, "s.mrd", *RADIAL, slices=1)
    with h5py.File(tmp_path / "s.mrd", "r+") as file:
        data = file["dataset/data"][()]
        data["head"]["trajectory_dimensions"] = 0
        file["dataset/data"][...] = data
    with pytest.raises(ValueError, match="2 or 3 for each of 128 samples are due"):
        prepared(tmp_path / "s.mrd")
