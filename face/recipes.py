"""Recipes: what to do to a model, as a file that can be kept, compared and run again.

version: 1
seed: 0
data: {batch_size: 8, limit: 256}
passes:
  - prune: {ratio: 0.5}
  - sparsify: {pattern: 2:4}
  - quantize: {format: int8}
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from secateur.ir.errors import TextError
from secateur.passes.base import Pass
from secateur.passes.pipeline import parse_pipeline, print_pipeline
from secateur.passes.registry import suggest
from secateur.passes.text import print_value
from secateur.yaml_lines import Document, Tree, parse_yaml

RecipeLike: TypeAlias = "Recipe | str | os.PathLike[str] | Sequence[Pass]"

_SUFFIXES = (".yaml", ".yml", ".json")
_MOST_BYTES = 1 << 20


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataOptions(_Strict):
    """How calibration data is walked: samples in a batch, and how many samples at most."""

    batch_size: PositiveInt | None = None
    limit: PositiveInt | None = None


class _File(_Strict):
    """A recipe as its file spells it."""

    version: Literal["1"]
    seed: NonNegativeInt = 0
    clean: bool = True
    data: DataOptions = DataOptions()
    passes: list[Any] = Field(min_length=1)


class Recipe(_Strict):
    """A pipeline in its text form, and how to run it.

    `clean` runs the clean-up passes first; `name` is the file that it came from.
    """

    pipeline: str
    seed: NonNegativeInt = 0
    clean: bool = True
    data: DataOptions = DataOptions()
    name: str = ""

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The pipeline, parsed."""
        return parse_pipeline(self.pipeline)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Reads a recipe file.

        Raises:
            TextError: it cannot be read or is no recipe; says the line, the field, what was expected and found.
        """
        return _from_document(parse_yaml(_read(Path(path)), str(path)))


def recipe_of(recipe: RecipeLike) -> Recipe:
    """A recipe from what the user gave: itself, a recipe file (a path, or text that ends in .yaml), text, or passes.

    Raises:
        TextError: no such pass or option, no such file, or nothing to do.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, os.PathLike):
        return Recipe.load(recipe)
    if not isinstance(recipe, str):
        return Recipe(pipeline=_print(recipe))
    if recipe.strip().lower().endswith(_SUFFIXES) and "{" not in recipe:
        return Recipe.load(recipe.strip())
    found = print_pipeline(parse_pipeline(recipe))
    if not found:
        raise TextError("the recipe is empty", hint="name at least one pass, as in prune{ratio=0.5}")
    return Recipe(pipeline=found)


def _print(passes: Sequence[Pass]) -> str:
    for one in passes:
        if not isinstance(one, Pass):
            raise TypeError(f"a recipe is text, a path or a list of passes, but the list has a {type(one).__name__}")
    if not passes:
        raise TextError("the recipe is empty", hint="give at least one pass")
    return print_pipeline(passes)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise TextError(f"{path} is larger than 1 MiB: no recipe", hint="give a YAML file")
        return data.decode("utf-8")
    except OSError as error:
        raise TextError(f"cannot read the recipe {path}: {error.strerror}", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is no text: {error}", hint="a recipe is a YAML file in UTF-8") from error


def _from_document(document: Document) -> Recipe:
    if not isinstance(document.tree, dict):
        raise TextError(
            f"{document.where(())}: expected fields, found {_kind(document.tree)}", hint="start with `version: 1`"
        )
    try:
        file = _File.model_validate(document.tree)
    except ValidationError as error:
        raise _explain(error, document) from error
    pipeline = ",".join(_call(call, index, document) for index, call in enumerate(file.passes))
    return Recipe(pipeline=pipeline, seed=file.seed, clean=file.clean, data=file.data, name=document.name)


def _call(call: Tree, index: int, document: Document) -> str:
    """One entry of `passes` as canonical text, checked on its own so that errors know its line."""
    where = document.where(("passes", index))
    if isinstance(call, str):
        text = call
    elif isinstance(call, dict) and len(call) == 1:
        [(name, options)] = call.items()
        text = f"{name}{{{_options(options, f'{where}: {name}')}}}"
    else:
        raise TextError(
            f"{where}: expected the name of a pass, or `name: {{option: value}}`, found {_kind(call)}",
            hint="begin each pass with a dash of its own",
        )
    try:
        return print_pipeline(parse_pipeline(text))
    except TextError as error:
        reason = error.message.partition("\n")[0].partition(": ")[2] or error.message
        raise TextError(f"{where}: {reason}", hint=error.hint) from error


def _options(options: Tree, where: str) -> str:
    if options == "":
        return ""
    if not isinstance(options, dict):
        raise TextError(f"{where}: expected options, found {_kind(options)}", hint="write `{option: value}`")
    return ",".join(f"{key}={_value(value, f'{where}: {key}')}" for key, value in options.items())


def _value(value: Tree, where: str) -> str:
    if isinstance(value, dict):
        raise TextError(f"{where}: expected a value or a list of values, found fields", hint="write `option: value`")
    if isinstance(value, list):
        return "[" + ",".join(_value(item, where) for item in value) + "]"
    return "none" if value in ("none", "null", "~", "") else print_value(value)


def _explain(error: ValidationError, document: Document) -> TextError:
    """The first thing that does not fit, in our words."""
    first = error.errors(include_url=False)[0]
    place = first["loc"]
    field, where = ".".join(map(str, place)), document.where(place)
    if first["type"] == "extra_forbidden":
        known = (DataOptions if place[0] == "data" else _File).model_fields
        return TextError(f"{where}: there is no field {place[-1]!r}", hint=suggest(str(place[-1]), known))
    if first["type"] == "missing":
        return TextError(f"{where}: the field {field!r} is missing", hint=_EXAMPLES.get(field))
    if first["type"] == "too_short":
        return TextError(f"{where}: {field}: expected at least one pass, found none", hint=_EXAMPLES.get(field))
    expected = str(first["msg"]).removeprefix("Input should be ")
    hint = _EXAMPLES.get(str(place[0]))
    return TextError(f"{where}: {field}: expected {expected}, found {_kind(first['input'])}", hint=hint)


_EXAMPLES = {
    "version": "write `version: 1`",
    "seed": "write `seed: 0`",
    "clean": "write `clean: true` or `clean: false`",
    "data": "write `data: {batch_size: 8, limit: 256}`",
    "passes": "write `passes:` and below it entries like `- prune: {ratio: 0.5}`",
}


def _kind(found: Tree) -> str:
    if isinstance(found, dict):
        return f"fields ({', '.join(found)})" if found else "nothing"
    if isinstance(found, list):
        return "a list"
    return repr(found) if found else "nothing"
