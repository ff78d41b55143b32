"""The README is a promise: its commands run, its example is an operator, what it names exists.

Long commands are run as they stand but for a few words behind them that make networks narrow and steps few.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import test_operators
import tiny
from operator_list import Case

import main
import sample
from solvers.run import flags

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.S | re.M)
PROSE = re.sub(r"^```.*?^```", "", README, flags=re.S | re.M)
SPANS = re.findall(r"`([^`\n]+)`", PROSE)
COMMANDS = [
    line.split(" #")[0].strip()
    for kind, text in BLOCKS
    if kind == "sh"
    for line in text.splitlines()
]
COMMANDS = [line for line in COMMANDS if line and not line.startswith("#")]
TOLD = [span for span in SPANS if span.startswith(("python ", "make ", "conda "))]

FEW = (
    "--max_steps 1 --val_check_interval 1 --limit_val_batches 1 --precision 32-true"
    " --accelerator cpu --enable_progress_bar False"
)
STAGE = "first_stage.params.model.params.widths=[32,32,32] first_stage.params.model.params.codes=16"
QUICK = {  # what is written behind a command of the block on one's own scans
    "configs/autoencoder/medical-vq-f4.yaml": f"{FEW} data.params.batch_size=1 data.params.num_workers=0 {STAGE}",
    "configs/latent-diffusion/medical-vq-4.yaml": f"{FEW} data.params.batch_size=1 data.params.num_workers=0"
    " prior.params.denoiser.params.network.params.widths=[32,32] prior.params.denoiser.params.network.params.attention=[]"
    f" {STAGE.replace('first_stage', 'prior.params.first_stage')}",
    "sample.py": "--limit 1 --steps 3 --accelerator cpu solver.params.newton=1 solver.params.cg=1",
}


def linked(folder: Path, monkeypatch) -> None:
    """A place to run in that looks like the checkout from inside."""
    for name in ("configs", "models", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)


def test_every_command_is_one_that_is_tried_here():
    doors = (
        "make demo",
        "make test",
        "make check",
        "make web",
        "make docs",
        "pip install -e .",
        "conda env create",
        "python scripts/prepare_",
        "python main.py",
        "python sample.py",
    )
    assert len(COMMANDS) >= 6 and len(TOLD) >= 2
    assert [c for c in COMMANDS + TOLD if not c.startswith(doors)] == []


@pytest.mark.parametrize(
    "target", sorted({t for w in COMMANDS + TOLD if w.startswith("make ") for t in w.split()[1:]})
)
def test_make_knows_its_targets(target: str):
    told = subprocess.run(
        ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    known = {
        "demo": "sample.py",
        "web": "scripts/web.py",
        "docs": "mkdocs build",
        "test": "-m pytest",
        "check": "ruff check",
    }
    assert known[target] in told


def test_one_scan_becomes_one_scan(tmp_path: Path, monkeypatch, capsys):
    """The first block, on a small head of sides that nobody made anything for."""
    linked(tmp_path, monkeypatch)
    affine = np.array([[0, 0, 2.5, 3], [-1.1, 0, 0, 7], [0, 1.2, 0, -9], [0, 0, 0, 1]], float)
    pixels = np.random.default_rng(0).integers(0, 800, (33, 47, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(pixels, affine), tmp_path / "head.nii.gz")
    install, line = BLOCKS[0][1].splitlines()
    assert install == "pip install -e ." and README.index(line) < README.index("make demo")
    words = line.replace("models/demo-data/brain2.nii.gz", "head.nii.gz").split()[2:]
    assert sample.main([*words, "--steps", "2", "--accelerator", "cpu"]) == 0
    assert re.search(r"took \d+\.\d s", capsys.readouterr().out.splitlines()[-1])
    volume = nibabel.load(tmp_path / "results/head/recon/head.nii.gz")
    assert volume.shape == pixels.shape
    assert (
        np.array_equal(volume.affine, nibabel.load(tmp_path / "head.nii.gz").affine)
        and volume.get_data_dtype() == np.int16
    )


def test_own_scans_become_a_data_set_a_prior_and_results(tmp_path: Path, monkeypatch):
    """The block on one's own scans from top to bottom, on twelve small scans."""
    linked(tmp_path, monkeypatch)
    for i in range(12):
        tiny.scans(tmp_path / f"SCANS/subject{i}", 1, (64, 64))
    block = next(text for kind, text in BLOCKS if kind == "sh" and "SCANS" in text)
    run = [line for line in block.splitlines() if line.startswith("python")]
    assert len(run) == 4
    for line in run:
        _, door, *words = shlex.split(line)
        words += shlex.split(next((more for key, more in QUICK.items() if key in line), ""))
        if door.startswith("scripts/"):
            done = subprocess.run([sys.executable, door, *words], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        else:
            assert {"main.py": main.main, "sample.py": sample.main}[door](words) == 0, line
    assert len(list(tmp_path.glob("results/medical-sr/test/recon/*"))) == 1
    assert (tmp_path / "results/medical-sr/test/report.html").is_file()


@pytest.mark.parametrize("line", [line for line in TOLD if line.startswith("python sample.py")])
def test_commands_told_in_passing_are_right(line: str, tmp_path: Path, monkeypatch, capsys):
    linked(tmp_path, monkeypatch)
    words = [word.replace("NAME", "ct_parallel_20") for word in shlex.split(line)[2:]]
    if "my_ops" in words:  # the module of docs/extend.md, whose own test runs it
        pytest.skip("a module that the reader writes")
    if "--list" in words:
        with pytest.raises(SystemExit, match="0"):
            sample.main(words)
        assert "super_resolution" in capsys.readouterr().out
        return
    assert (
        sample.main(
            [
                *words,
                "--dry-run",
                "--accelerator",
                "cpu",
                "--precision",
                "32-true",
                "--num-samples",
                "1",
            ]
        )
        == 0
    )
    assert "s an image" in capsys.readouterr().out


def test_flags_told_in_passing_exist():
    known = {*flags.parser("").flags(), *main.parser().flags()}
    told = {word for span in SPANS for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", span)}
    assert told and told <= known


def test_files_told_of_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    paths = [
        s
        for s in SPANS
        if re.fullmatch(r"[\w./-]+\.(py|yaml|md)|[\w-]+(/[\w-]+)*/", s) and "every_other" not in s
    ]
    assert len(links) > 5 and len(paths) > 5
    rooms = ("", "solvers", "configs", "recon")
    missing = [p for p in [*links, *paths] if not any((ROOT / room / p).exists() for room in rooms)]
    assert [p for p in missing if not re.match("panels|recon|results", p)] == []


def example() -> str:
    return next(text for kind, text in BLOCKS if kind == "python" and "EveryOtherRow" in text)


def test_the_operator_in_ten_lines_passes_the_battery():
    scope: dict = {}
    exec(example(), scope)
    case = Case("every_other_row", scope["EveryOtherRow"], (2, 6, 5))
    test_operators.test_adjoint(case)
    test_operators.test_is_a_matrix_and_its_transpose(case)
    test_operators.test_solve_is_the_dense_solve(case, 0.01, 1.0)
    test_operators.test_solve_takes_one_number_per_image(case)
    test_operators.test_vjp_is_the_adjoint(case)
    test_operators.test_rows_of_a_batch_are_single_images(case)
    test_operators.test_precision_and_counts(case)
    test_operators.test_norm(case)


def test_the_operator_in_ten_lines_restores_images_as_a_plug_in(tmp_path: Path, monkeypatch):
    world = tiny.world(tmp_path / "world")
    (tmp_path / "rows_module.py").write_text(example())
    monkeypatch.syspath_prepend(tmp_path)
    task = tiny.task(tmp_path / "every_other_row.yaml")
    task.write_text(
        task.read_text().replace("solvers.operators.SuperResolution", "rows_module.EveryOtherRow")
    )
    words = tiny.words(world, tmp_path / "out", "--task", str(task), "--plugin", "rows_module")
    assert sample.main(words) == 0
    assert all(record["status"] == "ok" for record in tiny.records(tmp_path / "out").values())
