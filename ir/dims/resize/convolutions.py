"""Group counts of convolutions and of group norms."""

from __future__ import annotations

from secateur.ir.dims.resize.table import Resizing, resize_rules
from secateur.ir.node import Op

_register = resize_rules.register


@_register("Conv", "ConvInteger", "com.microsoft::FusedConv")
def conv(resizing: Resizing, op: Op) -> None:
    """[n, c, ..] with a weight [m, c / group, ..]: `group`."""
    _set_group(resizing, op, resizing.size(resizing.input(op, 0)[1]), resizing.size(resizing.input(op, 1)[1]))


@_register("QLinearConv")
def qlinear_conv(resizing: Resizing, op: Op) -> None:
    """As Conv; the weight comes fourth."""
    _set_group(resizing, op, resizing.size(resizing.input(op, 0)[1]), resizing.size(resizing.input(op, 3)[1]))


@_register("ConvTranspose")
def conv_transpose(resizing: Resizing, op: Op) -> None:
    """A weight [c, m / group, ..] that makes [n, m, ..]: `group`."""
    _set_group(resizing, op, resizing.size(resizing.output(op)[1]), resizing.size(resizing.input(op, 1)[1]))


@_register("DeformConv")
def deform_conv(resizing: Resizing, op: Op) -> None:
    """As Conv; offsets come in groups of channels of their own: `group` and `offset_group`."""
    conv(resizing, op)
    groups = op.attribute("offset_group", 1)
    resizing.set_attribute(op, "offset_group", resizing.blocks(resizing.input(op, 2)[1], groups))


def _set_group(resizing: Resizing, op: Op, channels: int | None, each: int | None) -> None:
    if channels is not None and each and op.attribute("group", 1) != channels // each:
        resizing.graph.set_attribute(op, "group", channels // each)


@_register("GroupNormalization")
def group_norm(resizing: Resizing, op: Op) -> None:
    """`num_groups` of channels."""
    channels = resizing.input(op, 0)[1]
    resizing.set_attribute(op, "num_groups", resizing.blocks(channels, op.attribute("num_groups")))


@_register("com.microsoft::GroupNorm", "com.microsoft::SkipGroupNorm")
def group_norm_of_diffusion(resizing: Resizing, op: Op) -> None:
    """`groups` of channels."""
    channels = resizing.input(op, 1)[0]
    resizing.set_attribute(op, "groups", resizing.blocks(channels, op.attribute("groups")))
