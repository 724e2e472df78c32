"""`groups` lists all that can go: units with the pairs of weights around them, blocks, edges; and why others cannot."""

from __future__ import annotations

import json

import pytest
from helpers.face_models import Cli
from helpers.zoo import zoo

from secateur.grouping import group_report
from secateur.ir.errors import RefusedError
from secateur.passes import Context, parse_pipeline, run_pipeline
from secateur.replaying import replay

MODELS = zoo("small")


def test_pairs_of_a_transformer() -> None:
    """The depth-2 modules of each layer: query and key, value and output, up with gate and down."""
    report = group_report(MODELS["llama"]())
    pairs = {row.kind: row.pair for row in report.groups[:8] if row.pair}
    assert pairs.keys() == {"query-key", "value-output", "neurons"}
    assert {kind: pair.path for kind, pair in pairs.items()} == {
        "query-key": "softmax-product",
        "value-output": "linear",
        "neurons": "pointwise",
    }
    assert {kind: (len(pair.makers), len(pair.readers)) for kind, pair in pairs.items()} == {
        "query-key": (1, 1),
        "value-output": (1, 1),
        "neurons": (2, 1),
    }
    everything = [name for pair in pairs.values() for name in (*pair.makers, *pair.readers)]
    assert len(set(everything)) == 7, "the seven weights of a layer, each on one side of one pair"


@pytest.mark.parametrize("name", ["bert", "t5", "gpt2", "vit-packed"])
def test_pairs_share_their_dimension_and_no_weight_of_a_pair_has_another_size(name: str) -> None:
    graph = MODELS[name]()
    rows = [row for row in group_report(graph).groups if row.pair]
    assert rows
    for row in rows:
        assert row.pair is not None and row.kind in ("neurons", "query-key", "value-output")
        at_home = {place.rpartition(":")[0] for place in row.places}
        assert at_home.issuperset((*row.pair.makers, *row.pair.readers))
        for weight in (*row.pair.makers, *row.pair.readers):
            tensor = graph[weight].const
            assert tensor is not None and any(size % row.size == 0 for size in tensor.shape)


def test_blocks_and_edges_are_listed() -> None:
    blocks = group_report(MODELS["t5"]())
    assert [row.part for row in blocks.removable].count("layer") == 5 and not blocks.edges
    assert sum(row.macs for row in blocks.removable if row.part == "layer") > 0
    edges = group_report(MODELS["densenet121"]())
    assert len(edges.edges) == 28 and not edges.removable
    assert all(row.readers and row.parameters and row.pinned is None for row in edges.edges)
    text = str(group_report(MODELS["unet"]()))
    assert "shortcut is a projection: [2, 24, 6, 7] becomes [2, 40, 6, 7]" in text
    assert "8 of them: what reads it regroups it" in text


@pytest.mark.parametrize(("name", "text"), [("vit", "factorize"), ("densenet121", "drop-edges")])
def test_a_manifest_that_does_not_say_what_went_is_not_replayed(name: str, text: str) -> None:
    graph = MODELS[name]()
    result = run_pipeline(graph, parse_pipeline(text), Context())
    with pytest.raises(RefusedError, match="of which a manifest does not say what it did"):
        replay(result.manifest, graph)


def test_the_command_line_says_the_same(cli: Cli) -> None:
    path = MODELS["bert"].path()
    found = cli("groups", path, "--json").json
    assert json.dumps(found, sort_keys=True) == json.dumps(group_report(path).to_json(), sort_keys=True)
    assert {row["part"] for row in found["blocks"]} == {"attention", "ffn", "layer"}
    assert any(row["pair"] and row["pair"]["path"] == "pointwise" for row in found["groups"])
