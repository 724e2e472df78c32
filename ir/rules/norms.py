"""Where normalisations take the gain and the bias of their channels, which can take up a scale of what they give."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.ir.rules.table import RuleTable


@dataclass(frozen=True)
class Parameters:
    """Input ports of a normalisation `(x - mean) / deviation * gain + bias`.

    Attributes:
        scale, bias: of the gain and of the bias; None where it takes none.
        by_channel: they have one number for each index of axis 1; otherwise they line up with the last axes.
        statistics: of the mean and the variance, where these are constants; otherwise they are those of the data.
    """

    scale: int
    bias: int | None
    by_channel: bool = False
    statistics: tuple[int, ...] = ()


norm_rules: RuleTable[Parameters] = RuleTable("which inputs are the gain and the bias of the normalised channels?")

for _types, _rule in (
    ("BatchNormalization", Parameters(1, 2, by_channel=True, statistics=(3, 4))),
    ("GroupNormalization InstanceNormalization", Parameters(1, 2, by_channel=True)),
    ("LayerNormalization", Parameters(1, 2)),
    ("RMSNormalization SimplifiedLayerNormalization com.microsoft::SimplifiedLayerNormalization", Parameters(1, None)),
    ("com.microsoft::SkipLayerNormalization", Parameters(2, 3)),
    ("com.microsoft::SkipSimplifiedLayerNormalization", Parameters(2, None)),
):
    for _type in _types.split():
        norm_rules.add(_type, _rule)
