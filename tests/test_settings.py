"""Settings as a form has them: what is shown of them, and which override an answer means."""

import inspect
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import palimpsest as P
from ldm import catalogue, config


def setting(task: str, name: str):
    return next(one for one in P.settings("tasks", task) if one.name == name)


def test_lists_of_numbers_are_no_numbers():
    missing, std = setting("missing_slices", "missing"), setting("volume_deblur", "std")
    assert (missing.kind, missing.text) == ("wholes", "")
    assert (std.kind, std.text) == ("numbers", "2.0, 1.0, 1.0")
    assert setting("ct", "hu").kind == "numbers"


def test_what_is_not_set_is_shown_empty():
    for task, name in (("mri", "sigma_y"), ("through_plane_x4", "thickness")):
        one = setting(task, name)
        assert (one.value, one.text, one.optional) == (None, "", True)
        assert one.override("") == ""


@pytest.mark.parametrize(
    "task, name, answer, wanted",
    [
        ("super_resolution", "factor", "8", "factor=8"),
        ("super_resolution", "factor", "4", ""),
        ("super_resolution", "factor", " ", ""),  # the file's own
        ("super_resolution", "sigma_y", "", "sigma_y=null"),  # estimated
        ("super_resolution", "sigma_y", "1e-5", "sigma_y=1e-05"),
        ("super_resolution", "filter", "average", "filter=average"),
        ("mri_x4", "complex_image", True, "complex_image=True"),
        ("mri_x4", "complex_image", False, ""),
        ("missing_slices", "missing", "3, 5", "missing=[3,5]"),
        ("missing_slices", "missing", "[3 5]", "missing=[3,5]"),
        ("missing_slices", "missing", "", ""),
        ("volume_deblur", "std", "1;2 3.5", "std=[1.0,2.0,3.5]"),
        ("volume_deblur", "std", "2, 1, 1", ""),
    ],
)
def test_an_answer_is_an_override(task: str, name: str, answer, wanted: str):
    one = setting(task, name)
    assert one.override(answer) == (wanted and f"{one.key.rpartition('.')[0]}.{wanted}")
    if wanted:  # and is read as what was meant
        more = ["operator.params.every=0"] if name == "missing" else []  # one of both is allowed
        changed = config.load([catalogue.settings("tasks", task)], [one.override(answer), *more])
        part, _, _ = one.key.partition(".")
        config.build(changed[part])
        told = changed[part]["params"][name]
        assert told is None if "null" in wanted else one.override(told) == one.override(answer)


@pytest.mark.parametrize(
    "task, name, answer, allowed",
    [
        ("super_resolution", "factor", "four", "a whole number is allowed"),
        ("super_resolution", "factor", "4.5", "a whole number is allowed"),
        ("super_resolution", "factor", "2, 4", "a whole number is allowed"),
        ("super_resolution", "sigma_y", "nan", "a number is allowed"),
        ("missing_slices", "missing", "3, x", "whole numbers with commas between are allowed"),
        ("volume_deblur", "std", "[1, [2]]", "numbers with commas between are allowed"),
    ],
)
def test_a_wrong_answer_is_refused_in_one_line(task: str, name: str, answer: str, allowed: str):
    with pytest.raises(P.Refusal) as refused:
        setting(task, name).override(answer)
    assert str(refused.value) == f"{name} {answer!r}: {allowed}"


def test_one_reads_the_source_for_many(monkeypatch):
    """CPython 3.11's parser, which finds where a class begins in its file, is not safe between threads."""
    inside, most, read = 0, 0, inspect.getsource

    def getsource(cls: type) -> str:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.02)
        inside -= 1
        return read(cls)

    monkeypatch.setattr(inspect, "getsource", getsource)
    with ThreadPoolExecutor(4) as many:
        found = list(many.map(lambda task: P.settings("tasks", task), ["hdr", "destriping"] * 4))
    assert most == 1 and len({repr(one) for one in found}) == 2
