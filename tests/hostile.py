"""What hostile and broken weight files are made of."""

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import yaml
from safetensors.torch import save_file

from ldm import config

NODE = {
    "target": "ldm.denoiser.Prior",
    "params": {
        "shape": [1, 8, 8],
        "denoiser": {
            "target": "ldm.denoiser.EDM",
            "params": {
                "network": {
                    "target": "ldm.networks.edm.SongUNet",
                    "params": {"channels": 1, "width": 16, "multipliers": [1, 2], "blocks": 1},
                }
            },
        },
    },
}


class Case(NamedTuple):
    """A file that is written at <name><suffix>, and what the one line must say that refuses it."""

    name: str
    suffix: str
    says: str
    write: Callable[[Path], object]


class Runs:
    """A pickle that calls what it likes when it is loaded."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def touch(trap):
    return Runs(os.system, f"touch {trap}")


def good_state():
    return {k: v.contiguous() for k, v in config.build(NODE).state_dict().items()}


def folder(place, state, node=NODE, text=None):
    place.mkdir()
    (place / "config.yaml").write_text(
        text if text is not None else yaml.safe_dump({"prior": node})
    )
    if state is not None:
        save_file(state, place / "model.safetensors")
    return place


def safetensors(path, header, payload=b"\0" * 64, length=None):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + payload)


def zip_with(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
