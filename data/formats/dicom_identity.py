"""Who and what a DICOM result is: a derived image with new UIDs, of nobody in particular.

Patient data are removed by keeping a list of imaging attributes (`dicom_words`) and dropping everything else, private elements
included (PS3.15 annex E removes by list; keeping by list cannot forget one). Of what is kept, numbers stay, and words only
where they are among the attribute's defined terms: free text never. Burned-in text in the pixels is not looked for.
"""

import copy
from typing import NamedTuple

import pydicom
from pydicom.datadict import dictionary_VR

from data import files
from data.formats.dicom_words import EMPTIED, NUMBERS, STALE, WORDS
from data.formats.image import digest

NOTICE = "research use, not for diagnosis"
DESCRIPTION = 64  # characters of a SeriesDescription
TEXT = (
    "AE AS CS DA DT LO LT OB OD OF OL OV OW PN SH ST TM UC UI UN UR UT".split()
)  # what may name someone


class Origin(NamedTuple):
    """How results were made: digest of the configuration, words about it, whether the patient's data stay, and which of the
    results of an image they are ("" for the image, "std", "draw 3"): each kind is a series of its own."""

    config: str = ""
    derivation: str = ""
    keep_patient: bool = False
    kind: str = ""


def derived(source: pydicom.Dataset, image_id: str, origin: Origin) -> pydicom.Dataset:
    """A header for a result made from `source`, without pixels. Same arguments, same UIDs."""
    config, derivation, keep_patient, kind_of = origin
    old = {
        key: str(source.get(key, ""))
        for key in (
            "StudyInstanceUID",
            "SeriesInstanceUID",
            "FrameOfReferenceUID",
            "SOPInstanceUID",
        )
    }
    patient = str(source.get("PatientID", ""))
    ds = copy.deepcopy(source) if keep_patient else _imaging_only(source)
    _drop_stale(ds)
    third = list(source.get("ImageType") or [])[2:3]
    ds.ImageType = ["DERIVED", "SECONDARY", *(v for v in third if v in ("AXIAL", "LOCALIZER"))]
    ds.DerivationDescription = (
        derivation if NOTICE in derivation else f"{derivation}; {NOTICE}".lstrip("; ")
    )[:1024]
    if keep_patient and old["SOPInstanceUID"]:
        ds.SourceImageSequence = [_reference(source)]
    kind = source.get("SOPClassUID", "")
    ds.SOPClassUID = (
        kind if keep_patient or _known(kind) else pydicom.uid.SecondaryCaptureImageStorage
    )
    own = [kind_of] if kind_of else []
    ds.SOPInstanceUID = uid("instance", old["SOPInstanceUID"], image_id, config, *own)
    ds.SeriesInstanceUID = uid("series", old["SeriesInstanceUID"], config, *own)
    words = ": ".join([*own, *filter(None, [derivation.partition(";")[0]])])
    ds.SeriesDescription = words.replace("\\", "/")[:DESCRIPTION]
    if not keep_patient:
        ds.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: the derivation may name anything
        ds.PatientID = ds.PatientName = pseudonym(patient) or "unknown"
        ds.PatientIdentityRemoved, ds.DeidentificationMethod = (
            "YES",
            "kept a list of imaging attributes",
        )
        ds.StudyInstanceUID = uid("study", old["StudyInstanceUID"])
        if old["FrameOfReferenceUID"]:
            ds.FrameOfReferenceUID = uid("frame of reference", old["FrameOfReferenceUID"])
        for keyword in EMPTIED:
            setattr(ds, keyword, None if keyword == "SeriesNumber" else "")
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
        ds.SOPClassUID,
        ds.SOPInstanceUID,
    )
    return ds


def pseudonym(patient: str) -> str | None:
    """Stands for a PatientID, with or without blanks around it. Not secret: a short numeric id can be found by trying all."""
    patient = patient.strip()
    return digest("subject", patient)[:16] if patient else None


def uid(*parts: str) -> pydicom.uid.UID:
    """A UID under 2.25 (a 128-bit number, PS3.5 B.2): the digest of `parts`."""
    number = int(files.digest(*parts)[:32], 16)
    return pydicom.uid.UID(f"2.25.{number}")


def _imaging_only(source: pydicom.Dataset) -> pydicom.Dataset:
    """What is kept of a header or of an item in it; elements whose VR is not the dictionary's are not what they seem."""
    ds = pydicom.Dataset()
    for element in source:
        keyword = element.keyword
        if keyword not in NUMBERS and keyword not in WORDS:
            continue
        if element.VR not in dictionary_VR(element.tag).split(" or "):
            continue
        if element.VR == "SQ":
            setattr(ds, keyword, [_imaging_only(item) for item in element.value])
        elif keyword in WORDS and _defined(element, WORDS[keyword]):
            ds.add_new(element.tag, element.VR, element.value)
        elif keyword in NUMBERS and element.VR not in TEXT:
            ds.add_new(element.tag, element.VR, element.value)
    return ds


def _defined(element: pydicom.DataElement, terms: frozenset[str]) -> bool:
    values = (
        element.value if isinstance(element.value, pydicom.multival.MultiValue) else [element.value]
    )
    return all(str(value) in terms for value in values)


def _known(kind: str) -> bool:
    """Whether a UID is one of the standard's, not letters and numbers of somebody's own."""
    return pydicom.uid.UID(kind) in pydicom.uid.UID_dictionary


def _reference(source: pydicom.Dataset) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = (
        source.SOPClassUID,
        source.SOPInstanceUID,
    )
    return item


def _drop_stale(ds: pydicom.Dataset) -> None:
    for tag in [
        tag for tag in ds.keys() if 0x5000 <= tag.group <= 0x50FF or 0x6000 <= tag.group <= 0x60FF
    ]:
        del ds[tag]  # curves and overlays: drawn on the old pixels
    for keyword in STALE:
        if keyword in ds:
            del ds[keyword]
