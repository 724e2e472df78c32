"""YAML with line numbers, and without YAML's traps: every scalar stays the text that was written.

YAML 1.1 reads `2:4` as 124 (a number to base 60) and `no` as false. What a word means is known by whoever reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import yaml

from secateur.ir.errors import TextError

Tree: TypeAlias = "str | list[Tree] | dict[str, Tree]"
Place: TypeAlias = tuple[str | int, ...]

_DEEPEST = 16


@dataclass(frozen=True)
class Document:
    """What a file says, and the line (from 1) where the entry at each place begins."""

    name: str
    tree: Tree
    lines: Mapping[Place, int]

    def where(self, place: Place) -> str:
        """`recipe.yaml, line 3` for the entry at `place`, or for the nearest one around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.name}, line {self.lines.get(place, 1)}"


def parse_yaml(text: str, name: str) -> Document:
    """Parses one YAML document; `name` is what errors call it.

    Raises:
        TextError: no YAML, a key that is no text or is given twice, anchors, or too deeply nested.
    """
    reader = _Reader(name)
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}, line {mark.line + 1}, column {mark.column + 1}" if mark else name
        raise TextError(f"{where}: {error.problem or 'no YAML'}", hint="mend the file's YAML") from error
    except yaml.YAMLError as error:
        raise TextError(f"{name} is no text: {error}", hint="a recipe is a YAML file") from error
    except RecursionError as error:
        raise TextError(f"{name} is nested too deeply", hint="a recipe is a YAML file of a few levels") from error
    tree = {} if node is None else reader.read(node, ())
    return Document(name, tree, reader.lines)


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Place, int] = {}
        self.seen: set[int] = set()

    def read(self, node: yaml.Node, place: Place) -> Tree:
        """The node as plain text, lists and dicts."""
        self.lines.setdefault(place, node.start_mark.line + 1)
        if id(node) in self.seen:
            raise self._error(node, "an anchor is used twice", "write the entry out")
        if len(place) > _DEEPEST:
            raise self._error(node, "nested too deeply", "a recipe has a few levels only")
        self.seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*place, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        return str(node.value)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> Tree:
        found: dict[str, Tree] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "a key is no text", "write `name: value`")
            name = str(key.value)
            if name in found:
                raise self._error(key, f"{name!r} is given twice", "keep one of them")
            self.lines[(*place, name)] = key.start_mark.line + 1
            found[name] = self.read(value, (*place, name))
        return found

    def _error(self, node: yaml.Node, message: str, hint: str) -> TextError:
        return TextError(f"{self.name}, line {node.start_mark.line + 1}: {message}", hint=hint)
