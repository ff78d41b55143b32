"""Merging, building, and what a configuration may not do."""

import importlib
import inspect

import pytest
import torch

import data
import ldm.config as config
from data import files, ranges
from data.files import Refusal
from data.ranges import Intensity
from ldm import former, plugins
from solvers.run import door


def write(path, text):
    path.write_text(text)
    return path


WINDOW = "window: {target: data.ranges.Intensity, params: {low: -1000, high: 400}}\n"


def test_later_files_and_overrides_win(tmp_path):
    a = write(tmp_path / "a.yaml", WINDOW + "n: 1\n")
    b = write(tmp_path / "b.yaml", "window: {params: {high: 500}}\n")
    merged = config.load([a, b], ["n=2", "window.params.low=0"])
    assert merged["n"] == 2
    assert config.build(merged["window"]) == Intensity(0, 500)


def test_a_changed_target_replaces_the_node(tmp_path):
    a = write(tmp_path / "a.yaml", WINDOW)
    b = write(
        tmp_path / "b.yaml",
        "window: {target: torch.nn.Linear, params: {in_features: 2, out_features: 3}}\n",
    )
    assert isinstance(config.build(config.load([a, b])["window"]), torch.nn.Linear)


def test_inner_nodes_are_built_first(tmp_path):
    text = """
prior:
  target: ldm.denoiser.Prior
  params:
    shape: [1, 8, 8]
    denoiser: {target: ldm.denoiser.EDM, params: {sigma_data: 0.4, network: {target: torch.nn.Identity}}}
"""
    prior = config.build(config.load([write(tmp_path / "a.yaml", text)])["prior"])
    assert prior.denoiser.sigma_data == 0.4 and prior.shape == (1, 8, 8)


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "window: {target: data.ranges.Intensity, params: {low: 0, hihg: 1}}",
            r"b.yaml: window.params.hihg: .*did you mean 'high'",
        ),
        (
            "window: {target: data.ranges.Intensity, params: {low: zero, high: 1}}",
            r"b.yaml: window.params.low: 'zero' is not of type float",
        ),
        (
            "window: {target: data.ranges.Intensity, params: {low: 0}}",
            r"window.params.high: Intensity needs a value for 'high'",
        ),
        (
            "window: {target: data.ranges.Intensity, params: {low: 2, high: 1}}",
            r"b.yaml: window.params: .*needs low < high",
        ),
        (
            "window: {target: data.ranges.Intensty}",
            r"b.yaml: window.target: data.ranges has no 'Intensty'; did you mean 'Intensity'",
        ),
        (
            "window: {target: data.ranges.Intensity, parms: {}}",
            r"b.yaml: window.parms: unknown key",
        ),
        (
            "window: {target: torch.hub.load, params: {}}",
            r"b.yaml: window.target: 'torch.hub.load' is not a class",
        ),
        ("window: {target: torch.Tensor}", r"not of an allowed kind"),
        ("window: {target: ldm.config.Path}", r"not of an allowed kind"),
        ("window: {target: os.system}", r"not a class of this program .*--plugin os"),
        ("window: {target: subprocess.Popen}", r"--plugin subprocess"),
        ("window: !!python/object/apply:os.system ['true']", r"b.yaml: "),
        ("window: [1, 2", r"b.yaml: "),
        ("- 1", r"b.yaml: must hold a mapping"),
        ("window: ${nothing}", r"b.yaml: "),
    ],
)
def test_errors_name_file_and_key_in_one_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        config.build(config.load([write(tmp_path / "b.yaml", text)])["window"])
    assert "\n" not in str(caught.value)


def test_missing_file_and_bad_override(tmp_path):
    with pytest.raises(ValueError, match="no such configuration file"):
        config.load([tmp_path / "nowhere.yaml"])
    with pytest.raises(ValueError, match="not of the form key=value"):
        config.load([], ["nonsense"])


def test_overrides_are_blamed_on_the_command_line(tmp_path):
    node = config.load([write(tmp_path / "a.yaml", WINDOW)], ["window.params.high=tall"])["window"]
    with pytest.raises(ValueError, match="command line: window.params.high"):
        config.build(node)


def test_a_plugin_must_be_admitted(tmp_path, monkeypatch):
    write(
        tmp_path / "my_module.py",
        "class Thing:\n    def __init__(self, size: int = 1): self.size = size\n",
    )
    monkeypatch.syspath_prepend(tmp_path)
    node = {"target": "my_module.Thing", "params": {"size": 3}}
    with pytest.raises(ValueError, match="--plugin my_module"):
        config.build(node)
    plugins.admit("my_module")
    assert config.build(node).size == 3


def test_a_constructor_that_fails_is_the_users_only_if_the_code_is_not_ours(tmp_path, monkeypatch):
    write(tmp_path / "odd_module.py", "class Odd:\n    def __init__(self, size: int): {}[size]\n")
    write(tmp_path / "bad_module.py", "1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.admit("odd_module")
    text = "thing: {target: odd_module.Odd, params: {size: 3}}"
    node = config.load([write(tmp_path / "b.yaml", text)])["thing"]
    with pytest.raises(
        Refusal, match=r"b.yaml: thing.params: odd_module.Odd cannot be built .*\(KeyError: 3\)"
    ) as caught:
        config.build(node)
    assert isinstance(caught.value.__cause__, KeyError), "--traceback shows it"
    with pytest.raises(Refusal, match="--plugin bad_module: ZeroDivisionError: division by zero"):
        plugins.admit("bad_module")
    with pytest.raises(
        Refusal, match=r"torch.nn.Conv2d cannot be built from these \(ValueError: in_ch"
    ):
        config.build(
            {
                "thing": {
                    "target": "torch.nn.Conv2d",
                    "params": {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "groups": 2},
                }
            }
        )
    ours = {"__name__": "data.ranges"}
    exec("def buggy(self): {}['a bug']", ours)
    monkeypatch.setattr(ranges.Intensity, "__post_init__", ours["buggy"])
    with pytest.raises(KeyError, match="a bug"):
        config.build({"target": "data.ranges.Intensity", "params": {"low": 0, "high": 1}})


@pytest.mark.parametrize(
    "text, reason",
    [
        ("a: ${b}\nb: ${a}", "Recursive interpolation"),
        ("a:\n  x: ${b}\nb:\n  y: ${a}", "lead back to themselves"),
        ("a: &a [*a]", "contains itself"),
        ("a: " + "[" * 20_000, "nested deeper than"),
        ("a: ${oc.env:HOME}", "--allow-env"),
        (r'a: "\x24{oc.env:HOME}"', "--allow-env"),
        ("b: oc.env\na: ${${b}:HOME}", "--allow-env"),
        ("a: ${oc.decode:${b}}\nb: '1'", "--allow-env"),
    ],
)
def test_a_file_is_bounded_and_holds_all_it_says(tmp_path, text, reason):
    with pytest.raises(Refusal, match=f"b.yaml: .*{reason}"):
        config.load([write(tmp_path / "b.yaml", text)])


def test_the_environment_only_if_asked_and_never_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TOKEN", "s3cret-value")
    monkeypatch.setattr(config, "_resolvers", False)
    monkeypatch.setattr(files, "_secrets", set())
    config.admit_resolvers()
    file = write(
        tmp_path / "b.yaml",
        "window: {target: data.ranges.Intensity, params: {low: 0, high: '${oc.env:TOKEN}'}}",
    )
    node = config.load([file])["window"]
    assert node["params"]["high"] == "s3cret-value"
    assert door.run("main.py", [], lambda: config.build(node)) == 2
    line = capsys.readouterr().err
    assert "b.yaml: window.params.high: '***' is not of type float" in line


@pytest.mark.parametrize("old", former.RENAMED)
def test_every_former_target_is_found(old):
    """A module's entry stands for every class that lives in the module of today; a class's own for itself."""
    new = former.RENAMED[old]
    home, _, name = new.rpartition(".")
    if name[0].isupper():
        assert config.resolve(old) is getattr(importlib.import_module(home), name)
        return
    module = importlib.import_module(new)
    classes = [n for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == new]
    assert classes
    for name in classes:
        assert config.resolve(f"{old}.{name}") is getattr(module, name)


def test_dump_is_the_merged_result(tmp_path):
    merged = config.load([write(tmp_path / "a.yaml", "b: 1e-4\na: [1, {c: true}]\n")])
    assert merged["b"] == 1e-4
    assert config.dump(merged) == "b: 0.0001\na:\n- 1\n- {c: true}\n"


def test_a_data_set_brings_no_code(tmp_path, monkeypatch):
    """A Python file that came with images in data/<folder>/ is not imported, let alone run."""
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/loader.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Loader: pass\n"
    )
    monkeypatch.setattr(data, "__path__", [*data.__path__, str(tmp_path)])
    monkeypatch.setattr(config, "DATA", tmp_path)
    for target in ("data.scans.loader.Loader", "data.scans.Loader"):
        with pytest.raises(ValueError, match="lies in a folder of data/ that is not the program's"):
            config.resolve(target)
    assert (
        not (tmp_path / "ran").exists()
        and config.resolve("data.datamodule.ManifestData").__module__ == "data.datamodule"
    )
