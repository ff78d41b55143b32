"""The held-out slices that are shipped in models/demo-data, so that the demo and the tests need no download.

24 axial slices of two patients that no prior was trained on: chest CT lung2 as a DICOM series in HU (every fifth slice, scaled
from 512 to 256), head MR brain2 as 16-bit PNG (as in the demo data set) and, for five neighbouring slices, as a NIfTI volume.
"""

from pathlib import Path

import nibabel
import nrrd
import numpy as np
from demo_scans import CT_WINDOW, LABELS, MR_PERCENTILES, SIZE, row, save, write_manifests
from demo_volumes import volume
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

CT = range(20, 60, 5)
MR_PICTURES = range(3, 14)
MR_VOLUME = range(14, 19)
FIRST = ("lung2-ax-035", "brain2-ax-008", "brain2-ax-012")  # what the demo restores
AIR = -1024  # HU; what a stored 0 means


def select(source: Path, folder: Path) -> list[dict]:
    """Write the slices and test.csv from the fetched scans; returns the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = _ct(source / "lung2_image.nrrd", folder) + _mr(source / "brain2_image.nrrd", folder)
    rows.sort(key=lambda r: FIRST.index(r["image_id"]) if r["image_id"] in FIRST else len(FIRST))
    write_manifests(folder, {"test": rows})
    return rows


def _ct(path: Path, folder: Path) -> list[dict]:
    header = nrrd.read_header(str(path))
    spacing, origin, rows = np.diag(header["space directions"]), header["space origin"], []
    stored = volume([path])
    for number, k in enumerate(CT, 1):
        image_id = f"lung2-ax-{k:03d}"
        full = Image.fromarray(np.ascontiguousarray(stored[:, :, k].T))
        hu = np.asarray(full.resize((SIZE, SIZE), Image.Resampling.LANCZOS)).round()
        factor = stored.shape[0] / SIZE
        corner = origin + spacing * [
            (factor - 1) / 2,
            (factor - 1) / 2,
            k,
        ]  # centre of the first, larger pixel
        scan = _dicom(number, hu, spacing * [factor, factor, 1], corner)
        scan.save_as(folder / f"{image_id}.dcm", enforce_file_format=True)
        rows.append(
            row(folder, f"{image_id}.dcm", image_id, "lung2", "test", CT_WINDOW, LABELS["CT"])
        )
    return rows


def _dicom(number: int, hu: np.ndarray, spacing: np.ndarray, corner: np.ndarray) -> FileDataset:
    """A CT slice without any patient data; UIDs are digests of what the slice is."""
    uids = {
        what: generate_uid(entropy_srcs=["palimpsest demo lung2", what])
        for what in ("study", "series", "frame")
    }
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(
        entropy_srcs=["palimpsest demo lung2", str(number)]
    )
    scan = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    for empty in (
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "ReferringPhysicianName",
        "StudyID",
    ):
        setattr(scan, empty, "")
    for empty in (
        "AccessionNumber",
        "Manufacturer",
        "PositionReferenceIndicator",
        "KVP",
        "AcquisitionNumber",
    ):
        setattr(scan, empty, None)
    scan.SOPClassUID, scan.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    scan.StudyInstanceUID, scan.SeriesInstanceUID, scan.FrameOfReferenceUID = (
        uids["study"],
        uids["series"],
        uids["frame"],
    )
    scan.PatientID, scan.PatientIdentityRemoved = "lung2", "YES"
    scan.DeidentificationMethod = "source (pyradiomics 3.0.1) has no patient data"
    scan.Modality, scan.ImageType, scan.BodyPartExamined = (
        "CT",
        ["DERIVED", "SECONDARY", "AXIAL"],
        "CHEST",
    )
    scan.DerivationDescription = "512 x 512 scaled to 256 x 256 (Lanczos)"
    scan.SeriesNumber, scan.InstanceNumber = 1, number
    scan.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    scan.ImagePositionPatient = [round(float(c), 6) for c in corner]
    scan.PixelSpacing = [round(float(spacing[1]), 6), round(float(spacing[0]), 6)]
    scan.SliceThickness = float(spacing[2])
    scan.SamplesPerPixel, scan.PhotometricInterpretation, scan.PixelRepresentation = (
        1,
        "MONOCHROME2",
        0,
    )
    scan.Rows, scan.Columns = hu.shape
    scan.BitsAllocated, scan.BitsStored, scan.HighBit = 16, 12, 11
    scan.RescaleIntercept, scan.RescaleSlope, scan.RescaleType = AIR, 1, "HU"
    scan.WindowCenter, scan.WindowWidth = sum(CT_WINDOW) / 2, CT_WINDOW[1] - CT_WINDOW[0]
    scan.PixelData = (hu - AIR).clip(0, 4095).astype("<u2").tobytes()
    return scan


def _mr(path: Path, folder: Path) -> list[dict]:
    stored, header = nrrd.read(str(path))
    low, high = (float(p) for p in np.percentile(stored, MR_PERCENTILES))
    upright, rows = volume([path]), []
    for k in MR_PICTURES:
        image_id = f"brain2-ax-{k:03d}"
        unit = ((upright[:, :, k].T - low) / (high - low)).clip(0, 1)
        save(unit, folder / f"{image_id}.png")
        rows.append(
            row(folder, f"{image_id}.png", image_id, "brain2", "test", (0, 65535), LABELS["MR"])
        )
    affine = np.diag(
        [-1.0, -1.0, 1.0, 1.0]
    )  # NRRD counts to the left and back, NIfTI to the right and front
    directions = header["space directions"]
    placed = np.eye(4)
    placed[:3, :3], placed[:3, 3] = (
        directions.T,
        header["space origin"] + MR_VOLUME[0] * directions[2],
    )
    picture = nibabel.Nifti1Image(stored[:, :, MR_VOLUME.start : MR_VOLUME.stop], affine @ placed)
    picture.header.set_xyzt_units("mm")
    nibabel.save(picture, folder / "brain2.nii.gz")
    for slice_, k in enumerate(MR_VOLUME):
        rows.append(
            row(
                folder,
                "brain2.nii.gz",
                f"brain2-ax-{k:03d}",
                "brain2",
                "test",
                (low, high),
                LABELS["MR"],
                slice_,
            )
        )
    return rows
