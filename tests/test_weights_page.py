"""docs/weights.md against the program: models that published configurations name, files and flags of its commands."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/weights.md").read_text()
COMMANDS = re.findall(r"^    (python (?:sample|scripts/convert_checkpoint)\.py .*)$", PAGE, re.M)


def test_every_model_that_a_published_configuration_names_is_on_the_page():
    named = {
        yaml.safe_load(path.read_text()).get("prior")
        for path in (ROOT / "configs/published").rglob("*.yaml")
    }
    folders = {name.removeprefix("models/") for name in named if isinstance(name, str)}
    assert len(folders) >= 8
    assert not {folder for folder in folders if f"| `{folder}` |" not in PAGE}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse_and_their_configurations_exist(command, monkeypatch, tmp_path):
    words = shlex.split(re.sub(r"\[.*\]", "", command).replace("DIR", str(tmp_path)))[1:]
    if words[0] == "sample.py":
        import sample

        words = [
            word.replace("<system>/<data>-<sampler>/<task>", "dps/ffhq-ddpm/super_resolution")
            for word in words
        ]
        monkeypatch.chdir(ROOT)
        options, overrides = sample.parse(words[1:])
        assert sample.configurations(options, overrides)
    else:
        monkeypatch.syspath_prepend(ROOT / "scripts")
        from convert_checkpoint import arguments

        assert arguments().parse_args(words[1:]).folder.parts[0] == "models"


def test_settings_shown_for_monai_build_networks():
    """The YAML on the page, read as it stands, on the meta device."""
    import torch

    from ldm import config
    from ldm.checkpoints import monai

    block = re.search(
        r"((?:^    .*\n)+)", PAGE[PAGE.index("    autoencoder: {in_channels") :], re.M
    )[1]
    settings = yaml.safe_load(block)
    with torch.device("meta"):
        config.build(monai.stage(settings["autoencoder"], settings["unit_range"], "x"))
        config.build(monai.unet(settings["diffusion"], settings["size"], "x"))
    assert monai.schedule(settings["scheduler"], "x")[1] == "eps"
