"""`replay`: the surgery that a manifest describes, done to another checkpoint of the same graph."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.feeding import ModelLike, graph_of
from secateur.ir import Graph, Tensor
from secateur.ir.dims.algebra import Dim, indices, leaves, owners
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Layouts, Use
from secateur.ir.dims.reorder import reorder
from secateur.ir.dims.shrink import shrink
from secateur.ir.errors import RefusedError
from secateur.ir.sparsity_scheme import KEY
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.drop.blocks import DropBlocks
from secateur.passes.manager import run_pipeline
from secateur.passes.manifest import Manifest
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.dimensions import Prune
from secateur.passes.prune.facts import dims
from secateur.passes.prune.fills import untie

ManifestLike: TypeAlias = "Manifest | str | os.PathLike[str]"
Indices: TypeAlias = NDArray[np.int64]

_HINT = "replay takes another checkpoint of the graph that the manifest was made from, unchanged otherwise"
_SHOWN = 8


def replay(manifest: ManifestLike, model: ModelLike) -> Graph:
    """Removes from a model what a manifest says was removed from another checkpoint of the same graph.

    The passes of the manifest's pipeline that lose nothing (`clean`) run where they ran. In place of the others the
    blocks that went are taken out, the kept indices of each weight's axes are traced to the dimensions that they belong
    to, those are put in their order and shrunk, and the masks are applied. No new numbers are made: nothing is refitted
    or quantized, so that of a manifest with `exact` the result is what `compress` gave, and of another one its shapes
    and masks. With several prunings it is that but for the order in which weights lie in the file; a pass between them
    that rewrites weights may make it refuse.

    Args:
        manifest: one, or the path of one.
        model: a graph, which stays as it is, or the path of an ONNX file.

    Raises:
        DataError: the file is no manifest.
        ModelError: the file is no model.
        TextError: the manifest's pipeline names a pass that there is not.
        RefusedError: the model is not of the graph that the manifest is of; names the weight, what was expected and
            what was found. Or a pass of the pipeline is not `replayable`.
    """
    wanted = manifest if isinstance(manifest, Manifest) else Manifest.load(manifest)
    passes = parse_pipeline(wanted.pipeline) if wanted.pipeline else ()
    for one in passes:
        if not one.replayable:
            raise RefusedError(
                f"the manifest's pipeline has {one}, of which a manifest does not say what it did",
                hint=f"run {one.name} on the checkpoint itself, with the names that the report of the first run gives",
            )
    recorded = [index for index, one in enumerate(passes) if one.recorded] or [len(passes)]
    graph = _run(graph_of(model), passes[: recorded[0]])
    if wanted.dropped:
        graph = run_pipeline(graph, [DropBlocks(names=tuple(wanted.dropped))], Context(runner=OnnxRuntimeRunner)).graph
    _remove(graph, wanted.kept, passes)
    graph = _run(graph, passes[recorded[0] : recorded[-1]])
    _mask(graph, wanted.masks)
    for name, scheme in wanted.schemes.items():
        if (value := graph.get(name)) is not None:
            value.metadata = {**value.metadata, KEY: scheme}
    return _run(graph, passes[recorded[-1] :])


def _run(graph: Graph, passes: Iterable[Pass]) -> Graph:
    """A copy, after those of the passes whose work the manifest does not hold."""
    kept = [one for one in passes if not one.recorded]
    return run_pipeline(graph, kept, Context(runner=OnnxRuntimeRunner)).graph


def _remove(graph: Graph, kept: Mapping[str, Mapping[int, Indices]], passes: Iterable[Pass]) -> None:
    """Reorders and shrinks the dimensions that kept indices belong to; the result must be what the manifest says."""
    for name, axes in kept.items():
        _check(graph, name, axes)
    if any(one.name == Prune.name for one in passes):
        untie(graph)
    found = dims(graph)
    chosen = _chosen(found, kept)
    done = Manifest()
    # What stays comes first, in its new order; so only the end of a reordered dimension is cut off.
    moved = {dim: _first(some, dim) for dim, some in chosen.items() if (np.diff(some) < 0).any()}
    for one in reorder(graph, found, moved):
        done.keep(one.weight, one.axis, one.kept)
    for one in shrink(graph, found, {**chosen, **{dim: np.arange(len(chosen[dim])) for dim in moved}}):
        done.keep(one.weight, one.axis, one.kept)
    graph.verify()
    _compare(kept, done.kept)


def _first(some: Indices, dim: Dim) -> Indices:
    """All indices of a dimension: these, then the others."""
    return np.concatenate([some, np.setdiff1d(np.arange(dim.size or 0), some)])


def _check(graph: Graph, name: str, axes: Mapping[int, Indices]) -> None:
    """The weight has these indices. One that the surgery itself makes, of a shared weight, is looked at afterwards."""
    value = graph.get(name)
    if value is None:
        return
    if value.const is None:
        raise RefusedError(f"{name!r}: expected a weight, found a value that is computed or fed", hint=_HINT)
    shape = value.const.shape
    for axis, some in axes.items():
        size = shape[axis] if axis < len(shape) else 0
        if len(some) and some.max() >= size:
            raise RefusedError(
                f"{name!r}, axis {axis}: expected at least {some.max() + 1} indices, found {size} "
                f"(its shape is {list(shape)})",
                hint=_HINT,
            )


def _chosen(found: Dimensions, kept: Mapping[str, Mapping[int, Indices]]) -> dict[Dim, Indices]:
    """For each dimension that the kept axes are made of, the indices of it that stay, in their new order."""
    chosen: dict[Dim, Indices] = {}
    first: dict[Dim, str] = {}
    layouts = {name: layout for name, layout in _layouts(found).items() if name in kept}
    for name, axes in kept.items():
        for axis, some in axes.items() if name in layouts else ():
            where = f"{name!r}, axis {axis}"
            for leaf in leaves(layouts[name][axis]):
                unit = owners(layouts[name][axis], leaf)[some]
                met, at = np.unique(unit[unit >= 0], return_index=True)
                units = met[np.argsort(at)]
                before = chosen.setdefault(leaf, units)
                if not np.array_equal(before, units):
                    raise RefusedError(
                        f"{where}: expected what {first[leaf]} keeps, which goes with it: {_few(before)}; "
                        f"found {_few(units)}",
                        hint=_HINT,
                    )
                first.setdefault(leaf, where)
                if leaf.pin and len(units) != leaf.size:
                    raise RefusedError(
                        f"{where}: expected an axis that can shrink to {len(some)}, found one that is pinned: "
                        f"{leaf.pin}",
                        hint=_HINT,
                    )
    _check_units(layouts, kept, chosen)
    return chosen


def _check_units(
    layouts: Mapping[str, Layouts], kept: Mapping[str, Mapping[int, Indices]], chosen: Mapping[Dim, Indices]
) -> None:
    """Whole units stay, in their order."""
    for name, here in layouts.items():
        for axis, some in kept[name].items():
            whole = indices(here[axis], chosen)
            if not np.array_equal(whole, some):
                raise RefusedError(
                    f"{name!r}, axis {axis}: expected whole units of it, {_few(whole)}, "
                    f"found {_few(some)}, which splits them or changes their order",
                    hint=_HINT,
                )


def _layouts(found: Dimensions) -> dict[str, Layouts]:
    """The layouts of each weight of which all uses say the same; what the others keep follows from the rest."""
    layouts: dict[str, Layouts] = {}
    split: set[str] = set()
    for place, here in found.layouts.items():
        if isinstance(place, Use) and (value := place.op.inputs[place.port]) is not None:
            before = layouts.setdefault(value.name, here)
            if [list(leaves(layout)) for layout in before] != [list(leaves(layout)) for layout in here]:
                split.add(value.name)
    return {name: here for name, here in layouts.items() if name not in split}


def _compare(expected: Mapping[str, Mapping[int, Indices]], found: Mapping[str, Mapping[int, Indices]]) -> None:
    """The surgery did what the manifest says: to every weight, and to no other."""
    for name, axes in expected.items():
        for axis, some in axes.items():
            here = found.get(name, {}).get(axis)
            if here is None or not np.array_equal(here, some):
                actual = _few(here) if here is not None else "no such weight, or one that several ops read differently"
                raise RefusedError(f"{name!r}, axis {axis}: expected {_few(some)}, found {actual}", hint=_HINT)
    for name, axes in found.items():
        for axis, some in axes.items():
            if axis not in expected.get(name, {}):
                raise RefusedError(
                    f"{name!r}, axis {axis}: expected all indices to stay, found that only {_few(some)} would",
                    hint=_HINT,
                )


def _mask(graph: Graph, masks: Mapping[str, NDArray[np.bool_]]) -> None:
    for name, mask in masks.items():
        value = graph.get(name)
        tensor = None if value is None else value.const
        if value is None or tensor is None or tensor.shape != mask.shape:
            actual = "no such weight" if tensor is None else f"one of shape {list(tensor.shape)}"
            raise RefusedError(f"{name!r}: expected a weight of shape {list(mask.shape)}, found {actual}", hint=_HINT)
        weight = tensor.numpy()
        value.set_const(Tensor(np.where(mask, weight, np.zeros((), weight.dtype)), tensor.dtype))


def _few(some: Indices) -> str:
    """Indices for a message."""
    shown = ", ".join(map(str, some[:_SHOWN].tolist()))
    return f"[{shown}{', ...' if len(some) > _SHOWN else ''}] ({len(some)} indices)"
