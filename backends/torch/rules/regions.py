"""Regions of an image: sampling and pooling them, choosing among boxes, and convolutions whose places are moved."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from secateur.backends.torch.call import Call, torch_rules
from secateur.backends.torch.lazy import torch
from secateur.backends.torch.rules.convolutions import window

if TYPE_CHECKING:
    from torch import Tensor


def sample(image: Tensor, rows: Tensor, columns: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The four pixels around each place of [channels, height, width] and what they weigh: [channels, ..] and [..]."""
    height, width = image.shape[1:]
    top, left = rows.floor(), columns.floor()
    found = []
    for down in (0, 1):
        for right in (0, 1):
            y, x = top + down, left + right
            weight = (1 - (rows - y).abs()) * (1 - (columns - x).abs())
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            flat = y.clamp(0, height - 1).long() * width + x.clamp(0, width - 1).long()
            pixels = image.reshape(image.shape[0], -1)[:, flat]
            found.append((pixels, torch.where(inside, weight, 0)))
    return found


@torch_rules.register("RoiAlign")
def _align(call: Call) -> Tensor:
    """The mean, or the largest, of what is sampled in each cell of each region (He et al., 2017)."""
    images, boxes, which = call[0], call[1], call.ints(2) or []
    default = "half_pixel" if call.opset >= 16 else "output_half_pixel"
    half = call.attribute("coordinate_transformation_mode", default) == "half_pixel"
    scaled = boxes * call.attribute("spatial_scale", 1.0) - (0.5 if half else 0.0)
    shape = (call.attribute("output_height", 1), call.attribute("output_width", 1))
    made = [_aligned(call, images[index], box, shape, half) for index, box in zip(which, scaled, strict=True)]
    return torch.stack(made) if made else images.new_zeros(0, images.shape[1], *shape)


def _aligned(call: Call, image: Tensor, box: Tensor, shape: tuple[int, int], half: bool) -> Tensor:
    left, top, right, bottom = box.unbind()
    places, counts = [], []
    for start, end, cells, size in (
        (top, bottom, shape[0], image.shape[1]),
        (left, right, shape[1], image.shape[2]),
    ):
        length = end - start if half else (end - start).clamp(min=1)
        count = call.attribute("sampling_ratio", 0) or max(1, math.ceil(length.item() / cells))
        steps = (torch.arange(cells * count, device=image.device) + 0.5) / count
        at = start + steps * length / cells
        # What lies well outside counts as zero; what lies just outside, as the edge.
        outside = (at < -1) | (at > size)
        places.append((torch.where(at <= 0, 0, at).clamp(max=size - 1), outside))
        counts.append(count)
    (rows, above), (columns, beside) = places
    rows, columns = torch.broadcast_tensors(rows[:, None], columns[None, :])
    seen = ~(above[:, None] | beside[None, :])
    parts = [pixels * torch.where(seen, weight, 0) for pixels, weight in sample(image, rows, columns)]
    best = call.attribute("mode", "avg") == "max"
    whole = torch.stack(parts).amax(0) if best else sum(parts[1:], parts[0])
    cells_shape = (image.shape[0], shape[0], counts[0], shape[1], counts[1])
    grouped = whole.reshape(cells_shape)
    return grouped.amax((2, 4)) if best else grouped.mean((2, 4))


@torch_rules.register("MaxRoiPool")
def _max_pool(call: Call) -> Tensor:
    images, boxes = call[0], call[1]
    cells, scale = call.attribute("pooled_shape"), call.attribute("spatial_scale", 1.0)
    made = []
    for index, *corners in boxes.tolist():
        left, top, right, bottom = (math.floor(corner * scale + 0.5) for corner in corners)
        made.append(_pooled(images[int(index)], (top, left), (bottom, right), cells))
    return torch.stack(made)


def _pooled(image: Tensor, start: tuple[int, int], end: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    spans = [_spans(*one) for one in zip(start, end, cells, image.shape[1:], strict=True)]
    zero = image.new_zeros(image.shape[0])
    return torch.stack(
        [
            torch.stack(
                [
                    image[:, top:bottom, left:right].amax((1, 2)) if bottom > top and right > left else zero
                    for left, right in spans[1]
                ],
                -1,
            )
            for top, bottom in spans[0]
        ],
        1,
    )


def _spans(start: int, end: int, cells: int, size: int) -> list[tuple[int, int]]:
    """Which indices each cell takes: they may overlap, and be none beyond the edge."""
    length = max(end - start + 1, 1) / cells
    return [
        (
            min(max(math.floor(cell * length) + start, 0), size),
            min(max(math.ceil((cell + 1) * length) + start, 0), size),
        )
        for cell in range(cells)
    ]


@torch_rules.register("NonMaxSuppression")
def _suppress(call: Call) -> Tensor:
    """[batch, class, box] of the boxes kept: the best first, then those that overlap no better one too much."""
    boxes, scores = call[0], call[1]
    most, overlap, least = int(call.number(2, 0)), float(call.number(3, 0.0)), call.number(4)
    found: list[list[int]] = []
    for batch in range(scores.shape[0]):
        corners = _corners(boxes[batch], bool(call.attribute("center_point_box", 0)))
        shared = _overlaps(corners)
        for label in range(scores.shape[1]):
            row = scores[batch, label]
            kept: list[int] = []
            for box in torch.sort(row, descending=True, stable=True).indices.tolist():
                if len(kept) >= most or (least is not None and row[box].item() <= least):
                    break
                if not kept or shared[box, kept].max().item() <= overlap:
                    kept.append(box)
            found += [[batch, label, box] for box in kept]
    return torch.tensor(found, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _corners(boxes: Tensor, centred: bool) -> Tensor:
    if centred:
        middle, size = boxes[:, :2], boxes[:, 2:]
        return torch.cat([middle - size / 2, middle + size / 2], 1)
    first, second = boxes[:, :2], boxes[:, 2:]
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], 1)


def _overlaps(corners: Tensor) -> Tensor:
    low = torch.maximum(corners[:, None, :2], corners[None, :, :2])
    high = torch.minimum(corners[:, None, 2:], corners[None, :, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = (corners[:, 2:] - corners[:, :2]).prod(-1)
    union = area[:, None] + area[None, :] - both
    return torch.where(union > 0, both / torch.where(union > 0, union, 1), 0)


@torch_rules.register("DeformConv")
def _deformed(call: Call) -> Tensor:
    """A convolution each of whose samples is moved, and weighed by a mask (Zhu et al., 2019)."""
    x, weight, moved, bias, mask = call[0], call[1], call[2], call.get(3), call.get(4)
    if x.dim() != 4:
        raise call.refuse(f"over {x.dim() - 2} axes")
    kernel, parts = weight.shape[2:], call.attribute("offset_group", 1)
    slide = window(call, kernel, x.shape[2:])
    count = kernel[0] * kernel[1]
    shape = moved.shape[2:]
    offsets = moved.reshape(x.shape[0], parts, count, 2, *shape)
    weights = None if mask is None else mask.reshape(x.shape[0], parts, count, *shape)
    taps = torch.cartesian_prod(*(torch.arange(size, device=x.device) for size in kernel)).reshape(-1, 2)
    starts = [
        torch.arange(steps, device=x.device) * stride - before
        for steps, stride, before in zip(shape, slide.strides, slide.before, strict=True)
    ]
    base = [
        (taps[:, axis] * slide.dilations[axis])[:, None, None]
        + (starts[axis][:, None] if axis == 0 else starts[axis][None, :])
        for axis in (0, 1)
    ]
    columns = []
    for index in range(x.shape[0]):
        each = []
        for part, image in enumerate(x[index].chunk(parts, 0)):
            rows, places = (base[axis] + offsets[index, part, :, axis] for axis in (0, 1))
            seen = sum(pixels * share for pixels, share in sample(image, rows, places))
            each.append(seen if weights is None else seen * weights[index, part])
        columns.append(torch.cat(each))
    groups = call.attribute("group", 1)
    inner = torch.stack(columns).reshape(x.shape[0], groups, -1, shape[0] * shape[1])
    made = weight.reshape(groups, weight.shape[0] // groups, -1) @ inner
    made = made.reshape(x.shape[0], weight.shape[0], *shape)
    return made if bias is None else made + bias.reshape(-1, 1, 1)
