"""Which passes there are: a table of strings, loaded one by one as they are asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType

from secateur.ir.errors import PassError, TextError
from secateur.passes.base import Pass

GROUP = "secateur.passes"
"""The entry point group under which other packages add passes: `name = "module:Class"`."""

PASSES: Mapping[str, str] = MappingProxyType(
    {
        "absorb-bias": "secateur.passes.scale.absorb:AbsorbBias",
        "apply-masks": "secateur.passes.masks.apply:ApplyMasks",
        "armor": "secateur.passes.armor.armor:Armor",
        "awq": "secateur.passes.scale.awq:Awq",
        "clean": "secateur.passes.cleanup.clean:Clean",
        "correct-bias": "secateur.passes.scale.correct:CorrectBias",
        "factorize": "secateur.passes.factorize.low_rank:Factorize",
        "convert-float": "secateur.passes.precision.convert_float:ConvertFloat",
        "dequantize": "secateur.passes.importing.dequantize:Dequantize",
        "drop-blocks": "secateur.passes.drop.blocks:DropBlocks",
        "drop-edges": "secateur.passes.drop.edges:DropEdges",
        "equalize": "secateur.passes.scale.equalize:Equalize",
        "fold-batchnorm": "secateur.passes.cleanup.batchnorm:FoldBatchNorm",
        "fold-constants": "secateur.passes.cleanup.constants:FoldConstants",
        "import-quantized": "secateur.passes.importing.import_quantized:ImportQuantized",
        "inline-branches": "secateur.passes.cleanup.branches:InlineBranches",
        "legalize": "secateur.passes.legalize.legalize:Legalize",
        "merge-duplicates": "secateur.passes.cleanup.duplicates:MergeDuplicates",
        "mix-precision": "secateur.passes.mix.mix:MixPrecision",
        "permute": "secateur.passes.permute.permute:Permute",
        "prune": "secateur.passes.prune.dimensions:Prune",
        "quantize": "secateur.passes.quantize.quantize:Quantize",
        "refit-blocks": "secateur.passes.refit.blocks:RefitBlocks",
        "reestimate-batchnorm": "secateur.passes.prune.batchnorm:ReestimateBatchNorm",
        "remove-dead-code": "secateur.passes.cleanup.dead_code:RemoveDeadCode",
        "remove-identities": "secateur.passes.cleanup.identities:RemoveIdentities",
        "rotate-heads": "secateur.passes.rotate.heads:RotateHeads",
        "sample-channels": "secateur.passes.sample.channels:SampleChannels",
        "smooth-quant": "secateur.passes.scale.smooth:SmoothQuant",
        "sparsify": "secateur.passes.sparsify.elements:Sparsify",
    }
)


def names() -> list[str]:
    """All passes that can be called by name, ours and those of installed packages, sorted."""
    return sorted({*PASSES, *(point.name for point in entry_points(group=GROUP))})


def find(name: str) -> type[Pass]:
    """The class of a pass. Our own table goes first, so that no other package changes what a name means.

    Raises:
        TextError: there is no such pass; names the near ones.
        PassError: the table is wrong: no module, no class, or a class that gives itself another name.
    """
    target = PASSES.get(name) or next((p.value for p in entry_points(group=GROUP) if p.name == name), None)
    if target is None:
        raise TextError(f"there is no pass {name!r}", hint=suggest(name, names()))
    module, _, attribute = target.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PassError(f"the pass {name!r} cannot be loaded from {target}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Pass)) or found.name != name:
        raise PassError(f"{target} is not the pass {name!r}")
    return found


def suggest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: the near ones, or all of them."""
    everything = sorted(known)
    near = difflib.get_close_matches(name, everything, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are: {', '.join(everything)}" if everything else "there are none"
