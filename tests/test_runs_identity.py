"""Nothing that a DICOM file says of a person reaches a training run: checkpoints, TensorBoard, configuration, terminal."""

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.datadict import DicomDictionary
from runs import arguments
from test_formats_identity import filled, silent

import main
import sample


def scans(folder) -> None:
    """Four small slices of one series, a canary in every text attribute that DICOM has."""
    known = [
        entry[4]
        for tag, entry in DicomDictionary.items()
        if entry[4] and tag >> 16 > 2 and tag >> 16 < 0x5000
    ]
    y, x = np.mgrid[0:16, 0:16]
    for i in range(4):
        ds = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
        filled(ds, known)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{i + 1}"
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        ds.Rows = ds.Columns = 16
        ds.PixelData = (1000 + 200 * np.sin(x + i) * np.cos(y)).astype(np.int16).tobytes()
        ds.save_as(folder / f"{i}.dcm", enforce_file_format=False)
    (folder / "train.csv").write_text(
        "path,window\n" + "".join(f"{i}.dcm,-100:400\n" for i in range(4))
    )
    (folder / "data.yaml").write_text(
        f"data: {{target: data.datamodule.ManifestData, params: {{train: {folder}/train.csv, validation: {folder}/train.csv, "
        "batch_size: 2}}\ntrainer: {accelerator: cpu, enable_progress_bar: false, num_sanity_val_steps: 0}\n"
    )


def test_a_training_run_and_its_restoration_name_nobody(tmp_path, capfd):
    folder = tmp_path / "scans"
    folder.mkdir()
    scans(folder)
    assert not silent((folder / "0.dcm").read_bytes())
    assert (
        main.main(
            arguments(
                folder, tmp_path / "logs", "pixel", "--max_steps", "2", "--log_every_n_steps", "1"
            )
        )
        == 0
    )
    run = tmp_path / "logs/p/pixel"
    asked = [
        "--manifest",
        str(folder / "train.csv"),
        "--task",
        "denoising",
        "--solver",
        "baseline",
        "--model",
        str(run),
    ]
    assert sample.main([*asked, "--save-dir", str(tmp_path / "out")]) == 0
    written = [path for path in [*run.rglob("*"), *(tmp_path / "out").rglob("*")] if path.is_file()]
    kinds = {path.suffix for path in written}
    assert {".ckpt", ".yaml", ".dcm", ".jsonl", ".html", ".png"} <= kinds and any(
        "events" in path.name for path in written
    )
    named = [str(path) for path in written if not silent(path.read_bytes(), path.name)]
    assert not named
    said = capfd.readouterr()
    assert silent(said.out, said.err)
