"""Torch archives that hold too much, claim too much, or no model; and what is no weight file at all."""

import io
import struct
import zipfile
from collections.abc import Iterator

import torch
from hostile import NODE, Case, good_state, zip_with


def archive(path, content):
    """A torch archive of no tensors with this pickle in it."""
    file = io.BytesIO()
    torch.save({}, file)
    with zipfile.ZipFile(file) as sound:
        entries = {entry.filename: sound.read(entry) for entry in sound.infolist()}
    zip_with(
        path,
        {name: content if name.endswith("data.pkl") else other for name, other in entries.items()},
    )


def cases() -> Iterator[Case]:
    def called(module, name, arguments, copies=1, before=b""):
        """A list of `copies` results of module.name(*arguments), as the pickle of a torch archive."""
        one = f"c{module}\n{name}\n".encode() + arguments + b"R"
        return lambda p: archive(
            p, b"\x80\x02" + before + b"}X\x01\0\0\0a](" + copies * one + b"es."
        )

    number = struct.pack("<BBq", 0x8A, 8, 1 << 30)
    yield Case(
        "gigabyte_of_bytes",
        ".ckpt",
        "has no place",
        called("__builtin__", "bytearray", number + b"\x85"),
    )
    yield Case(
        "gigabyte_storage",
        ".ckpt",
        "has no place|not a constructor",
        called("torch.storage", "UntypedStorage", number + b"\x85"),
    )
    pairs = b"](" + b"".join(b"K" + bytes([i]) + b"N\x86" for i in range(200)) + b"eq\x000"
    ordered = called("collections", "OrderedDict", b"h\x00\x85", 20_000, pairs)
    yield Case(
        "copies_of_a_dictionary", ".ckpt", "layout", ordered
    )  # the pairs are moved into the first of them, not copied
    shape = b"(" + b"K\x01" * 200 + b"tq\x000"
    yield Case(
        "copies_of_a_shape",
        ".ckpt",
        "200 dimensions",
        called("torch", "Size", b"h\x00\x85", 20_000, shape),
    )
    word = b"X" + struct.pack("<I", 1 << 16) + b"x" * (1 << 16) + b"q\x000"
    encoded = called(
        "_codecs", "encode", b"h\x00X\x06\0\0\0utf-32\x86", 2000, word
    )  # left inert, it takes nothing
    yield Case("copies_of_a_string", ".ckpt", "not known", encoded)

    def enlarged(path):
        """A tensor of a gigabyte in a storage of four bytes that, read from a file of before 1.6, could grow."""
        file = io.BytesIO()
        torch.save(
            {"state_dict": {"a": torch.ones(300)[:1]}}, file, _use_new_zipfile_serialization=False
        )
        raw, view = file.getvalue(), b"K\x01\x85q"
        assert view in raw
        path.write_bytes(raw.replace(view, b"\x8a\x04" + struct.pack("<I", 1 << 28) + view[2:]))

    yield Case("enlarged_storage", ".pt", "a tensor of .* in a storage of 1200 bytes", enlarged)

    whole = io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(50_000)}}, whole)
    yield Case(
        "truncated_zip",
        ".ckpt",
        "cannot be read safely",
        lambda p: p.write_bytes(whole.getvalue()[:-5000]),
    )
    yield Case(
        "bomb",
        ".ckpt",
        "compressed archive",
        lambda p: zip_with(
            p,
            {"archive/data.pkl": b"\x80\x02}.", "archive/data/0": bytes(1 << 28)},
            zipfile.ZIP_DEFLATED,
        ),
    )

    def overlapping(path):
        zip_with(path, {"archive/data.pkl": b"\x80\x02}.", "archive/data/0": bytes(1 << 16)})
        raw = path.read_bytes()
        at, end = raw.index(b"PK\x01\x02", raw.index(b"PK\x01\x02") + 4), raw.index(b"PK\x05\x06")
        entry, count = raw[at:end], 500
        directory = raw[raw.index(b"PK\x01\x02") : at] + entry * count
        tail = struct.pack(
            "<4s4H2LH",
            b"PK\x05\x06",
            0,
            0,
            count + 1,
            count + 1,
            len(directory),
            raw.index(b"PK\x01\x02"),
            0,
        )
        path.write_bytes(raw[: raw.index(b"PK\x01\x02")] + directory + tail)

    yield Case("bomb_of_overlaps", ".ckpt", "claim more bytes than the file has", overlapping)
    yield Case(
        "web_page",
        ".ckpt",
        "not a weight file",
        lambda p: p.write_bytes(b"<!DOCTYPE html><html>Sign in to download</html>"),
    )
    yield Case(
        "git_lfs_pointer",
        ".safetensors",
        "not a weight file",
        lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
    )
    yield Case("empty", ".ckpt", "is empty", lambda p: p.write_bytes(b""))

    def claims(tensor):
        state = good_state()
        state[next(iter(state))] = tensor
        return {
            "config": {"prior": NODE},
            "state_dict": {f"prior.{k}": v for k, v in state.items()},
            "ema": {},
        }

    shape = good_state()[next(iter(good_state()))].shape
    yield Case(
        "terabyte_view",
        ".ckpt",
        "claims .* entries of a storage",
        lambda p: torch.save(claims(torch.zeros(1).expand(1 << 20, 1 << 20)), p),
    )
    yield Case(
        "sparse_terabyte",
        ".ckpt",
        "not a plain tensor|cannot be read",
        lambda p: torch.save(claims(torch.sparse_coo_tensor([[0]], [1.0], (1 << 40,))), p),
    )
    yield Case(
        "nan",
        ".ckpt",
        "not finite",
        lambda p: torch.save(claims(torch.full(shape, float("nan"))), p),
    )
    yield Case(
        "infinite",
        ".ckpt",
        "not finite",
        lambda p: torch.save(claims(torch.full(shape, float("inf"))), p),
    )
    yield Case(
        "mis_shaped", ".ckpt", "of another shape", lambda p: torch.save(claims(torch.zeros(3)), p)
    )
    yield Case(
        "no_tensor",
        ".ckpt",
        "not a plain tensor|has no attribute",
        lambda p: torch.save(claims("weights"), p),
    )
    yield Case(
        "config_is_a_list",
        ".ckpt",
        "must describe",
        lambda p: torch.save({"config": [1], "state_dict": {}, "ema": {}}, p),
    )
    laughs: list = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    yield Case(
        "billion_laughs",
        ".ckpt",
        "more than 10000 values",
        lambda p: torch.save(
            {
                "config": {"prior": {"target": "ldm.denoiser.Prior", "params": {"x": laughs}}},
                "state_dict": {},
                "ema": {},
            },
            p,
        ),
    )
