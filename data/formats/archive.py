"""ZIP archives of pictures with `dataset.json` labels, as the EDM tools write and read them.

The images are counted in the order of their sorted names. `dataset.json` is {"labels": [["00000/img0.png", 3], …]} or
{"labels": null}; without it there are no labels. Labels are class numbers, not one-hot rows.
"""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data.files import Refusal
from data.formats import raster
from data.formats.image import Image, check_index, decoding
from data.formats.volume import check_complete

SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff"}
LARGEST_MEMBER = 2**30  # unpacked; a picture of a gigabyte is a bomb


def count(path: Path) -> int:
    """Number of pictures inside."""
    with decoding(path, "ZIP"), zipfile.ZipFile(path) as archive:
        return len(_pictures(archive))


def read(path: Path, index: int | None = None) -> Image:
    """The index-th picture; its meta has the picture's own format, its name as `key`, and its label.

    Pictures of an archive are not slices of one thing: they have no `series`.
    """
    with decoding(path, "ZIP"), zipfile.ZipFile(path) as archive:
        names = _pictures(archive)
        if not names:
            raise Refusal(f"no pictures inside; {', '.join(SUFFIXES)} are allowed")
    index = check_index(index, len(names), path, "pictures")
    name = names[index]
    with decoding(path, "ZIP"), zipfile.ZipFile(path) as archive:
        if archive.getinfo(name).file_size > LARGEST_MEMBER:
            raise Refusal(f"{name} unpacks to more than {LARGEST_MEMBER} bytes")
        data, label = archive.read(name), _labels(archive).get(name)
    image = raster.decode(data, f"{path}:{name}", SUFFIXES[Path(name).suffix.lower()])
    return replace(image, meta=replace(image.meta, index=index, count=len(names), key=name, label=label))


def encode(images: Sequence[Image]) -> bytes:
    """Pictures (PNG, JPEG or TIFF metas) → a ZIP with `dataset.json`; names are the keys, else img00000000.png and so on."""
    if images[0].meta.key and images[0].meta.count > 1:  # they come from one archive, and all of them go back
        check_complete([image.meta for image in images])
        images = sorted(images, key=lambda image: image.meta.index)
    out, labels = io.BytesIO(), []
    with zipfile.ZipFile(out, "w") as archive:
        for i, image in enumerate(images):
            suffix = next(s for s, format in SUFFIXES.items() if format == image.meta.format)
            name = image.meta.key or f"{i // 1000:05d}/img{i:08d}{suffix}"
            archive.writestr(zipfile.ZipInfo(name), raster.encode([image]))
            labels.append([name, image.meta.label])
        known = labels if all(label is not None for _, label in labels) else None
        archive.writestr(zipfile.ZipInfo("dataset.json"), json.dumps({"labels": known}))
    return out.getvalue()


def _pictures(archive: zipfile.ZipFile) -> list[str]:
    return sorted(name for name in archive.namelist() if Path(name).suffix.lower() in SUFFIXES)


def _labels(archive: zipfile.ZipFile) -> dict[str, int]:
    if "dataset.json" not in archive.namelist():
        return {}
    labels = json.loads(archive.read("dataset.json")).get("labels") or []
    return {str(name): int(label) for name, label in labels}
