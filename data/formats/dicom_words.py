"""Which attributes of a DICOM header a result keeps: numbers, and words with their defined terms (PS3.3, PS3.16)."""

from itertools import permutations

NUMBERS = frozenset(
    """
    SliceThickness SpacingBetweenSlices KVP ExposureTime XRayTubeCurrent Exposure ReconstructionDiameter DataCollectionDiameter
    GantryDetectorTilt RepetitionTime EchoTime InversionTime EchoTrainLength FlipAngle MagneticFieldStrength NumberOfAverages
    ImagingFrequency EchoNumbers PercentSampling PercentPhaseFieldOfView PixelBandwidth AcquisitionMatrix
    InstanceNumber AcquisitionNumber ImagePositionPatient ImageOrientationPatient SliceLocation
    PixelSpacing ImagerPixelSpacing NominalScannedPixelSpacing ImagePlanePixelSpacing PixelAspectRatio
    NumberOfFrames FrameTime FrameIncrementPointer TemporalPositionIndex
    SamplesPerPixel PlanarConfiguration Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation
    PixelPaddingValue PixelPaddingRangeLimit FloatPixelPaddingValue FloatPixelPaddingRangeLimit DoubleFloatPixelPaddingValue
    DoubleFloatPixelPaddingRangeLimit
    RescaleSlope RescaleIntercept WindowCenter WindowWidth PixelIntensityRelationshipSign LossyImageCompressionRatio
    DoseGridScaling GridFrameOffsetVector
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelMeasuresSequence PlanePositionSequence
    PlaneOrientationSequence PixelValueTransformationSequence FrameVOILUTSequence FrameContentSequence
    FramePixelDataPropertiesSequence DimensionIndexValues InStackPositionNumber
    SequenceOfUltrasoundRegions RegionSpatialFormat RegionDataType RegionFlags RegionLocationMinX0 RegionLocationMinY0
    RegionLocationMaxX1 RegionLocationMaxY1 PhysicalUnitsXDirection PhysicalUnitsYDirection ReferencePixelX0 ReferencePixelY0
    ReferencePixelPhysicalValueX ReferencePixelPhysicalValueY PhysicalDeltaX PhysicalDeltaY
    """.split()
)

_DIRECTIONS = {a + b + c for a, b, c in permutations(("A", "P", "L", "R", "H", "F", "", ""), 3)}
_TERMS = {
    "Modality": "CR CT DX ES GM IO IVOCT IVUS MG MR NM OCT OP OPT OT PT PX RF RTDOSE RTIMAGE SC SM US XA XC",
    "BodyPartExamined": """ABDOMEN ABDOMENPELVIS ANKLE AORTA ARM BLADDER BRAIN BREAST BRONCHUS CALCANEUS CALF CAROTID CERVIX CHEST
        CHESTABDOMEN CHESTABDPELVIS CLAVICLE COCCYX COLON CSPINE CTSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE FACE FEMUR
        FINGER FOOT FOREARM GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS IAC ILIUM JAW KIDNEY KNEE LEG LIVER LSPINE LSSPINE
        LUNG MANDIBLE MAXILLA MEDIASTINUM NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT OVARY PANCREAS PATELLA
        PELVIS PROSTATE RIB SCAPULA SELLA SHOULDER SKULL SPINE SPLEEN SSPINE STERNUM STOMACH THIGH THORAX THYMUS THYROID TIBIA
        TLSPINE TOE TRACHEA TSPINE UTERUS WHOLEBODY WRIST ZYGOMA""",
    "PatientPosition": """HFP HFS HFDR HFDL FFP FFS FFDR FFDL LFP LFS RFP RFS AFP AFS AFDR AFDL PFP PFS PFDR PFDL""",
    "Laterality": "R L",
    "ImageLaterality": "R L U B",
    "ViewPosition": "AP PA LL RL RLD LLD RLO LLO LAO RAO CC MLO ML LM XCCL XCCM FB SIO LMO CV AT",
    "ScanningSequence": "SE IR GR EP RM",
    "SequenceVariant": "SK MTC SS TRSS SP MP OSP NONE",
    "ScanOptions": "PER RG CG PPG FC PFF PFP SP FS",
    "MRAcquisitionType": "2D 3D",
    "ImagedNucleus": "1H 3HE 7LI 13C 19F 23NA 31P 129XE",
    "PhotometricInterpretation": "MONOCHROME1 MONOCHROME2 RGB",
    "RescaleType": "OD HU US MGML Z_EFF ED EDW HU_MOD PCT",
    "VOILUTFunction": "LINEAR LINEAR_EXACT SIGMOID",
    "PresentationLUTShape": "IDENTITY INVERSE",
    "PixelIntensityRelationship": "LIN LOG DISP",
    "LossyImageCompression": "00 01",
    "LossyImageCompressionMethod": """ISO_10918_1 ISO_14495_1 ISO_15444_1 ISO_15444_15 ISO_18181_1 ISO_13818_2 ISO_14496_10
        ISO_23008_2""",
    "BurnedInAnnotation": "YES NO",
    "DoseUnits": "GY RELATIVE",
    "DoseType": "PHYSICAL EFFECTIVE ERROR",
}  # fmt: skip
WORDS = {keyword: frozenset(terms.split()) for keyword, terms in _TERMS.items()}
WORDS["PatientOrientation"] = frozenset(_DIRECTIONS)

# Present but empty: the standard wants these elements in every image (type 2), and they name people, places or days.
EMPTIED = "PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber ReferringPhysicianName StudyID SeriesNumber".split()
# Of the old pixels: wrong or telling once these are replaced.
STALE = (
    "PixelData FloatPixelData DoubleFloatPixelData SmallestImagePixelValue LargestImagePixelValue IconImageSequence"
    " SmallestPixelValueInSeries LargestPixelValueInSeries SmallestImagePixelValueInPlane LargestImagePixelValueInPlane"
    " SmallestValidPixelValue LargestValidPixelValue LargestMonochromePixelValue HistogramSequence PixelDataProviderURL"
    " RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor"
    " AlphaPaletteColorLookupTableDescriptor RedPaletteColorLookupTableData GreenPaletteColorLookupTableData"
    " BluePaletteColorLookupTableData AlphaPaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData"
    " SegmentedGreenPaletteColorLookupTableData SegmentedBluePaletteColorLookupTableData PaletteColorLookupTableUID"
    " ExtendedOffsetTable ExtendedOffsetTableLengths EncapsulatedPixelDataValueTotalLength DigitalSignaturesSequence"
).split()
