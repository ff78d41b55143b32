"""Hostile and broken weight files: none runs anything, none hangs, none takes memory, each gives one line.

The corpus is written here, then read by one fresh process, which reports for every file the error, the time, and by how
much the most memory it ever held grew.
"""

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import textwrap
import types
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from foreign import MOST
from safetensors.torch import save_file

from ldm.checkpoints.unpickling import LEGACY

ROOT = Path(__file__).parent.parent
NODE = {
    "target": "ldm.denoiser.Prior",
    "params": {
        "shape": [1, 8, 8],
        "denoiser": {
            "target": "ldm.denoiser.EDM",
            "params": {
                "network": {
                    "target": "ldm.edm_networks.SongUNet",
                    "params": {"channels": 1, "width": 16, "multipliers": [1, 2], "blocks": 1},
                }
            },
        },
    },
}


class Runs:
    """A pickle that calls what it likes when it is loaded."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def touch(trap):
    return Runs(os.system, f"touch {trap}")


def good_state():
    from ldm import config

    return {k: v.contiguous() for k, v in config.build(NODE).state_dict().items()}


def folder(place, state, node=NODE, text=None):
    place.mkdir()
    (place / "config.yaml").write_text(text if text is not None else yaml.safe_dump({"prior": node}))
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


def archive(path, content):
    """A torch archive of no tensors with this pickle in it."""
    file = io.BytesIO()
    torch.save({}, file)
    with zipfile.ZipFile(file) as sound:
        entries = {entry.filename: sound.read(entry) for entry in sound.infolist()}
    zip_with(path, {name: content if name.endswith("data.pkl") else other for name, other in entries.items()})


def pickled_as(module, name, arguments):
    """{"ema": module.name(*arguments)}, whether or not such a module exists here."""
    called = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)) + b"\x93"
    return b"\x80\x04}\x8c\x03ema" + called + pickle.dumps(arguments, 3)[2:-1] + b"Rs."


def _reconstruct_persistent_obj(meta):
    raise AssertionError


class Persisted:
    def __init__(self, meta):
        self.meta = meta

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,)


def persisted(content):
    """Pickled as EDM's persistent objects are: the module's name is exchanged in the bytes (protocol 0: names are lines)."""
    ours = f"c{__name__}\n_reconstruct_persistent_obj\n".encode()
    return b"\x80\x02" + pickle.dumps(content, 0).replace(ours, b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n")


class Program(torch.nn.Module):
    """Writes a file when torch.jit.load brings it back."""

    def __init__(self, trap):
        super().__init__()
        self.trap = str(trap)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.trap, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.trap, self.training = state
        torch.save(torch.zeros(1), state[0])


def program(trap):
    """A TorchScript archive, its entries stored as torch.save would."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated, and still runs it
        torch.jit.save(torch.jit.script(Program(trap)), file)
    stored = io.BytesIO()
    with zipfile.ZipFile(file) as made:
        zip_with(stored, {entry.filename: made.read(entry) for entry in made.infolist()})
    return stored.getvalue()


def tar_of_a_pipe(path):
    """Opens like a file of before 1.6, is a tar archive, and waits for ever for what comes through a pipe."""
    with tarfile.open(path, "w:", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
        tar.addfile(tarfile.TarInfo(LEGACY.decode("utf-8", "surrogateescape")))
        pipe = tarfile.TarInfo("storages")
        pipe.type = tarfile.FIFOTYPE
        tar.addfile(pipe)


def corpus(place, trap):
    """name -> (path, what the line must say)."""
    files = {}
    place.mkdir(exist_ok=True)

    def case(name, suffix, says, write):
        path = place / f"{name}{suffix}"
        write(path)
        files[name] = (path, says)

    evil = {"state_dict": {"a": torch.ones(2)}, "extra": touch(trap)}
    case("reduce_zip", ".ckpt", "has no place in a weight file", lambda p: torch.save(evil, p))
    case(
        "reduce_legacy",
        ".pt",
        "has no place in a weight file",
        lambda p: torch.save(evil, p, _use_new_zipfile_serialization=False),
    )
    case("reduce_pickle", ".pkl", "has no place in a weight file", lambda p: p.write_bytes(pickle.dumps(evil)))
    for name, function in {"eval": eval, "exec": exec, "getattr": getattr, "hub": torch.hub.load}.items():
        case(
            f"call_{name}",
            ".pkl",
            "has no place",
            lambda p, f=function: p.write_bytes(pickle.dumps({"ema": Runs(f, f"open('{trap}', 'w')")})),
        )

    record = {"type": "class", "version": 6, "module_src": f"open({str(trap)!r}, 'w')", "class_name": "EDMPrecond", "state": {}}
    persistent = ("torch_utils.persistence", "_reconstruct_persistent_obj")
    case(
        "module_src", ".pkl", "holds a EDMPrecond that is not one of", lambda p: p.write_bytes(pickled_as(*persistent, (record,)))
    )

    def network(modules):
        inside = {
            **record,
            "class_name": "SongUNet",
            "state": {"_init_kwargs": {"img_resolution": 8, "in_channels": 1, "out_channels": 1}, "_modules": modules},
        }
        outer = {**record, "state": {"_modules": {"model": Persisted(inside)}}}
        return {"ema": Persisted(outer)}

    def fan(path):
        child = Persisted({**record, "state": {"_modules": {}}})
        for _ in range(12):
            child = Persisted({**record, "state": {"_modules": {str(i): child for i in range(12)}}})
        path.write_bytes(persisted(network({"enc": child})))

    case("modules_without_end", ".pkl", "occurs twice", fan)
    case("modules_are_a_list", ".pkl", "not of the kind its layout has", lambda p: p.write_bytes(persisted(network([1, 2]))))
    case("state_dict_is_a_tensor", ".ckpt", "not of the kind|not known", lambda p: torch.save({"state_dict": torch.ones(3)}, p))

    inner = io.BytesIO()
    torch.save(touch(trap), inner, _use_new_zipfile_serialization=False)
    nested = {"ema": Runs(torch.storage._load_from_bytes, inner.getvalue()), "x": 1}
    case("load_from_bytes", ".pkl", "cannot be read safely", lambda p: p.write_bytes(pickle.dumps(nested)))
    plain = {"ema": Runs(torch.storage._load_from_bytes, pickle.dumps(touch(trap)))}
    case("load_from_bytes_pickle", ".pkl", "cannot be read safely", lambda p: p.write_bytes(pickle.dumps(plain)))

    runs = program(trap)
    case("program", ".pt", "holds a TorchScript program", lambda p: p.write_bytes(runs))
    inside = {"ema": Runs(torch.storage._load_from_bytes, runs)}
    case("program_in_a_pickle", ".pkl", "no torch file of the format before 1.6", lambda p: p.write_bytes(pickle.dumps(inside)))
    case("tar_of_a_pipe", ".pt", "is a tar archive", tar_of_a_pipe)

    build = b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\n}\x8c\x0c__defaults__Nsb."
    case("state_of_a_function", ".pkl", "cannot be read safely", lambda p: p.write_bytes(build))
    case("memo", ".pkl", "cannot be read safely|not a dictionary", lambda p: p.write_bytes(b"\x80\x02}r\xff\xff\xff\x7f0."))
    case(
        "long_string",
        ".pkl",
        "cannot be read safely",
        lambda p: p.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 44) + b"x."),
    )

    def called(module, name, arguments, copies=1, before=b""):
        """A list of `copies` results of module.name(*arguments), as the pickle of a torch archive."""
        one = f"c{module}\n{name}\n".encode() + arguments + b"R"
        return lambda p: archive(p, b"\x80\x02" + before + b"}X\x01\0\0\0a](" + copies * one + b"es.")

    number = struct.pack("<BBq", 0x8A, 8, 1 << 30)
    case("gigabyte_of_bytes", ".ckpt", "has no place", called("__builtin__", "bytearray", number + b"\x85"))
    case(
        "gigabyte_storage", ".ckpt", "has no place|not a constructor", called("torch.storage", "UntypedStorage", number + b"\x85")
    )
    pairs = b"](" + b"".join(b"K" + bytes([i]) + b"N\x86" for i in range(200)) + b"eq\x000"
    ordered = called("collections", "OrderedDict", b"h\x00\x85", 20_000, pairs)
    case("copies_of_a_dictionary", ".ckpt", "layout", ordered)  # the pairs are moved into the first of them, not copied
    shape = b"(" + b"K\x01" * 200 + b"tq\x000"
    case("copies_of_a_shape", ".ckpt", "200 dimensions", called("torch", "Size", b"h\x00\x85", 20_000, shape))
    word = b"X" + struct.pack("<I", 1 << 16) + b"x" * (1 << 16) + b"q\x000"
    encoded = called("_codecs", "encode", b"h\x00X\x06\0\0\0utf-32\x86", 2000, word)  # left inert, it takes nothing
    case("copies_of_a_string", ".ckpt", "not known", encoded)
    case(
        "many_operations",
        ".pkl",
        "more than 400000 operations",
        lambda p: p.write_bytes(b"\x80\x02(" + b"}" * 500_000 + b"l."),
    )
    names = b"".join(b"cnumpy\nn%d\n" % i for i in range(1100))
    case("many_names", ".pkl", "more than 1000 classes", lambda p: p.write_bytes(b"\x80\x02(" + names + b"l."))

    def enlarged(path):
        """A tensor of a gigabyte in a storage of four bytes that, read from a file of before 1.6, could grow."""
        file = io.BytesIO()
        torch.save({"state_dict": {"a": torch.ones(300)[:1]}}, file, _use_new_zipfile_serialization=False)
        raw, view = file.getvalue(), b"K\x01\x85q"
        assert view in raw
        path.write_bytes(raw.replace(view, b"\x8a\x04" + struct.pack("<I", 1 << 28) + view[2:]))

    case("enlarged_storage", ".pt", "a tensor of .* in a storage of 1200 bytes", enlarged)

    whole = io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(50_000)}}, whole)
    case("truncated_zip", ".ckpt", "cannot be read safely", lambda p: p.write_bytes(whole.getvalue()[:-5000]))
    case(
        "bomb",
        ".ckpt",
        "compressed archive",
        lambda p: zip_with(p, {"archive/data.pkl": b"\x80\x02}.", "archive/data/0": bytes(1 << 28)}, zipfile.ZIP_DEFLATED),
    )

    def overlapping(path):
        zip_with(path, {"archive/data.pkl": b"\x80\x02}.", "archive/data/0": bytes(1 << 16)})
        raw = path.read_bytes()
        at, end = raw.index(b"PK\x01\x02", raw.index(b"PK\x01\x02") + 4), raw.index(b"PK\x05\x06")
        entry, count = raw[at:end], 500
        directory = raw[raw.index(b"PK\x01\x02") : at] + entry * count
        tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count + 1, count + 1, len(directory), raw.index(b"PK\x01\x02"), 0)
        path.write_bytes(raw[: raw.index(b"PK\x01\x02")] + directory + tail)

    case("bomb_of_overlaps", ".ckpt", "claim more bytes than the file has", overlapping)
    case("web_page", ".ckpt", "not a weight file", lambda p: p.write_bytes(b"<!DOCTYPE html><html>Sign in to download</html>"))
    case(
        "git_lfs_pointer",
        ".safetensors",
        "not a weight file",
        lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
    )
    case("empty", ".ckpt", "is empty", lambda p: p.write_bytes(b""))

    view = {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}
    case(
        "overlapping_offsets",
        ".safetensors",
        "cannot be read safely|not a sound",
        lambda p: safetensors(p, {"a": view, "b": {**view, "data_offsets": [16, 48]}}),
    )
    case("header_of_exabytes", ".safetensors", "not a weight file", lambda p: safetensors(p, {"a": view}, length=1 << 60))
    case(
        "beyond_the_end",
        ".safetensors",
        "cannot be read safely|not a sound",
        lambda p: safetensors(p, {"a": {**view, "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
    )

    def claims(tensor):
        state = good_state()
        state[next(iter(state))] = tensor
        return {"config": {"prior": NODE}, "state_dict": {f"prior.{k}": v for k, v in state.items()}, "ema": {}}

    shape = good_state()[next(iter(good_state()))].shape
    case(
        "terabyte_view",
        ".ckpt",
        "claims .* entries of a storage",
        lambda p: torch.save(claims(torch.zeros(1).expand(1 << 20, 1 << 20)), p),
    )
    case(
        "sparse_terabyte",
        ".ckpt",
        "not a plain tensor|cannot be read",
        lambda p: torch.save(claims(torch.sparse_coo_tensor([[0]], [1.0], (1 << 40,))), p),
    )
    case("nan", ".ckpt", "not finite", lambda p: torch.save(claims(torch.full(shape, float("nan"))), p))
    case("infinite", ".ckpt", "not finite", lambda p: torch.save(claims(torch.full(shape, float("inf"))), p))
    case("mis_shaped", ".ckpt", "of another shape", lambda p: torch.save(claims(torch.zeros(3)), p))
    case("no_tensor", ".ckpt", "not a plain tensor|has no attribute", lambda p: torch.save(claims("weights"), p))
    case("config_is_a_list", ".ckpt", "must describe", lambda p: torch.save({"config": [1], "state_dict": {}, "ema": {}}, p))
    laughs: list = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    case(
        "billion_laughs",
        ".ckpt",
        "more than 10000 values",
        lambda p: torch.save(
            {"config": {"prior": {"target": "ldm.denoiser.Prior", "params": {"x": laughs}}}, "state_dict": {}, "ema": {}}, p
        ),
    )

    state = good_state()
    first = next(iter(state))
    case("missing_key", "", "1 missing", lambda p: folder(p, {k: v for k, v in state.items() if k != first}))
    case("extra_key", "", "1 unexpected", lambda p: folder(p, {**state, "trojan.weight": torch.ones(2)}))
    case(
        "hub_target",
        "",
        "has no place in a model description",
        lambda p: folder(p, state, {"target": "torch.hub.load", "params": {"repo_or_dir": "x/y", "model": "z"}}),
    )
    case(
        "function_target",
        "",
        "is not a class",
        lambda p: folder(p, state, {"target": "ldm.config.admit", "params": {"module": "antigravity"}}),
    )
    case(
        "module_target",
        "",
        "cannot be imported|is not a class|has no",
        lambda p: folder(p, state, {"target": "ldm.config.importlib.import_module", "params": {"name": "antigravity"}}),
    )
    case(
        "trainer_target",
        "",
        "has no place",
        lambda p: folder(p, state, {"target": "pytorch_lightning.loggers.TensorBoardLogger", "params": {"save_dir": str(trap)}}),
    )
    case(
        "yaml_python",
        "",
        "cannot be read safely",
        lambda p: folder(p, state, text=f"prior: !!python/object/apply:os.system ['touch {trap}']\n"),
    )
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{c}: &{c} [{','.join(['*' + b] * 9)}]\n" for b, c in zip("abcdefgh", "bcdefghi")
    )
    case("yaml_aliases", "", "aliases are not allowed", lambda p: folder(p, state, text=bomb))
    endless = json.loads(json.dumps(NODE).replace('"blocks": 1', '"blocks": 1000000000'))
    case("endless_layers", "", "describes more layers than the file has tensors", lambda p: folder(p, state, endless))
    table = {
        "target": "ldm.denoiser.VP",
        "params": {
            "network": NODE["params"]["denoiser"]["params"]["network"],
            "alpha_bar": {"target": "ldm.schedule.Table", "params": {"kind": "linear", "n": 1 << 31}},
        },
    }
    case(
        "endless_table",
        "",
        "n must lie in",
        lambda p: folder(p, state, {"target": "ldm.denoiser.Prior", "params": {"shape": [1, 8, 8], "denoiser": table}}),
    )

    bare = NODE["params"]["denoiser"]["params"]["network"]
    own_net = {key.removeprefix("denoiser.network."): tensor for key, tensor in state.items()}
    case("not_a_prior", "", "describes a SongUNet, which is not a prior", lambda p: folder(p, own_net, bare))

    def device(path):
        folder(path, None)
        (path / "model.safetensors").symlink_to("/dev/zero")

    def pipe(path):
        folder(path, None)
        os.mkfifo(path / "model.safetensors")

    def outside(path):
        path.mkdir()
        (path / "model_index.json").write_text('{"_class_name": "LDMPipeline", "unet": ["diffusers", "../../../etc/passwd"]}')

    case("device", "", "no model here|no such file", device)
    case("pipe", "", "no model here|no such file", pipe)
    case("path_trick", "", "no such file", outside)
    return files


READER = """
    import json, sys, time
    from ldm import checkpoints
    for line in sys.stdin:
        name, path = json.loads(line)
        before, start = most(), time.time()
        try:
            checkpoints.load(path)
            said = None
        except ValueError as error:
            said = str(error)
        grown = most() - before
        print(json.dumps([name, said, time.time() - start, grown]), flush=True)
"""


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """name -> (path, what it must say, what it said, seconds, kB grown), and the trap no file may spring."""
    place = tmp_path_factory.mktemp("hostile")
    trap = place / "sprung"
    files = corpus(place, trap)
    sound = folder(place / "sound", good_state())  # read first, so that imports do not count
    lines = "".join(
        json.dumps([name, str(path)]) + "\n" for name, path in [("sound", sound), *((n, p) for n, (p, _) in files.items())]
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MOST + textwrap.dedent(READER)],
        input=lines,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = {row[0]: row[1:] for row in map(json.loads, done.stdout.splitlines())}
    return {n: (p, says, *answers[n]) for n, (p, says) in files.items()}, trap, answers["sound"]


def test_corpus_is_large_and_the_sound_file_loads(read):
    files, _, sound = read
    assert len(files) >= 16 and sound[0] is None


def test_each_gives_one_line(read):
    for name, (_, says, said, *_) in read[0].items():
        assert said is not None, f"{name} was loaded"
        assert re.search(says, said), f"{name}: {said}"
        assert "\n" not in said and len(said) < 1000, f"{name}: {said}"


def test_nothing_runs(read):
    assert not read[1].exists()


def test_none_hangs_and_none_takes_memory(read):
    for name, (path, _, _, seconds, grown) in read[0].items():
        size = path.stat().st_size if path.is_file() else 0
        assert seconds < 10, f"{name} took {seconds:.1f} s"
        assert grown * 1024 < 2 * size + (32 << 20), f"{name} grew by {grown} kB"  # 32 MB: allocator's slack, late imports


def test_the_trap_would_spring(tmp_path):
    """The corpus is only worth something if trusting readers fall for it."""
    trap = tmp_path / "sprung"
    path, _ = corpus(tmp_path, trap)["reduce_pickle"]
    pickle.loads(path.read_bytes())
    assert trap.exists()
    trap.unlink()
    path, _ = corpus(tmp_path / "again", trap)["program"]
    torch.load(path, weights_only=False)
    assert trap.exists()


def test_old_lightning_callbacks_are_left_inert(tmp_path):
    module = types.ModuleType("pytorch_lightning.callbacks.gone")
    module.Gone = type("Gone", (), {"__module__": "pytorch_lightning.callbacks.gone"})
    sys.modules[module.__name__] = module
    content = {"config": {"prior": NODE}, "state_dict": {f"prior.{k}": v for k, v in good_state().items()}, "ema": {}}
    torch.save({**content, "callbacks": {module.Gone: {"best": module.Gone()}}}, tmp_path / "old.ckpt")
    del sys.modules[module.__name__]
    from ldm import checkpoints

    assert checkpoints.load(tmp_path / "old.ckpt").shape == (1, 8, 8)
