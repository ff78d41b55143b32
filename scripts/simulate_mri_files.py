"""The files of simulate_mri.py: fastMRI and ISMRMRD HDF5, BART .cfl, NPY with a YAML."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data.files import Refusal, commit
from data.formats import hdf5
from data.formats.image import Affine
from data.formats.kspace.raw import place

HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
 <acquisitionSystemInformation><receiverChannels>{coils}</receiverChannels></acquisitionSystemInformation>
 <experimentalConditions><H1resonanceFrequency_Hz>128000000</H1resonanceFrequency_Hz></experimentalConditions>
 <encoding>
  <encodedSpace>
   <matrixSize><x>{h}</x><y>{w}</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>{fh}</x><y>{fw}</y><z>{fz}</z></fieldOfView_mm>
  </encodedSpace>
  <reconSpace>
   <matrixSize><x>{rows}</x><y>{columns}</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>{fr}</x><y>{fc}</y><z>{fz}</z></fieldOfView_mm>
  </reconSpace>
  <encodingLimits>
   <kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum><center>{centre}</center></kspace_encoding_step_1>
  </encodingLimits>
  <trajectory>{trajectory}</trajectory>
 </encoding>
</ismrmrdHeader>
"""
READ, PHASE, NORMAL = (
    (0.0, 1.0, 0.0),
    (1.0, 0.0, 0.0),
    (0.0, 0.0, 1.0),
)  # rows to the back, columns to the left, slices to the head


@dataclass(frozen=True)
class Volume:
    """kspace [slices,coils,H,W], mask [W], noise [coils,n]; picture: rows and columns of it that are shown."""

    kspace: np.ndarray
    mask: np.ndarray
    noise: np.ndarray
    picture: tuple[int, int]
    options: Namespace
    trajectory: np.ndarray | None = (
        None  # [2,shots,samples]; kspace is [slices,coils,shots,samples]
    )

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns that k-space spans."""
        h, w = self.kspace.shape[2:]
        return (h, w) if self.trajectory is None else self.picture

    @property
    def header(self) -> str:
        coils, (h, w) = self.kspace.shape[1], self.matrix
        (py, px), (rows, columns) = self.options.pixel, self.picture
        first, last = np.flatnonzero(self.mask)[[0, -1]]
        return HEADER.format(
            coils=coils, h=h, w=w, fh=h * py, fw=w * px, fz=self.options.slice_step, rows=rows, columns=columns,
            fr=rows * py, fc=columns * px, last=last - first, centre=w // 2 - first,
            trajectory=self.options.trajectory or "cartesian",
        )  # fmt: skip

    @property
    def middle(self) -> tuple[float, float, float]:
        """Of the first slice, so that the volume's is at 0."""
        return (0.0, 0.0, -self.options.slice_step * (len(self.kspace) - 1) / 2)

    @property
    def affine(self) -> Affine | None:
        """Of the pictures; fastMRI files and arrays without a position cannot say so."""
        step = [self.options.slice_step * n for n in NORMAL]
        centre = (0, 0, 0) if self.options.output.suffix.lower() == ".h5" else self.middle
        return place("--pixel", self.picture, self.options.pixel, centre, READ, PHASE, step)


def fastmri(volume: Volume, path: Path) -> None:
    with hdf5.module(path).File(path, "w") as file:
        file.create_dataset("kspace", data=volume.kspace, chunks=(1, *volume.kspace.shape[1:]))
        if not volume.mask.all():
            file["mask"] = volume.mask.astype(np.float32)
        file["ismrmrd_header"] = volume.header.encode()
        file.attrs["acquisition"] = "simulated"


def ismrmrd(volume: Volume, path: Path) -> None:
    """As a scanner's converter does: a noise scan first, then the lines of each slice, those in the middle flagged."""
    try:
        import ismrmrd as mrd
    except ImportError:
        raise Refusal(
            f"{path}: ISMRMRD files need ismrmrd: pip install 'palimpsest[mri]'"
        ) from None
    path.unlink(missing_ok=True)
    dataset = mrd.Dataset(str(path), create_if_needed=True)
    dataset.write_xml_header(volume.header.encode())
    scan = mrd.Acquisition.from_array(volume.noise)
    scan.set_flag(mrd.ACQ_IS_NOISE_MEASUREMENT)
    dataset.append_acquisition(scan)
    for number, slice_ in enumerate(volume.kspace):
        for line in readouts(volume, slice_, mrd):
            line.idx.slice = number
            line.read_dir[:], line.phase_dir[:], line.slice_dir[:] = READ, PHASE, NORMAL
            line.position[:] = (
                *volume.middle[:2],
                volume.middle[2] + number * volume.options.slice_step,
            )
            dataset.append_acquisition(line)
    dataset.close()


def readouts(volume: Volume, slice_: np.ndarray, mrd: Any) -> Iterator[Any]:
    """Of one slice [coils,H,W]: its measured columns; or its shots, with a trajectory in cycles per pixel."""
    if volume.trajectory is not None:
        k = volume.trajectory / np.array(volume.picture)[:, None, None]
        for shot in range(slice_.shape[1]):
            path = np.ascontiguousarray(k[:, shot].T.astype(np.float32))
            line = mrd.Acquisition.from_array(np.ascontiguousarray(slice_[:, shot]), path)
            line.idx.kspace_encode_step_1 = shot
            yield line
        return
    first = int(np.flatnonzero(volume.mask)[0])
    for column in np.flatnonzero(volume.mask):
        line = mrd.Acquisition.from_array(np.ascontiguousarray(slice_[:, :, column]))
        line.center_sample = slice_.shape[1] // 2
        line.idx.kspace_encode_step_1 = int(column) - first
        yield line


def bart(volume: Volume, path: Path) -> None:
    """[readout, phase, 1, coils, ..., slices], or [1, samples, shots, coils, ..., slices] with a trajectory beside it."""
    slices, coils, h, w = volume.kspace.shape
    data, dims = volume.kspace.transpose(2, 3, 1, 0), [h, w, 1, coils]
    if volume.trajectory is not None:
        data, dims = volume.kspace.transpose(3, 2, 1, 0), [1, w, h, coils]
        k = np.concatenate([volume.trajectory, np.zeros((1, h, w))]).transpose(0, 2, 1)
        _pair(path.with_name(f"{path.stem}-traj.cfl"), k, [3, w, h])
    _pair(path, data, [*dims, *[1] * 9, slices, 1, 1])
    _describe(volume, path)


def _pair(path: Path, data: np.ndarray, dims: list[int]) -> None:
    """BART's two files, the first dimension fastest."""
    commit(path, data.astype(np.complex64).tobytes(order="F"))
    commit(path.with_suffix(".hdr"), f"# Dimensions\n{' '.join(map(str, dims))}\n".encode())


def array(volume: Volume, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, volume.kspace)
    _describe(volume, path)


def _describe(volume: Volume, path: Path) -> None:
    noise = path.with_name(f"{path.stem}-noise.npy")
    np.save(noise, volume.noise)
    (py, px), (h, w) = volume.options.pixel, volume.matrix
    said: dict[str, Any] = {
        "field_of_view": [h * py, w * px],
        "picture": [volume.picture[0] * py, volume.picture[1] * px],
        "slice_step": volume.options.slice_step,
        "noise": noise.name,
        "position": list(volume.middle),
        "row_direction": list(READ),
        "column_direction": list(PHASE),
    }
    if volume.trajectory is not None:
        said["matrix"] = [h, w]
        if path.suffix == ".npy":
            said["trajectory"] = f"{path.stem}-traj.npy"
            np.save(path.with_name(said["trajectory"]), np.moveaxis(volume.trajectory, 0, -1))
    commit(path.with_suffix(".yaml"), yaml.safe_dump(said, sort_keys=False).encode())


WRITERS: dict[str, Callable[[Volume, Path], None]] = {
    ".h5": fastmri,
    ".mrd": ismrmrd,
    ".cfl": bart,
    ".npy": array,
}
