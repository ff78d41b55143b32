"""Manifests written for a test, and how a bad one must be refused."""

import pytest

from data.manifest import COLUMNS, read

HEADER = ",".join(COLUMNS)


def write(tmp_path, content, name="m.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path, row, reason, how=lambda path: list(read(path))):
    with pytest.raises(ValueError) as caught:
        how(path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path}: ") and len(message) < 600
    assert reason in message, message
    assert row is None or f"row {row}:" in message, message
