"""YAML of unknown origin, bounded before it is parsed: depth, length and what its aliases stand for. A leaf beside `files`."""

import re
from typing import Any

import yaml

from data.files import Refusal, first_line

YAML_DEPTH = 40  # levels of nesting; the deepest file of ours has 9


NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")
YAML_SIZE = 50_000  # tokens, and entries once aliases are written out; a second's work


def read_yaml(text: str, where: object) -> Any:
    """The plain values of a YAML text of unknown origin. Raises Refusal; aliases are refused, no honest file of data has any."""
    bound_yaml(text, where, aliases=False)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date with 13 months
        raise Refusal(f"{where}: {_problem(error)}") from None


def numbered(value: Any) -> Any:
    """Values of a YAML with 1e4 and the like as numbers: YAML 1.1 takes them for text where the point or the sign is missing."""
    if isinstance(value, dict):
        return {key: numbered(one) for key, one in value.items()}
    if isinstance(value, list):
        return [numbered(one) for one in value]
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


def _problem(error: Exception) -> str:
    """What is wrong with a YAML, and in which line."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}: {problem}" if problem and mark else first_line(error)


def bound_yaml(text: str, where: object, aliases: bool = True) -> None:
    """Raise Refusal for YAML whose parsing could take long or much: too deep, too long, cyclic, or with aliases that multiply."""
    depth = 0
    starts = (
        yaml.FlowSequenceStartToken,
        yaml.FlowMappingStartToken,
        yaml.BlockSequenceStartToken,
        yaml.BlockMappingStartToken,
    )
    ends = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
    try:
        for count, token in enumerate(
            yaml.scan(text)
        ):  # lazy: nothing after the bound is looked at
            depth += isinstance(token, starts) - isinstance(token, ends)
            if depth > YAML_DEPTH:
                raise Refusal(f"{where}: nested deeper than {YAML_DEPTH} levels")
            if count >= YAML_SIZE:
                raise Refusal(f"{where}: longer than {YAML_SIZE} tokens of YAML")
            if isinstance(token, yaml.AliasToken) and not aliases:
                raise Refusal(f"{where}: YAML aliases are not allowed here")
        if _entries(yaml.compose(text, yaml.SafeLoader), {}, where) > YAML_SIZE:
            raise Refusal(f"{where}: its aliases stand for more than {YAML_SIZE} entries")
    except yaml.YAMLError as error:
        raise Refusal(f"{where}: {_problem(error)}") from None


def _entries(node: yaml.Node | None, sizes: dict[int, int], where: object) -> int:
    """How many values a node stands for, its aliases written out. sizes: of nodes seen before; 0 while they are being counted."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = 0
        pairs = isinstance(node, yaml.MappingNode)
        below = [part for pair in node.value for part in pair] if pairs else node.value
        sizes[id(node)] = 1 + sum(_entries(part, sizes, where) for part in below)
    elif not sizes[id(node)]:
        raise Refusal(f"{where}: a part of it contains itself")
    return sizes[id(node)]
