"""docs/coming-from.md: every flag, task name and configuration file of the published systems, held to what the doors do."""

import re
from pathlib import Path

import pytest
import yaml

import main
import sample
from ldm import catalogue
from solvers.run import command, flags

ROOT = Path(__file__).parents[1]


def flags_of(door: str) -> list[tuple[str, str, str]]:
    """Every published flag in the table of this door, what is said there instead, and whether it works or is refused."""
    section = (
        (ROOT / "docs/coming-from.md").read_text().split(f"## Flags of {door}")[1].split("\n## ")[0]
    )
    table = re.findall(r"^\| [^|]+ \| ([^|]+) \| ([^|]+) \| (works|refused) \|$", section, re.M)
    return [
        (published, here, fate)
        for several, here, fate in table
        for published in re.findall("`([^`]+)`", several)
    ]


@pytest.mark.parametrize("published, here, fate", flags_of("sample.py"))
def test_every_old_flag_works_or_is_refused_with_its_equivalent(
    published: str, here: str, fate: str
):
    words = published.split()
    words = [
        word if word not in ("N", "K", "I", "E", "A-B") else "3-4" if word == "A-B" else "3"
        for word in words
    ]
    equivalent = re.findall("`([^`]+)`", here)
    if fate == "works":
        options, overrides = sample.parse(words)
        value = "[3, 4]" if words[-1] == "3-4" else words[-1]
        assert value in str(vars(options)) + str(overrides)
        if equivalent[0].startswith("--"):
            assert sample.parse(
                equivalent[0].replace(" N", " 3").replace("A-B", "3-4").replace(" K", " 3").split()
            )
    else:
        with pytest.raises(ValueError, match="of the published scripts") as error:
            sample.parse(words)
        said = str(error.value).split(": ", 1)[1]
        key = re.split("[ =…]", equivalent[0])[0] if equivalent else "not needed"
        assert key in said, said


@pytest.mark.parametrize("published, here, fate", flags_of("main.py"))
def test_every_old_flag_of_training_works_or_is_refused_with_its_equivalent(
    published: str, here: str, fate: str
):
    words = [
        word.replace("F…", "a.yaml") if word not in ("N", "NAME") else "3"
        for word in published.split()
    ]
    base = [] if words[0] in ("-b", "--base") else ["--base", "a.yaml"]
    equivalent = re.search("`([^` =]+)", here)
    if fate == "works":
        options, _ = main.parse([*words, *base])
        name = (equivalent[1] if equivalent else words[0]).lstrip("-")
        assert words[-1] in str(getattr(options, name))
    else:
        with pytest.raises(ValueError, match="of the published scripts") as error:
            main.parse([*words, *base])
        said = str(error.value).split(": ", 1)[1]
        assert (equivalent[1].rstrip("…") if equivalent else "not needed") in said, said


def test_every_refused_flag_is_in_the_tables():
    for door, instead in yaml.safe_load(command.REFUSED.read_text()).items():
        listed = {
            command.dashes(re.split("[ =]", published)[0])
            for published, _, fate in flags_of(door)
            if fate == "refused"
        }
        assert set(instead) == listed


def test_every_old_task_name_in_the_table_is_known():
    listed = re.findall(
        r"^\| `([^`]+)` \| `([^`]+)` \|$", (ROOT / "docs/coming-from.md").read_text(), re.M
    )
    assert len(listed) > 8
    for old, new in listed:
        assert catalogue.settings("tasks", old).stem == new and "operator" in yaml.safe_load(
            catalogue.settings("tasks", new).read_text()
        )


def test_every_published_configuration_file_has_one_here():
    section = (
        (ROOT / "docs/coming-from.md")
        .read_text()
        .split("## Configuration files")[1]
        .split("\n## ")[0]
    )
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", section, re.M)[1:]
    here = [word for row in rows for word in re.findall("`([^`]+)`", row[2])]
    assert {row[0].split(",")[0].split(" (")[0] for row in rows} == {
        "DPS",
        "CoDPS",
        "ReSample",
        "PSLD",
        "DAPS",
        "PaDIS",
        "DPIR",
    }
    assert [
        word for word in here if not ((ROOT / word).exists() or word in flags.parser("").flags())
    ] == []
    published = {f"{path.relative_to(ROOT)}/" for path in (ROOT / "configs/published").iterdir()}
    assert all(any(word.startswith(system) for word in here) for system in published)
