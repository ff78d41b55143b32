"""Who and what a DICOM result is: a derived image with new UIDs, of nobody in particular.

Patient data are removed by keeping a list of imaging attributes and dropping everything else, private elements included
(PS3.15 annex E removes by list; keeping by list cannot forget one). Burned-in text in the pixels is not looked for.
"""

import copy

import pydicom

from data import files
from data.formats.image import digest

NOTICE = "research use, not for diagnosis"

KEPT = set(
    """
    SOPClassUID Modality SpecificCharacterSet BodyPartExamined PatientPosition Laterality ImageLaterality ViewPosition
    SliceThickness SpacingBetweenSlices KVP ExposureTime XRayTubeCurrent Exposure ConvolutionKernel ReconstructionDiameter
    DataCollectionDiameter GantryDetectorTilt ScanOptions ScanningSequence SequenceVariant MRAcquisitionType
    RepetitionTime EchoTime InversionTime EchoTrainLength FlipAngle MagneticFieldStrength NumberOfAverages ImagingFrequency
    ImagedNucleus EchoNumbers PercentSampling PercentPhaseFieldOfView PixelBandwidth AcquisitionMatrix
    InstanceNumber AcquisitionNumber ImagePositionPatient ImageOrientationPatient PatientOrientation SliceLocation
    PositionReferenceIndicator PixelSpacing ImagerPixelSpacing NominalScannedPixelSpacing PixelAspectRatio
    NumberOfFrames FrameTime FrameIncrementPointer TemporalPositionIndex
    SamplesPerPixel PhotometricInterpretation PlanarConfiguration Rows Columns
    BitsAllocated BitsStored HighBit PixelRepresentation
    RescaleSlope RescaleIntercept RescaleType WindowCenter WindowWidth VOILUTFunction PresentationLUTShape
    PixelIntensityRelationship PixelIntensityRelationshipSign LossyImageCompression LossyImageCompressionRatio
    LossyImageCompressionMethod BurnedInAnnotation QuantificationFactor DoseUnits DoseType DoseGridScaling GridFrameOffsetVector
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelMeasuresSequence PlanePositionSequence
    PlaneOrientationSequence PixelValueTransformationSequence FrameVOILUTSequence FrameContentSequence DimensionIndexValues
    StackID InStackPositionNumber
    """.split()
)
# Present but empty: the standard wants these elements in every image (type 2), and they name people, places or days.
EMPTIED = "PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber ReferringPhysicianName StudyID SeriesNumber".split()
# Of the old pixels: wrong or telling once these are replaced.
STALE = (
    "PixelData FloatPixelData DoubleFloatPixelData SmallestImagePixelValue LargestImagePixelValue IconImageSequence"
    " RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor"
    " RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData"
    " ExtendedOffsetTable ExtendedOffsetTableLengths DigitalSignaturesSequence"
).split()


def derived(source: pydicom.Dataset, image_id: str, config: str, derivation: str, keep_patient: bool) -> pydicom.Dataset:
    """A header for a result made from `source`, without pixels. Same arguments, same UIDs."""
    old = {
        key: str(source.get(key, ""))
        for key in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")
    }
    patient = str(source.get("PatientID", ""))
    ds = copy.deepcopy(source) if keep_patient else _imaging_only(source)
    _drop_stale(ds)
    third = list(source.get("ImageType") or [])[2:3]
    ds.ImageType = ["DERIVED", "SECONDARY", *(v for v in third if v in ("AXIAL", "LOCALIZER"))]
    ds.DerivationDescription = (derivation if NOTICE in derivation else f"{derivation}; {NOTICE}".lstrip("; "))[:1024]
    if keep_patient and old["SOPInstanceUID"]:
        ds.SourceImageSequence = [_reference(source)]
    ds.SOPClassUID = source.get("SOPClassUID", pydicom.uid.SecondaryCaptureImageStorage)
    ds.SOPInstanceUID = uid("instance", old["SOPInstanceUID"], image_id, config)
    ds.SeriesInstanceUID = uid("series", old["SeriesInstanceUID"], config)
    if not keep_patient:
        ds.PatientID = ds.PatientName = pseudonym(patient) or "unknown"
        ds.PatientIdentityRemoved, ds.DeidentificationMethod = "YES", "kept a list of imaging attributes"
        ds.StudyInstanceUID = uid("study", old["StudyInstanceUID"])
        if old["FrameOfReferenceUID"]:
            ds.FrameOfReferenceUID = uid("frame of reference", old["FrameOfReferenceUID"])
        for keyword in EMPTIED:
            setattr(ds, keyword, None if keyword == "SeriesNumber" else "")
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return ds


def pseudonym(patient: str) -> str | None:
    """Stands for a PatientID. Not secret: a short numeric id can be found by trying all."""
    return digest("subject", patient)[:16] if patient else None


def uid(*parts: str) -> pydicom.uid.UID:
    """A UID under 2.25 (a 128-bit number, PS3.5 B.2): the digest of `parts`."""
    number = int(files.digest(*parts)[:32], 16)
    return pydicom.uid.UID(f"2.25.{number}")


def _imaging_only(source: pydicom.Dataset) -> pydicom.Dataset:
    ds = pydicom.Dataset()
    for element in source:
        if element.keyword not in KEPT:
            continue
        if element.VR == "SQ":
            setattr(ds, element.keyword, [_imaging_only(item) for item in element.value])
        else:
            ds.add_new(element.tag, element.VR, element.value)
    return ds


def _reference(source: pydicom.Dataset) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return item


def _drop_stale(ds: pydicom.Dataset) -> None:
    overlays = [tag for tag in ds.keys() if 0x6000 <= tag.group <= 0x60FF]
    for tag in overlays:
        del ds[tag]
    for keyword in STALE:
        if keyword in ds:
            del ds[keyword]
