"""ZIP archives of pictures with `dataset.json` labels, as the EDM tools write and read them.

The images are counted in the order of their sorted names. `dataset.json` is {"labels": [["00000/img0.png", 3], …]} or
{"labels": null}; without it there are no labels. Labels are class numbers, not one-hot rows.
"""

import io
import json
import re
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from data.files import Refusal
from data.formats import bounds, raster
from data.formats.image import Image, Meta, check_index, decoding
from data.formats.volume import check_complete

SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff"}
DESCRIBE = (".yaml", ".hdr")  # endings of files that say what an array beside them is
PLAIN = re.compile(r"[A-Za-z0-9_-]{1,60}\.npy")  # names that may be one of the disk
LABEL = 1024  # bytes of a picture's line in dataset.json, at most
STANDARD = re.compile(
    r"(\d+/)*img\d+\.\w+"
)  # the EDM tools' names; any other may be a person's, and is not carried over


def count(path: Path) -> int:
    """Number of pictures inside."""
    with decoding(path, "ZIP"), zipfile.ZipFile(path) as archive:
        return len(_pictures(archive))


def read(path: Path, index: int | None = None) -> Image:
    """The index-th picture; its meta has the picture's own format, a standard name as `key`, and its label.

    Pictures of an archive are not slices of one thing: they have no `series`.
    """
    with decoding(path, "ZIP"), zipfile.ZipFile(path) as archive:
        names = _pictures(archive)
        if not names:
            raise ValueError(f"no pictures inside; {', '.join(SUFFIXES)} are allowed")
        index = check_index(index, len(names), path, "pictures")
        name = names[index]
        format = SUFFIXES[Path(name).suffix.lower()]
        with archive.open(name) as stream:
            most = raster.greatest(stream, path, format)
        data, label = _member(archive, name, path, most), _labels(archive, path).get(name)
    image = raster.decode(data, f"{path}, picture {index}", format)
    key = name if _standard(names) else _numbered(index, format)
    return replace(
        image, meta=replace(image.meta, index=index, count=len(names), key=key, label=label)
    )


def held(meta: Meta) -> bool:
    """Whether an image is one of the pictures of an archive."""
    return bool(meta.key) and meta.format in SUFFIXES.values()


def unpack_scans(path: Path, folder: Path) -> int:
    """The DICOM files of an archive, written into a folder as 0001.dcm, 0002.dcm … in the order of their names; how many.

    Other members are passed over. No name of the archive becomes one of the disk, and together the files are no larger than
    one volume may be.
    """
    with decoding(path, "ZIP"), zipfile.ZipFile(path) as archive:
        names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
        bounds.count(path, len(names))
        left, found = bounds.VOLUME * bounds.image_bytes(), 0
        for name in names:
            with archive.open(name) as stream:
                if not is_dicom(stream.read(132)):
                    continue
            data = _member(archive, name, path, left)
            left, found = left - len(data), found + 1
            (folder / f"{found:04d}.dcm").write_bytes(data)
    return found


def unpack_described(path: Path, folder: Path, suffixes: Collection[str]) -> Path | None:
    """The file of an archive that a YAML or header of its name describes, written into a folder as scan.*; None: there is none.

    suffixes: of such files. Beside it lie what describes it, likewise called scan.*, and arrays that this may name: NPY files of
    plain names, which they keep. Raises Refusal where several files are described.
    """
    with decoding(path, "ZIP"), zipfile.ZipFile(path) as archive:
        names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
        bounds.count(path, len(names))
        stems = {Path(name).stem for name in names if Path(name).suffix.lower() in DESCRIBE}
        described = [
            n for n in names if Path(n).stem in stems and Path(n).suffix.lower() in suffixes
        ]
        if len(described) > 1:
            raise Refusal("the archive holds several measurements; one is allowed")
        if not described:
            return None
        stem, left = Path(described[0]).stem, bounds.VOLUME * bounds.image_bytes()
        for name in names:
            own, ending = Path(name).name, Path(name).suffix.lower()
            if Path(name).stem == stem and ending in (*DESCRIBE, *suffixes):
                own = f"scan{ending}"
            elif not PLAIN.fullmatch(own):
                continue
            data = _member(archive, name, path, left)
            left -= len(data)
            (folder / own).write_bytes(data)
    return folder / f"scan{Path(described[0]).suffix.lower()}"


def is_dicom(start: bytes) -> bool:
    """Whether a file that starts so is of DICOM's part 10."""
    return start[128:132] == b"DICM"


def encode(images: Sequence[Image]) -> bytes:
    """Pictures (PNG, JPEG or TIFF metas) → a ZIP with `dataset.json`; names are the keys if they are of the EDM tools' kind,
    else 00000/img00000000.png and so on.
    """
    if (
        images[0].meta.key and images[0].meta.count > 1
    ):  # they come from one archive, and all of them go back
        check_complete([image.meta for image in images])
        images = sorted(images, key=lambda image: image.meta.index)
    keep = _standard([image.meta.key for image in images])
    out, labels = io.BytesIO(), []
    with zipfile.ZipFile(out, "w") as archive:
        for i, image in enumerate(images):
            name = image.meta.key if keep else _numbered(i, image.meta.format)
            archive.writestr(zipfile.ZipInfo(name), raster.encode([image]))
            labels.append([name, image.meta.label])
        known = labels if all(label is not None for _, label in labels) else None
        archive.writestr(zipfile.ZipInfo("dataset.json"), json.dumps({"labels": known}))
    return out.getvalue()


def _standard(names: Sequence[str]) -> bool:
    return all(STANDARD.fullmatch(name) for name in names)


def _numbered(index: int, format: str) -> str:
    suffix = next(s for s, held in SUFFIXES.items() if held == format)
    return f"{index // 1000:05d}/img{index:08d}{suffix}"


def _pictures(archive: zipfile.ZipFile) -> list[str]:
    return sorted(name for name in archive.namelist() if Path(name).suffix.lower() in SUFFIXES)


def _member(archive: zipfile.ZipFile, name: str, path: Path, most: int) -> bytes:
    """What a member unpacks to, no more than the archive's directory claims, and no more than `most`."""
    info = archive.getinfo(name)
    if info.file_size > most:
        raise Refusal(
            f"{path}: a member of {info.file_size} bytes, of which {most} can be of use; so many are allowed"
        )
    if (
        info.compress_type == zipfile.ZIP_DEFLATED
        and info.file_size > info.compress_size * bounds.DEFLATE
    ):
        raise Refusal(
            f"{path}: a member promises {info.file_size} bytes, more than it can hold; an undamaged archive is allowed"
        )
    with archive.open(info) as stream:
        return bytes(bounds.unpack(stream, info.file_size, path))


def _labels(archive: zipfile.ZipFile, path: Path) -> dict[str, int]:
    if "dataset.json" not in archive.namelist():
        return {}
    text = _member(archive, "dataset.json", path, LABEL * (len(archive.namelist()) + 1))
    try:
        return {str(name): int(label) for name, label in json.loads(text).get("labels") or []}
    except (
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ):  # their texts would quote what is written there
        raise Refusal(
            f"{path}: its dataset.json is not a list of [name, class number]; that, or none, is allowed"
        ) from None
