"""What each operator does to masks: attention and rotary embeddings that are one op."""

from __future__ import annotations

from helpers.closure_masks import Place
from helpers.closure_rules import Visit, rules


@rules.register("Attention")
def _attention(visit: Visit) -> None:
    """Query heads are [key-value heads, repeats]; widths of query and key, and of value and output, are apart."""
    q, k, v, y = visit.at(0), visit.at(1), visit.at(2), visit.out()
    flat = len(visit.shape(q)) == 3
    heads = int(visit.op.attribute("q_num_heads", 0)) if flat else visit.shape(q)[1]
    pairs = int(visit.op.attribute("kv_num_heads", 0)) if flat else visit.shape(k)[1]
    if flat:
        width, depth = visit.shape(k)[2] // pairs, visit.shape(v)[2] // pairs
        shown = [["n", "s", "pair repeat width"], ["n", "t", "pair width"]]
        shown += [["n", "t", "pair depth"], ["n", "s", "pair repeat depth"]]
    else:
        width, depth = visit.shape(k)[3], visit.shape(v)[3]
        shown = [["n", "pair repeat", "s", "width"], ["n", "pair", "t", "width"]]
        shown += [["n", "pair", "t", "depth"], ["n", "pair repeat", "s", "depth"]]
    sizes = {"pair": pairs, "repeat": heads // pairs, "width": width, "depth": depth}
    past = [(visit.at(4), ["n", "pair", "", "width"]), (visit.at(5), ["n", "pair", "", "depth"])]
    present = [(visit.out(1), ["n", "pair", "", "width"]), (visit.out(2), ["n", "pair", "", "depth"])]
    scores = [(visit.out(3), ["n", "pair repeat", "s", ""])]
    mask = visit.at(3)
    if mask is not None:
        given = ["n", "pair repeat", "s", ""]
        scores.append((mask, given[4 - len(visit.shape(mask)) :]))
    visit.masks.link(sizes, *zip((q, k, v, y), shown, strict=True), *past, *present, *scores)
    pin_times(visit, (k, 1 if flat else 2), (v, 1 if flat else 2))


def pin_times(visit: Visit, *axes: tuple[Place | None, int]) -> None:
    for place, axis in axes:
        visit.pin(place, axis, "softmax", "a softmax runs over it")


@rules.register("RotaryEmbedding")
def _rotary(visit: Visit) -> None:
    """A head is [halves, pairs] wide, or [pairs, halves] where interleaved; the tables have one entry a pair."""
    x, y = visit.at(0), visit.out()
    flat = len(visit.shape(x)) == 3
    pairs = visit.shape(visit.at(1))[-1]
    heads = int(visit.op.attribute("num_heads", 0)) if flat else visit.shape(x)[1]
    width = visit.shape(x)[-1] // heads if flat else visit.shape(x)[-1]
    visit.spread(x, y)
    if width != 2 * pairs or visit.op.attribute("rotary_embedding_dim", 0) not in (0, width):
        visit.pin_op("unknown", "rotating a part of each head has no rule here")
        return
    inner = "pair !half" if visit.op.attribute("interleaved", 0) else "!half pair"
    seen = ["", "", f"head {inner}"] if flat else ["", "head", "", inner]
    tables = [(visit.at(port), [*[""] * (len(visit.shape(visit.at(port))) - 1), "pair"]) for port in (1, 2)]
    visit.masks.link({"head": heads, "!half": 2, "pair": pairs}, (x, seen), *tables)


@rules.register("com.microsoft::MultiHeadAttention")
def _multi_head_attention(visit: Visit) -> None:
    """Query, key, value [n, time, heads x width]; the bias is those of the three after each other."""
    q, k, v, y = visit.at(0), visit.at(1), visit.at(2), visit.out()
    if k is None or v is None or any(len(visit.shape(place)) != 3 for place in (q, k, v)):
        visit.pin_op("unknown", "packed or cached keys and values have no rule here")
        return
    heads = int(visit.op.attribute("num_heads"))
    sizes = {"head": heads, "width": visit.shape(q)[2] // heads, "depth": visit.shape(v)[2] // heads}
    width, depth = "head width", "head depth"
    members = [(q, ["n", "s", width]), (k, ["n", "t", width]), (v, ["n", "t", depth]), (y, ["n", "s", depth])]
    bias = (visit.at(3), [f"{width} + {width} + {depth}"])
    visit.masks.link(sizes, *members, bias, (visit.at(5), ["n", "head", "s", "t"]))
    pin_times(visit, (k, 1), (v, 1))


@rules.register("com.microsoft::Attention")
def _fused_attention(visit: Visit) -> None:
    """Weight [in, queries, keys, values after each other]; input and output [n, time, channels]."""
    x, weight, y = visit.at(0), visit.at(1), visit.out()
    heads, total = int(visit.op.attribute("num_heads")), visit.shape(weight)[1]
    parts = visit.op.attribute("qkv_hidden_sizes", (total // 3, total // 3, total // 3))
    if visit.at(4) is not None or visit.op.attribute("do_rotary", 0):
        visit.pin_op("unknown", "cached keys or rotation have no rule here")
        return
    sizes = {"head": heads, "width": int(parts[0]) // heads, "depth": int(parts[2]) // heads}
    fused = "head width + head width + head depth"
    members = [(x, ["n", "", "i"]), (weight, ["i", fused]), (visit.at(2), [fused]), (y, ["n", "", "head depth"])]
    visit.masks.link(sizes, *members, (visit.at(5), ["", "head", "", ""]))
    pin_times(visit, (x, 1))


@rules.register("com.microsoft::GroupQueryAttention")
def _group_query_attention(visit: Visit) -> None:
    """Queries [n, time, pairs x repeats x width]; keys, values [n, time, pairs x width]; caches by pair first."""
    q, k, v, y = visit.at(0), visit.at(1), visit.at(2), visit.out()
    if k is None or v is None:
        visit.pin_op("unknown", "packed queries, keys and values have no rule here")
        return
    heads, pairs = int(visit.op.attribute("num_heads")), int(visit.op.attribute("kv_num_heads"))
    rotary = bool(visit.op.attribute("do_rotary", 0))
    width = visit.shape(k)[2] // pairs
    inner = "!half rotated" if rotary else "width"
    sizes = {"pair": pairs, "repeat": heads // pairs, "width": width, "!half": 2, "rotated": width // 2, "depth": width}
    caches = [(visit.at(3), ["n", "pair", "", inner]), (visit.at(4), ["n", "pair", "", "depth"])]
    caches += [(visit.out(1), ["n", "pair", "", inner]), (visit.out(2), ["n", "pair", "", "depth"])]
    tables = [(visit.at(port), ["", "rotated"]) for port in (7, 8)] if rotary else []
    members = [(q, ["n", "s", f"pair repeat {inner}"]), (k, ["n", "t", f"pair {inner}"])]
    members += [(v, ["n", "t", "pair depth"]), (y, ["n", "s", "pair repeat depth"])]
    visit.masks.link(sizes, *members, *caches, *tables)
    pin_times(visit, (k, 1), (v, 1))
