"""What a DICOM header says in units of pixels or frame by frame, and what becomes of it when the grid or the frames change.

`PIXELS` and `FRAMES` are the whole list, with the reason for each; everything else in a header is in mm, degrees, seconds or
words and stays true. What private elements mean is not known, so a header that is changed here loses them.
"""

import numpy as np
import pydicom

from data.formats.dicom_geometry import affine_of, corner_of, decimal, spacing_of
from data.formats.dicom_groups import GROUPS, of_frame, places
from data.formats.image import Affine, Meta

STEP, MOVED, EDGE, CENTRE, REMOVED = "step", "moved", "edge", "centre", "removed"
PIXELS = {  # keywords: (rule, why)
    "PixelSpacing ImagerPixelSpacing NominalScannedPixelSpacing ImagePlanePixelSpacing": (STEP, "mm from pixel to pixel"),
    "ImagePositionPatient": (MOVED, "the centre of the first pixel: it lies elsewhere when pixels are finer"),
    "PhysicalDeltaX PhysicalDeltaY": (STEP, "units of an ultrasound region from pixel to pixel"),
    "RegionLocationMinX0 RegionLocationMinY0 RegionLocationMaxX1 RegionLocationMaxY1": (EDGE, "first and last pixel of a region"),
    "ReferencePixelX0 ReferencePixelY0": (CENTRE, "a pixel of a region"),
    "ShutterShape ShutterLeftVerticalEdge ShutterRightVerticalEdge ShutterUpperHorizontalEdge ShutterLowerHorizontalEdge"
    " CenterOfCircularShutter RadiusOfCircularShutter VerticesOfThePolygonalShutter ShutterPresentationValue"
    " ShutterPresentationColorCIELabValue": (REMOVED, "a display shutter in rows and columns; without it all is seen"),
    "CollimatorShape CollimatorLeftVerticalEdge CollimatorRightVerticalEdge CollimatorUpperHorizontalEdge"
    " CollimatorLowerHorizontalEdge CenterOfCircularCollimator RadiusOfCircularCollimator VerticesOfThePolygonalCollimator"
    " FrameDisplayShutterSequence ExposureControlSensingRegionsSequence": (REMOVED, "a part of the field in rows and columns"),
    "OutlineLeftVerticalEdge OutlineRightVerticalEdge OutlineUpperHorizontalEdge OutlineLowerHorizontalEdge"
    " CenterOfCircularOutline DiameterOfCircularOutline VerticesOfThePolygonalOutline VerticesOfTheOutlineOfPupil"
    " TMLinePositionX0 TMLinePositionY0 TMLinePositionX1 TMLinePositionY1 DopplerSampleVolumeXPosition"
    " DopplerSampleVolumeYPosition DisplayedAreaSelectionSequence GraphicAnnotationSequence PixelCoordinatesSetTrial"
    " OphthalmicFrameLocationSequence ROIContourSequence": (REMOVED, "drawn in rows and columns"),
    "PixelAspectRatio": (REMOVED, "a ratio of whole numbers; the spacing tells it"),
    "RTImagePosition PixelDataAreaOriginRelativeToFOV": (REMOVED, "the first pixel, in a plane of its own"),
    "ProjectionPixelCalibrationSequence ReconstructionPixelSpacing ALinePixelSpacing PresentationPixelSpacing": (
        REMOVED, "spacings of other grids, which this one was tied to"),
    "MaskSubtractionSequence PixelShiftSequence FramePixelShiftSequence RegionPixelShiftSequence StereoHorizontalPixelOffset"
    " StereoVerticalPixelOffset": (REMOVED, "shifts by pixels"),
    "BlockedPixels BadPixelImage XCoordinatesCenterPixelViewAngle YCoordinatesCenterPixelViewAngle": (
        REMOVED, "says something of each pixel of the old grid"),
    "TotalPixelMatrixColumns TotalPixelMatrixRows PlanePositionSlideSequence TotalPixelMatrixOriginSequence": (
        REMOVED, "places a tile among those of a slide"),
}  # fmt: skip
FRAMES = {
    "GridFrameOffsetVector": "the distances of dose planes: the frame's own becomes its position",
    "FrameTime FrameTimeVector FrameIncrementPointer FrameDelay FrameDimensionPointer": "the time from frame to frame",
    "SliceVector EnergyWindowVector DetectorVector PhaseVector RotationVector RRIntervalVector TimeSlotVector AngularViewVector"
    " TimeSliceVector NumberOfSlices NumberOfEnergyWindows NumberOfDetectors NumberOfPhases NumberOfRotations"
    " NumberOfRRIntervals NumberOfTimeSlots NumberOfTimeSlices FrameLabelVector": "which slice, window or phase each frame is",
    "DetectorInformationSequence": "where the first frame lies",
    "PositionerPrimaryAngleIncrement PositionerSecondaryAngleIncrement TableVerticalIncrement TableLateralIncrement"
    " TableLongitudinalIncrement FramePrimaryAngleVector FrameSecondaryAngleVector RTImageFrameGeneralContentSequence"
    " OphthalmicFrameLocationSequence": "how tube, table or eye move from frame to frame",
    "StartTrim StopTrim RecommendedDisplayFrameRate RecommendedDisplayFrameRateInFloat CineRate RepresentativeFrameNumber"
    " PreferredPlaybackSequencing FrameNumbersOfInterest FrameOfInterestDescription FrameOfInterestType FrameDisplaySequence"
    " MultiFramePresentationSequence FrameUsefulnessGroupSequence TimeOfFrameGroupSequence SkipFrameRangeFlag"
    " IVUSPullbackStartFrameNumber IVUSPullbackStopFrameNumber DataFrameAssignmentSequence": "numbers of frames to show or use",
    "MaskSubtractionSequence": "numbers of mask frames",
    "InConcatenationNumber InConcatenationTotalNumber ConcatenationFrameOffsetNumber ConcatenationUID"
    " SOPInstanceUIDOfConcatenationSource": "a place in a file that was cut into several",
}


def resize(ds: pydicom.Dataset, meta: Meta, rows: int, columns: int) -> None:
    """Make the header true of a grid of rows × columns with the spacing and, where it lies in space, the corner of `meta`."""
    index = meta.index if meta.count > 1 else 0
    old = spacing_of(ds, index)
    if old and meta.spacing:
        ratio = meta.spacing[0] / old[0], meta.spacing[1] / old[1]
    else:
        ratio = float(ds.get("Rows", rows)) / rows, float(ds.get("Columns", columns)) / columns
    moved = _moved(affine_of(ds, index), meta.affine, ratio)
    if ratio == (1, 1) and np.allclose(moved, 0, atol=1e-6):
        return
    moves = _moves(ds, moved)  # before a spacing is changed
    for place, corner in moves:
        place.ImagePositionPatient = [decimal(v) for v in corner]
    for keywords, (rule, _) in PIXELS.items():
        for keyword in keywords.split():
            if rule == STEP and "Physical" not in keyword:
                _step(ds, keyword, ratio)
            elif rule == REMOVED:
                _remove(ds, keyword)
    for region in ds.get("SequenceOfUltrasoundRegions") or []:
        _scale_region(region, ratio, (rows, columns))
    ds.remove_private_tags()


def select_frame(ds: pydicom.Dataset, index: int) -> None:
    """Make the header of many frames true of one of them."""
    corner = corner_of(ds, index)
    if corner is not None and ds.get("GridFrameOffsetVector"):
        ds.ImagePositionPatient = [decimal(v) for v in corner]
    elif corner is None and "ImagePositionPatient" in ds:
        del ds.ImagePositionPatient  # that of another frame
    groups = ds.get(GROUPS[0]) or []
    if index < len(groups):
        ds.PerFrameFunctionalGroupsSequence = [groups[index]]
    else:
        _remove(ds, GROUPS[0])
    for keywords in FRAMES:
        for keyword in keywords.split():
            _remove(ds, keyword)
    ds.NumberOfFrames = 1
    ds.remove_private_tags()


def _moved(
    before: Affine | None, after: Affine | None, ratio: tuple[float, float]
) -> tuple[float, float]:
    """Old pixels along (rows, columns) by which the first centre was moved; without geometry so that the outer edges stay."""
    if before is None or after is None:
        return (ratio[0] - 1) / 2, (ratio[1] - 1) / 2
    old, shift = np.array(before)[:3, :2], np.array(after)[:3, 3] - np.array(before)[:3, 3]
    down, across = np.linalg.lstsq(old, shift, rcond=None)[0]
    return float(down), float(across)


def _moves(
    ds: pydicom.Dataset, moved: tuple[float, float]
) -> list[tuple[pydicom.Dataset, np.ndarray]]:
    """Each position and what it becomes: all frames move by as many pixels, along their own axes."""
    found = []
    for frame, place in places(ds):
        cosines = place.get("ImageOrientationPatient") or of_frame(
            ds, frame, "ImageOrientationPatient"
        )
        spacing = spacing_of(ds, frame)
        if place.get("ImagePositionPatient") and cosines and spacing:
            across, down = np.array(cosines, float)[:3], np.array(cosines, float)[3:]
            shift = down * spacing[0] * moved[0] + across * spacing[1] * moved[1]
            found.append((place, np.array(place.ImagePositionPatient, float) + shift))
    return found


def _step(ds: pydicom.Dataset, keyword: str, ratio: tuple[float, float]) -> None:
    for _, place in places(ds):
        if place.get(keyword):
            setattr(
                place, keyword, [decimal(float(v) * r) for v, r in zip(place.get(keyword), ratio)]
            )


def _scale_region(
    region: pydicom.Dataset, ratio: tuple[float, float], sides: tuple[int, int]
) -> None:
    for letter, r, side in (("X", ratio[1], sides[1]), ("Y", ratio[0], sides[0])):
        for keyword, first in (
            (f"RegionLocationMin{letter}0", True),
            (f"RegionLocationMax{letter}1", False),
        ):
            if keyword in region:
                edge = round((region[keyword].value + (not first)) / r) - (not first)
                setattr(region, keyword, min(max(edge, 0), side - 1))
        if (
            keyword := f"ReferencePixel{letter}0"
        ) in region:  # relative to the region's first pixel
            setattr(region, keyword, round((region[keyword].value + 0.5) / r - 0.5))
        if (keyword := f"PhysicalDelta{letter}") in region:
            setattr(region, keyword, float(region[keyword].value) * r)


def _remove(ds: pydicom.Dataset, keyword: str) -> None:
    """At the top and in whatever lies below it."""
    if keyword in ds:
        del ds[keyword]
    for element in ds:
        for item in element.value if element.VR == "SQ" else ():
            _remove(item, keyword)
