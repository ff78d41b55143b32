"""Safetensors with lying headers, and model folders whose configuration, keys or files are not what they should be."""

import json
import os
from collections.abc import Iterator

import torch
from hostile import NODE, Case, folder, good_state, safetensors


def cases(trap) -> Iterator[Case]:
    view = {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}
    yield Case(
        "overlapping_offsets",
        ".safetensors",
        "cannot be read safely|not a sound",
        lambda p: safetensors(p, {"a": view, "b": {**view, "data_offsets": [16, 48]}}),
    )
    yield Case(
        "header_of_exabytes",
        ".safetensors",
        "not a weight file",
        lambda p: safetensors(p, {"a": view}, length=1 << 60),
    )
    yield Case(
        "beyond_the_end",
        ".safetensors",
        "cannot be read safely|not a sound",
        lambda p: safetensors(p, {"a": {**view, "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
    )

    state = good_state()
    first = next(iter(state))
    yield Case(
        "missing_key",
        "",
        "1 missing",
        lambda p: folder(p, {k: v for k, v in state.items() if k != first}),
    )
    yield Case(
        "extra_key",
        "",
        "1 unexpected",
        lambda p: folder(p, {**state, "trojan.weight": torch.ones(2)}),
    )
    yield Case(
        "hub_target",
        "",
        "has no place in a model description",
        lambda p: folder(
            p, state, {"target": "torch.hub.load", "params": {"repo_or_dir": "x/y", "model": "z"}}
        ),
    )
    yield Case(
        "function_target",
        "",
        "is not a class",
        lambda p: folder(
            p, state, {"target": "ldm.plugins.admit", "params": {"module": "antigravity"}}
        ),
    )
    yield Case(
        "module_target",
        "",
        "cannot be imported|is not a class|has no",
        lambda p: folder(
            p,
            state,
            {"target": "ldm.config.importlib.import_module", "params": {"name": "antigravity"}},
        ),
    )
    yield Case(
        "trainer_target",
        "",
        "has no place",
        lambda p: folder(
            p,
            state,
            {
                "target": "pytorch_lightning.loggers.TensorBoardLogger",
                "params": {"save_dir": str(trap)},
            },
        ),
    )
    yield Case(
        "yaml_python",
        "",
        "could not determine a constructor",
        lambda p: folder(
            p, state, text=f"prior: !!python/object/apply:os.system ['touch {trap}']\n"
        ),
    )
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{c}: &{c} [{','.join(['*' + b] * 9)}]\n" for b, c in zip("abcdefgh", "bcdefghi")
    )
    yield Case("yaml_aliases", "", "aliases are not allowed", lambda p: folder(p, state, text=bomb))
    endless = json.loads(json.dumps(NODE).replace('"blocks": 1', '"blocks": 1000000000'))
    yield Case(
        "endless_layers",
        "",
        "describes more layers than the file has tensors",
        lambda p: folder(p, state, endless),
    )
    table = {
        "target": "ldm.denoiser.VP",
        "params": {
            "network": NODE["params"]["denoiser"]["params"]["network"],
            "alpha_bar": {
                "target": "ldm.schedule.Table",
                "params": {"kind": "linear", "n": 1 << 31},
            },
        },
    }
    yield Case(
        "endless_table",
        "",
        "n must lie in",
        lambda p: folder(
            p,
            state,
            {"target": "ldm.denoiser.Prior", "params": {"shape": [1, 8, 8], "denoiser": table}},
        ),
    )

    bare = NODE["params"]["denoiser"]["params"]["network"]
    own_net = {key.removeprefix("denoiser.network."): tensor for key, tensor in state.items()}
    yield Case(
        "not_a_prior",
        "",
        "describes a SongUNet, which is not a prior",
        lambda p: folder(p, own_net, bare),
    )

    def device(path):
        folder(path, None)
        (path / "model.safetensors").symlink_to("/dev/zero")

    def pipe(path):
        folder(path, None)
        os.mkfifo(path / "model.safetensors")

    def outside(path):
        path.mkdir()
        (path / "model_index.json").write_text(
            '{"_class_name": "LDMPipeline", "unet": ["diffusers", "../../../etc/passwd"]}'
        )

    yield Case("device", "", "no model here|no such file", device)
    yield Case("pipe", "", "no model here|no such file", pipe)
    yield Case("path_trick", "", "no such file", outside)
