"""Pickles, and archives that torch.load would run, that call, claim or never end."""

import io
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Iterator

import torch
from hostile import Case, Runs, touch, zip_with

from ldm.checkpoints.unpickling import LEGACY


def pickled_as(module, name, arguments):
    """{"ema": module.name(*arguments)}, whether or not such a module exists here."""
    called = (
        b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)) + b"\x93"
    )
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
    return b"\x80\x02" + pickle.dumps(content, 0).replace(
        ours, b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
    )


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
    with tarfile.open(
        path, "w:", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        tar.addfile(tarfile.TarInfo(LEGACY.decode("utf-8", "surrogateescape")))
        pipe = tarfile.TarInfo("storages")
        pipe.type = tarfile.FIFOTYPE
        tar.addfile(pipe)


def cases(trap) -> Iterator[Case]:
    """trap: the file that whoever runs what is in them would write."""
    evil = {"state_dict": {"a": torch.ones(2)}, "extra": touch(trap)}
    yield Case(
        "reduce_zip", ".ckpt", "has no place in a weight file", lambda p: torch.save(evil, p)
    )
    yield Case(
        "reduce_legacy",
        ".pt",
        "has no place in a weight file",
        lambda p: torch.save(evil, p, _use_new_zipfile_serialization=False),
    )
    yield Case(
        "reduce_pickle",
        ".pkl",
        "has no place in a weight file",
        lambda p: p.write_bytes(pickle.dumps(evil)),
    )
    for name, function in {
        "eval": eval,
        "exec": exec,
        "getattr": getattr,
        "hub": torch.hub.load,
    }.items():
        yield Case(
            f"call_{name}",
            ".pkl",
            "has no place",
            lambda p, f=function: p.write_bytes(
                pickle.dumps({"ema": Runs(f, f"open('{trap}', 'w')")})
            ),
        )

    record = {
        "type": "class",
        "version": 6,
        "module_src": f"open({str(trap)!r}, 'w')",
        "class_name": "EDMPrecond",
        "state": {},
    }
    persistent = ("torch_utils.persistence", "_reconstruct_persistent_obj")
    yield Case(
        "module_src",
        ".pkl",
        "holds a EDMPrecond that is not one of",
        lambda p: p.write_bytes(pickled_as(*persistent, (record,))),
    )

    def network(modules):
        inside = {
            **record,
            "class_name": "SongUNet",
            "state": {
                "_init_kwargs": {"img_resolution": 8, "in_channels": 1, "out_channels": 1},
                "_modules": modules,
            },
        }
        outer = {**record, "state": {"_modules": {"model": Persisted(inside)}}}
        return {"ema": Persisted(outer)}

    def fan(path):
        child = Persisted({**record, "state": {"_modules": {}}})
        for _ in range(12):
            child = Persisted({**record, "state": {"_modules": {str(i): child for i in range(12)}}})
        path.write_bytes(persisted(network({"enc": child})))

    yield Case("modules_without_end", ".pkl", "occurs twice", fan)
    yield Case(
        "modules_are_a_list",
        ".pkl",
        "not of the kind its layout has",
        lambda p: p.write_bytes(persisted(network([1, 2]))),
    )
    yield Case(
        "state_dict_is_a_tensor",
        ".ckpt",
        "not of the kind|not known",
        lambda p: torch.save({"state_dict": torch.ones(3)}, p),
    )

    inner = io.BytesIO()
    torch.save(touch(trap), inner, _use_new_zipfile_serialization=False)
    nested = {"ema": Runs(torch.storage._load_from_bytes, inner.getvalue()), "x": 1}
    yield Case(
        "load_from_bytes",
        ".pkl",
        "cannot be read safely",
        lambda p: p.write_bytes(pickle.dumps(nested)),
    )
    plain = {"ema": Runs(torch.storage._load_from_bytes, pickle.dumps(touch(trap)))}
    yield Case(
        "load_from_bytes_pickle",
        ".pkl",
        "cannot be read safely",
        lambda p: p.write_bytes(pickle.dumps(plain)),
    )

    runs = program(trap)
    yield Case("program", ".pt", "holds a TorchScript program", lambda p: p.write_bytes(runs))
    inside = {"ema": Runs(torch.storage._load_from_bytes, runs)}
    yield Case(
        "program_in_a_pickle",
        ".pkl",
        "no torch file of the format before 1.6",
        lambda p: p.write_bytes(pickle.dumps(inside)),
    )
    yield Case("tar_of_a_pipe", ".pt", "is a tar archive", tar_of_a_pipe)

    build = b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\n}\x8c\x0c__defaults__Nsb."
    yield Case(
        "state_of_a_function", ".pkl", "cannot be read safely", lambda p: p.write_bytes(build)
    )
    yield Case(
        "memo",
        ".pkl",
        "cannot be read safely|not a dictionary",
        lambda p: p.write_bytes(b"\x80\x02}r\xff\xff\xff\x7f0."),
    )
    yield Case(
        "long_string",
        ".pkl",
        "cannot be read safely",
        lambda p: p.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 44) + b"x."),
    )

    yield Case(
        "many_operations",
        ".pkl",
        "more than 400000 operations",
        lambda p: p.write_bytes(b"\x80\x02(" + b"}" * 500_000 + b"l."),
    )
    names = b"".join(b"cnumpy\nn%d\n" % i for i in range(1100))
    yield Case(
        "many_names",
        ".pkl",
        "more than 1000 classes",
        lambda p: p.write_bytes(b"\x80\x02(" + names + b"l."),
    )
