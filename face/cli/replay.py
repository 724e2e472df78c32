"""`secateur replay`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.command import Answer
from secateur.cli.screen import Screen
from secateur.text import Plain


@dataclass(frozen=True)
class ReplayOptions:
    """Options of `replay`."""

    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="What `compress --manifest` wrote.")]
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Another checkpoint of the same graph, an ONNX file.")]
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the smaller ONNX file goes.")]


def replay(options: ReplayOptions, screen: Screen) -> Answer:
    """Remove from another checkpoint of the same graph what a manifest says, index for index."""
    from secateur.ir.files import check_writable
    from secateur.ir.onnx_read import load
    from secateur.passes.manifest import Manifest
    from secateur.passes.report import Size
    from secateur.replaying import replay

    check_writable(options.output)
    manifest, model = Manifest.load(options.manifest), load(options.model)
    graph = replay(manifest, model)
    graph.save(options.output)
    screen.note(f"wrote {options.output}")
    if manifest.scales:
        screen.note("the scales in the manifest belong to the other checkpoint: nothing was quantized")
    elif not manifest.exact:
        screen.note("the other checkpoint was refitted after the surgery; this one was not")
    sizes = {"before": Size.of(model).parameters, "after": Size.of(graph).parameters}
    text = (
        f"{options.model.name}: {sizes['before']:,} parameters became {sizes['after']:,} "
        f"({len(manifest.kept)} weights cut, {len(manifest.masks)} masked)"
    )
    document = {
        "model": str(options.model),
        "manifest": str(options.manifest),
        "exact": manifest.exact,
        "parameters": sizes,
        "cut": sorted(manifest.kept),
        "masked": sorted(manifest.masks),
        "written": [str(options.output)],
    }
    return Answer(Plain(text, document))
