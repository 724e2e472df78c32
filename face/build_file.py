"""Build files: what `secateur build` makes, of what, and how good it must be.

version = 1
[model]
path = "model.onnx"
output = "build/model.onnx"          # the compressed model
[recipe]
passes = "prune{ratio=0.5},quantize" # or file = "recipe.yaml"
[data]
path = "calib.npz"
held_out = "test.npz"                # what checks are measured on; without it, `path`
[[engine]]
output = "build/model.engine"
compute_capability = ["8.9", "12.0"]
shapes = { x = "1x3x32x32,8x3x32x32,64x3x32x32" }
[budget]                             # shares of the dense model, or amounts
macs = 0.6
[checks]
max_error = 0.05
require_precision = "as-quantized"
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from secateur.amounts import amount_of, bytes_of
from secateur.backends.tensorrt import Precision
from secateur.building import Target
from secateur.ir.errors import SecateurError, TextError
from secateur.passes.registry import suggest

_MOST_BYTES = 1 << 20


def _amount(value: float | str) -> float:
    try:
        found = amount_of(value)
    except TextError as error:
        raise ValueError(error.message) from None
    if found <= 0:
        raise ValueError("it must be more than 0")
    return found


def _bytes(value: int | str) -> int:
    try:
        return bytes_of(value)
    except TextError as error:
        raise ValueError(error.message) from None


Amount = Annotated[float | str, AfterValidator(_amount)]
Bytes = Annotated[int | str, AfterValidator(_bytes)]
Sizes = str | list[int] | list[list[int]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelTable(_Strict):
    """The dense model, and where the compressed one goes: `build/` and the same name, if nothing is said."""

    path: str
    output: str | None = None


class RecipeTable(_Strict):
    """What to do to it: `passes` as text, or a recipe `file`."""

    passes: str | None = None
    file: str | None = None
    seed: NonNegativeInt | None = None
    clean: bool | None = None
    runner: str = "onnxruntime"
    timer: str = "onnxruntime"


class DataTable(_Strict):
    """Calibration data, and data to judge by."""

    path: str
    held_out: str | None = None
    batch_size: PositiveInt | None = None
    limit: PositiveInt | None = None


class EngineTable(_Strict):
    """One engine: the arguments of `secateur.build`. `shapes` makes one profile, `profiles` several."""

    output: str
    target: Target = "tensorrt-rtx"
    compute_capability: str | list[str] = []
    shapes: dict[str, Sizes] = {}
    profiles: list[dict[str, Sizes]] = []
    sparse_weights: bool = False
    workspace: Bytes | None = None
    optimization_level: Annotated[int, Field(ge=0, le=5)] | None = None
    refit: bool = False
    strip: bool = False
    version_compatible: bool = False
    plugins: list[str] = []
    timing_cache: str | None = None


class BudgetTable(_Strict):
    """What the compressed model may come to: up to 1 a share of the dense one, above it an amount."""

    macs: Amount | None = None
    parameters: Amount | None = None
    bytes: Amount | None = None


class ChecksTable(_Strict):
    """What must hold, or nothing is written.

    - `max_error`: the relative error of each output, sqrt(sum (a - b)² / sum a²), against the dense model.
    - `min_cosine`: the cosine between each output and the dense model's.
    - `max_bytes`: of each engine.
    - `max_latency_ms`: of the compressed model, on one thread of onnxruntime here, or (`latency_on`) of each engine.
    - `require_precision`, `require_sparse`: of each engine.
    """

    max_error: NonNegativeFloat | None = None
    min_cosine: Annotated[float, Field(ge=-1, le=1)] | None = None
    max_bytes: Bytes | None = None
    max_latency_ms: PositiveFloat | None = None
    latency_on: Literal["onnxruntime", "engine"] = "onnxruntime"
    require_precision: Precision | None = None
    require_sparse: bool = False


class BuildFile(_Strict):
    """A whole build file; paths are relative to its folder."""

    version: Literal[1]
    model: ModelTable
    recipe: RecipeTable | None = None
    data: DataTable | None = None
    engine: list[EngineTable] = []
    budget: BudgetTable = BudgetTable()
    checks: ChecksTable = ChecksTable()


def load_build_file(path: str | os.PathLike[str]) -> BuildFile:
    """Reads a build file.

    Raises:
        TextError: it is not there, no TOML, or says something that cannot be; names the field.
    """
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise TextError(f"{path} is larger than 1 MiB: no build file", hint="give a TOML file")
        tree = tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise TextError(
            f"cannot read the build file {path}: {error.strerror}",
            hint="name a model and -o, or write a secateur.toml (see `secateur.build_file`)",
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TextError(f"{path} is no TOML: {error}", hint="see https://toml.io") from error
    try:
        found = BuildFile.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, str(path)) from error
    _check(found, str(path))
    return found


def _check(found: BuildFile, where: str) -> None:
    """What no single field can tell.

    Raises:
        TextError: says what does not go together.
    """
    recipe, checks = found.recipe, found.checks
    if recipe is None and not found.engine:
        raise TextError(f"{where}: there is nothing to build", hint="add [recipe], or [[engine]], or both")
    if recipe is not None and (recipe.passes is None) == (recipe.file is None):
        raise TextError(f"{where}: recipe: expected one of `passes` and `file`", hint='passes = "prune{ratio=0.5}"')
    measured = (checks.max_error, checks.min_cosine, checks.max_latency_ms)
    if found.data is None and any(limit is not None for limit in measured):
        raise TextError(f"{where}: checks are measured on data, and there is none", hint='add [data] with path = "…"')
    if checks.max_latency_ms is not None and checks.latency_on == "engine" and not found.engine:
        raise TextError(f"{where}: checks.latency_on: there is no engine", hint="add [[engine]]")
    for number, engine in enumerate(found.engine):
        if engine.shapes and engine.profiles:
            raise TextError(f"{where}: engine.{number}: `shapes` and `profiles` exclude each other", hint="keep one")
    names = [engine.output for engine in found.engine] + ([] if recipe is None else [output_of(found)])
    places = [os.path.normpath(name) for name in names]
    for name in places:
        if places.count(name) > 1 or name == os.path.normpath(found.model.path):
            raise TextError(f"{where}: {name} would be written twice, or over the model", hint="give another output")


def output_of(file: BuildFile) -> str:
    """Where the compressed model goes."""
    return file.model.output or os.path.join("build", os.path.basename(file.model.path))


def recipe_text(table: RecipeTable, folder: Path) -> str | Path:
    """The recipe as `compress` takes it."""
    return table.passes if table.passes is not None else folder / str(table.file)


def _explain(error: ValidationError, where: str) -> SecateurError:
    """The first thing that does not fit, in our words."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        known = _table(first["loc"]).model_fields
        return TextError(f"{where}: there is no field {field!r}", hint=suggest(str(first["loc"][-1]), known))
    if first["type"] == "missing":
        return TextError(f"{where}: the field {field!r} is missing", hint="see `secateur.build_file` for an example")
    expected = str(first["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    return TextError(f"{where}: {field}: expected {expected}, found {first['input']!r}", hint="correct the field")


def _table(location: tuple[Any, ...]) -> type[BaseModel]:
    """The model of the table that a field would lie in."""
    tables: dict[Any, type[BaseModel]] = {
        "model": ModelTable,
        "recipe": RecipeTable,
        "data": DataTable,
        "engine": EngineTable,
        "budget": BudgetTable,
        "checks": ChecksTable,
    }
    return tables.get(location[0], BuildFile) if len(location) > 1 else BuildFile
