"""What goes together in each of the structures, found by thinking: one unit of each kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from helpers.closure_masks import Place
from helpers.mask_closure import MaskClosure

Named: TypeAlias = Mapping[str, Mapping[int, Sequence[int]]]
"""A unit by names: of each constant, of each of its axes, the indices. `w#1` is the second use of the constant w."""


def named_unit(closure: MaskClosure, named: Named) -> dict[Place, dict[int, list[int]]]:
    """The same by places of the graph that is closed."""
    unit: dict[Place, dict[int, list[int]]] = {}
    for name, axes in named.items():
        bare, _, use = name.partition("#")
        unit[closure.use(bare, int(use or 0))] = {axis: list(indices) for axis, indices in axes.items()}
    return unit


def stretch(start: int, count: int, step: int = 1) -> list[int]:
    """`count` indices from `start` on."""
    return list(range(start, start + count * step, step))


def plus(indices: Iterable[int], *offsets: int) -> list[int]:
    """The indices, at each of these offsets."""
    return sorted(index + offset for index in indices for offset in offsets)


def norm(name: str, *indices: int) -> dict[str, dict[int, list[int]]]:
    return {f"{name}.{part}": {0: list(indices)} for part in ("scale", "bias", "mean", "variance")}


def made(name: str, indices: Sequence[int], axis: int = 0) -> dict[str, dict[int, list[int]]]:
    """Channels that a layer makes: its weight's axis and its bias."""
    return {f"{name}.weight": {axis: list(indices)}, f"{name}.bias": {0: list(indices)}}


UNITS: dict[str, dict[str, Named]] = {
    "conv_bn_relu_conv": {
        "channel": {"first.weight": {0: [3]}, **norm("bn", 3), "second.weight": {1: [3]}},
    },
    "residual_trunk": {
        "trunk": {
            **made("stem", [4]),
            **made("a2", [4]),
            **made("b2", [4]),
            "a1.weight": {1: [4]},
            "b1.weight": {1: [4]},
            "head.weight": {1: [4]},
        },
        "inner": {**made("b1", [9]), "b2.weight": {1: [9]}},
    },
    "depthwise": {
        "channel": {**made("expand", [6]), **made("depthwise", [6]), "project.weight": {1: [6]}},
    },
    "depthwise_multiplier": {
        "channel": {**made("expand", [3]), **made("depthwise", [6, 7]), "project.weight": {1: [6, 7]}},
        "every second": {**made("depthwise", stretch(1, 5, 2)), "project.weight": {1: stretch(1, 5, 2)}},
    },
    "grouped_conv": {
        "offset in": {**made("before", [1, 3, 5]), "grouped.weight": {1: [1]}},
        "offset out": {**made("grouped", [2, 6, 10]), "after.weight": {1: [2, 6, 10]}},
        "group": {**made("before", [2, 3]), **made("grouped", stretch(4, 4)), "after.weight": {1: stretch(4, 4)}},
    },
    "dense_concat": {
        "stem": {
            **made("stem", [2]),
            **norm("one_bn", 2),
            "one.weight": {1: [2]},
            **norm("two_bn", 2),
            "two.weight": {1: [2]},
            "head.weight": {1: [2]},
        },
        "one": {**made("one", [3]), **norm("two_bn", 8), "two.weight": {1: [8]}, "head.weight": {1: [8]}},
        "two": {**made("two", [1]), "head.weight": {1: [10]}},
    },
    "channel_shuffle": {
        "group before": {
            **made("before", stretch(4, 4)),
            **made("narrow", stretch(6, 6)),
            **made("depthwise", stretch(1, 6, 3)),
            "wide.weight": {1: [1, 4]},
        },
        "group behind": {
            **made("narrow", [2, 3, 8, 9, 14, 15]),
            **made("depthwise", stretch(6, 6)),
            **made("wide", stretch(5, 5)),
            "after.weight": {1: stretch(5, 5)},
        },
        "offset in both": {
            **made("narrow", stretch(1, 9, 2)),
            **made("depthwise", [3, 4, 5, 9, 10, 11, 15, 16, 17]),
            "wide.weight": {1: [3, 4, 5]},
        },
        "offset behind": {**made("wide", [2, 7, 12]), "after.weight": {1: [2, 7, 12]}},
    },
    "split_shuffle": {  # a channel of each branch, side by side in the near half; and so one of the far half
        "near": {**made("left", [1]), **made("right", [1]), "one.weight": {1: [2, 3]}},
        "far": {**made("left", [2]), **made("right", [2]), "other.weight": {1: [0, 1]}},
    },
    "flatten_gemm": {
        "channel": {**made("conv", [3]), "fc1.weight": {1: stretch(36, 12)}},
        "neuron": {**made("fc1", [5]), "fc2.weight": {0: [5]}},
    },
    "group_norm": {
        "group": {
            **made("before", stretch(4, 4)),
            "gamma": {0: stretch(4, 4)},
            "beta": {0: stretch(4, 4)},
            "ones": {0: [1]},
            "zeros": {0: [1]},
            "after.weight": {1: stretch(4, 4)},
        },
        "offset": {**made("before", [3, 7]), "gamma": {0: [3, 7]}, "beta": {0: [3, 7]}, "after.weight": {1: [3, 7]}},
    },
    "upsampling": {
        "channel": {"up.weight": {1: [4]}, "deep.weight": {1: [4]}},
        "depth": {**made("deep", [2, 5, 8, 11]), "last.weight": {1: [2]}},
    },
    "attention": {
        "head": {
            **made("query", stretch(4, 4), 1),
            **made("key", stretch(4, 4), 1),
            **made("value", stretch(7, 7), 1),
            "output.weight": {0: stretch(7, 7)},
        },
        "query and key width": {**made("query", [3, 7, 11], 1), **made("key", [3, 7, 11], 1)},
        "value width": {**made("value", [5, 12, 19], 1), "output.weight": {0: [5, 12, 19]}},
    },
    "grouped_query_attention": {
        "pair": {
            "query.weight": {1: stretch(12, 12)},
            "key.weight": {1: stretch(4, 4)},
            "value.weight": {1: stretch(5, 5)},
            "output.weight": {0: stretch(15, 15)},
        },
        "repeat": {
            "query.weight": {1: plus(stretch(8, 4), 0, 12)},
            "output.weight": {0: plus(stretch(10, 5), 0, 15)},
        },
        "query and key width": {"query.weight": {1: stretch(1, 6, 4)}, "key.weight": {1: [1, 5]}},
        "value width": {"value.weight": {1: [3, 8]}, "output.weight": {0: stretch(3, 6, 5)}},
    },
    "rotary": {
        "head": {
            "query.weight": {1: stretch(6, 6)},
            "key.weight": {1: stretch(6, 6)},
            "value.weight": {1: stretch(5, 5)},
            "output.weight": {0: stretch(5, 5)},
        },
        "rotated pair": {
            "query.weight": {1: [1, 4, 7, 10]},
            "key.weight": {1: [1, 4, 7, 10]},
            **{f"{table}{use}": {1: [1, 4]} for table in ("cosine", "sine") for use in ("", "#1")},
        },
        "value width": {"value.weight": {1: [2, 7]}, "output.weight": {0: [2, 7]}},
    },
    "fused_qkv_split": {
        "head": {
            **made("fused", [*plus(stretch(4, 4), 0, 12), *stretch(29, 5)], 1),
            "output.weight": {0: stretch(5, 5)},
        },
        "query and key width": made("fused", plus(stretch(2, 3, 4), 0, 12), 1),
        "value width": {**made("fused", stretch(27, 3, 5), 1), "output.weight": {0: stretch(3, 3, 5)}},
    },
    "packed_qkv": {  # one tensor [3, heads, width] holds all three, so their widths are one
        "head": {**made("packed", plus(stretch(5, 5), 0, 10, 20), 1), "output.weight": {0: stretch(5, 5)}},
        "width": {**made("packed", stretch(4, 6, 5), 1), "output.weight": {0: [4, 9]}},
    },
    "gated_ffn": {
        "neuron": {"gate.weight": {1: [11]}, "up.weight": {1: [11]}, "down.weight": {0: [11]}},
    },
    "embedded_trunk": {
        "trunk": {
            "table": {1: [4]},
            "places": {1: [4]},
            "norm.scale": {0: [4]},
            "norm.bias": {0: [4]},
            "up.weight": {0: [4]},
            **made("down", [4], 1),
            "head.weight": {0: [4]},
        },
        "neuron": {**made("up", [13], 1), "down.weight": {0: [13]}},
    },
    "recurrent": {
        "cell": {
            "w": {1: stretch(3, 4, 5)},
            "r": {1: stretch(3, 4, 5), 2: [3]},
            "b": {1: stretch(3, 8, 5)},
            "out": {0: [3]},
        },
        "input": {"w": {2: [1]}, "in": {1: [1]}},
    },
}
