"""The notebooks run from top to bottom, with a small prior of random weights and few steps; what is stored of them is small."""

import re
from pathlib import Path

import nbformat
import pytest
import tiny
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
FEW = {"steps": 2, "draws": 2, "max_steps": 4}
LARGEST = 400_000  # bytes of a notebook with its outputs


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch):
    tiny.folder(
        tmp_path / "demo-patch", tiny.patch(256)
    )  # what is found in the working folder goes before what is shipped
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        cell.source = re.sub(
            r"\b(max_steps|steps|draws)=\d+",
            lambda found: f"{found[1]}={FEW[found[1]]}",
            cell.source,
        )
    manager = AsyncKernelManager(
        kernel_name="python3", transport="ipc", ip=str(tmp_path / "kernel")
    )
    place = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, manager, timeout=500, startup_timeout=300, resources=place)
    client.execute(
        cleanup_kc=True
    )  # else the kernel and its threads stay: forks of later tests hung
    assert not manager.has_kernel
    assert any(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_small_and_tells_no_paths(path: Path):
    notebook, text = nbformat.read(path, 4), path.read_text()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert all(output.output_type != "error" for output in outputs)
    assert len(text) < LARGEST and not re.search(r"/(home|tmp|root|work|Users)/", text)
