"""Which volumes are restored as one, and why others are restored slice by slice."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from data import formats, series
from data.files import Refusal
from data.manifest import Row
from data.series import Whole
from ldm import catalogue
from ldm import config as configuration
from ldm.denoiser import Prior
from solvers.operators.base import Operator
from solvers.operators.volume import Slicewise
from solvers.run.cells import Cell

VOLUMES = (
    "nifti",
    "nrrd",
    "dicom",
    "tiff",
    "",
)  # formats whose files of several images are volumes; others hold pictures
ARRAYS = 36  # of a volume's size in float32, that a restoration holds at once (docs/volumes.md): state, update, spectra
OF_DRAWS = 4  # more for each further draw, whose spread is taken
GROUPS = (  # of Linux, version 2 and 1: what a container or a job may use, what it uses, and what of that is files' alone
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)

Unit = Row | Whole


def units(
    rows: Sequence[Row], cells: Sequence[Cell], prior: Prior, slicewise: bool
) -> tuple[Sequence[Unit], str]:
    """The rows, the slices of volumes as one where every cell restores those; and what to say of it ("" if nothing).

    Raises Refusal for a task that measures volumes, of which there is none or which it may not see.
    """
    solid = [cell for cell in cells if cell.operator is not None and cell.operator.volumetric]
    reasons = [f"{cell.name}: {why}" for cell in cells if (why := unable(cell, prior))]
    if solid and (slicewise or reasons):
        raise Refusal(
            reasons[0] if reasons else f"{solid[0].name} measures volumes: leave --slicewise out"
        )
    volumes = [row for row in rows if row.volume and (solid or formats.kind(row.path) in VOLUMES)]
    if solid and (alone := _alone(rows)):
        raise Refusal(f"{solid[0].name} measures volumes, and {alone}")
    if slicewise or not volumes:
        return rows, ""
    if reasons:
        return rows, f"volumes are restored slice by slice: {reasons[0]}"
    seen = set(volumes)
    taken = [row if row in seen else row._replace(volume="") for row in rows]
    return series.wholes(taken), ""


def _alone(rows: Sequence[Row]) -> str:
    """Which row is no volume, and why, or "". A file that cannot be read may be one: it fails alone, and says what is wrong."""
    for one in series.wholes(rows):
        if isinstance(one, Whole):
            continue
        with suppress(Refusal):
            dicom = formats.read(one.path, one.slice).meta.format == "dicom"
            nameless = dicom and formats.series(one.path) == one.path
            return f"{one.image_id} is a single image" + " (its file names no series)" * nameless
    return ""


def unable(cell: Cell, prior: Prior) -> str:
    """Why a cell does not restore volumes as one, or ""."""
    if cell.operator is None:
        return "draws from the prior are images"
    if not getattr(cell.solver, "volumes", False):
        return f"{type(cell.solver).__name__} restores images; {', '.join(of_volumes())} restore volumes"
    if cell.operator.turns:
        return f"{type(cell.operator).__name__} leaves each slice's turn open"
    if cell.operator.blind:
        return "the kernel of a blind blur is found in an image"
    if prior.kind != "pixel" or prior.patched:
        return "a prior of volumes is made of a pixel prior (--model demo-pixel)"
    if not prior.any_size:
        return "the prior knows slices of one size"
    return ""


def of_volumes() -> list[str]:
    """The names of the solvers that restore volumes as one."""
    found = []
    for name in catalogue.listing("solvers"):
        (solver,) = configuration.load([catalogue.settings("solvers", name)]).values()
        if getattr(configuration.resolve(solver["target"]), "volumes", False):
            found.append(name)
    return found


def volumetric(operators: Iterable[Operator | None]) -> bool:
    """Whether one of them measures volumes, so that slices cannot be restored one by one."""
    return any(operator is not None and operator.volumetric for operator in operators)


def lifted(operator: Operator, solid: bool, image_id: str) -> Operator:
    """The operator for a scan that is a volume, or is not."""
    if operator.volumetric and not solid:
        raise Refusal(
            f"{type(operator).__name__} measures volumes, and {image_id} is a single image"
        )
    return Slicewise(operator) if solid and not operator.volumetric else operator


def check_memory(voxels: int, draws: int = 1, size: int = 4, alone: bool = True) -> None:
    """Raise Refusal for a volume that this computer cannot hold, with so many draws of it.

    size: bytes of a number. alone: whether --slicewise is allowed.
    """
    needed, free = (ARRAYS + OF_DRAWS * (draws - 1)) * size * voxels, _available()
    if free is not None and needed > free:
        sizes = f"about {needed / 2**30:.1f} GiB are needed, {free / 2**30:.1f} are free"
        other = "--slicewise, or " * alone + "--slice-range for a part of it"
        raise Refusal(f"the volume is larger than the memory ({sizes}); {other}")


def _available() -> int | None:
    """Bytes that the system can still give, and the container or job that this is; None where neither says."""
    known = [bytes for bytes in (_of_system(), _of_group()) if bytes is not None]
    return min(known, default=None)


def _of_group(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container or a scheduler's job has left of what it may use: beyond that the kernel kills it without a word."""
    for most, used, stat, files in GROUPS:
        try:
            limit, now = (int((root / name).read_text()) for name in (most, used))
            lines = (root / stat).read_text().splitlines()
        except (OSError, ValueError):  # "max": there is no limit
            continue
        again = sum(int(line.split()[1]) for line in lines if line.startswith(f"{files} "))
        return max(limit - now + again, 0)
    return None


def _of_system() -> int | None:
    try:
        with open("/proc/meminfo") as file:
            found = next((line for line in file if line.startswith("MemAvailable:")), "")
    except OSError:
        return None
    return int(found.split()[1]) * 1024 if found else None
