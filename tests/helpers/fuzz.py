"""Damaged models: `python fuzz.py --cases 5000 --seed 0` prints what became of them, as JSON.

Half of the cases have flipped, lost, doubled or cut bytes; the others are valid messages in which single fields hold
something else. Each must either be refused by the reader or the verifier, with an error of the library's own, or become
a graph that can be written and read again, within ten seconds and three gigabytes. Anything else ends the run with the
case's number.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from secateur.ir.errors import SecateurError
from secateur.ir.onnx_read import from_bytes
from secateur.ir.onnx_write import save, to_bytes

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers import models

_WORDS = ("loop", "scan", "if_", "sequence", "optional", "constant", "cast", "string", "adagrad", "sce_", "resize")
_NUMBERS = (-1, 0, 1, 2, 7, 99, 2**31 - 1, -(2**31))
_LARGE = (2**40, 2**62, 2**63 - 1, -(2**63))
_TEXTS = ("", "x", "..", "/etc/passwd", "a" * 500, "ä\U0001f600", "Constant", "If", "value", "data.bin")


_FUNCTIONS = """
<ir_version: 10, opset_import: ["": 20, "my": 1]>
net (float[N, 4] x, bool go) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}> {
    h = my.Outer <slope: float = 0.5> (x, w)
    y = If (go) <then_branch = yes () => (float[N, 4] a) { a = Add (h, w) },
                 else_branch = no () => (float[N, 4] b) { b = my.Inner (h) }>
}
<domain: "my", opset_import: ["": 20, "my": 1]>
Outer <slope> (p, q) => (r) { s = LeakyRelu <alpha: float = @slope> (p)
                              t = Constant <value_floats: floats = [1.0]> ()
                              u = my.Inner (s)
                              r = Sum (u, q, t) }
<domain: "my", opset_import: ["": 20]>
Inner (p) => (r) { r = Neg (p) }
"""


def seeds() -> list[bytes]:
    """Small models with bodies, sequences, strings, constants, external data and, in the light ones, many nodes."""
    small = [path for path in models.onnx_testdata() if any(word in path.parent.name for word in _WORDS)]
    larger = [*models.light_models(), models.real_model("vad-sequence"), models.real_model("vad")]
    functions = onnx.parser.parse_model(_FUNCTIONS).SerializeToString()
    return [functions] * 20 + [path.read_bytes() for path in (*small, *larger)]


def with_damaged_bytes(content: bytes, chance: random.Random) -> bytes:
    """Cuts the end off, loses or doubles a stretch, or changes up to sixteen bytes, rather in front than behind."""
    data = bytearray(content)
    start = chance.randrange(len(data))
    match chance.randrange(5):
        case 0:
            del data[start:]
        case 1:
            del data[start : start + chance.randrange(1, 64)]
        case 2:
            other = chance.randrange(len(data))
            data[start:start] = data[other : other + chance.randrange(1, 200)]
        case _:
            for _ in range(chance.choice((1, 1, 2, 4, 16))):
                place = chance.randrange(min(len(data), chance.choice((300, 4096, len(data)))))
                data[place] = chance.choice((0, 127, 255, data[place] ^ 1 << chance.randrange(8)))
    return bytes(data)


def with_odd_fields(content: bytes, chance: random.Random) -> bytes:
    """Changes up to four fields of the message, anywhere in it."""
    model = onnx.ModelProto.FromString(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        message = chance.choice(list(_messages(model)))
        field = chance.choice(message.DESCRIPTOR.fields)
        if field.is_repeated:
            _change_repeated(message, field, chance)
        elif field.message_type is not None:
            if chance.random() < 0.5:
                message.ClearField(field.name)
            else:
                getattr(message, field.name).SetInParent()
        else:
            setattr(message, field.name, _scalar(field, chance))
    return bytes(model.SerializeToString())


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if field.is_repeated else [value]:
                yield from _messages(item)


def _change_repeated(message: Any, field: Any, chance: random.Random) -> None:
    items = getattr(message, field.name)
    choice = chance.randrange(4)
    if choice == 0 and len(items):
        del items[chance.randrange(len(items))]
    elif field.message_type is not None:
        items.append(items[chance.randrange(len(items))]) if len(items) else items.add()
    elif choice == 1 and len(items):
        items[chance.randrange(len(items))] = _scalar(field, chance)
    else:
        items.append(_scalar(field, chance))


def _scalar(field: Any, chance: random.Random) -> Any:
    if field.type == field.TYPE_ENUM:
        return chance.choice(field.enum_type.values).number
    if field.type in (field.TYPE_STRING, field.TYPE_BYTES):
        text = chance.choice(_TEXTS)
        return text if field.type == field.TYPE_STRING else text.encode() + bytes(chance.randrange(3))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return chance.choice((0.0, -1.5, float("inf"), float("nan")))
    number = chance.choice(_NUMBERS if field.type == field.TYPE_INT32 else _NUMBERS + _LARGE)
    return abs(number) if field.type == field.TYPE_UINT64 else number


def outcome(content: bytes, folder: Path) -> str:
    """What becomes of one case; whatever else is raised is a defect."""
    try:
        graph = from_bytes(content, folder)
        graph.verify()
    except SecateurError as error:
        assert str(error).strip(), "an error that says nothing"
        return type(error).__name__
    written = to_bytes(graph)
    assert to_bytes(from_bytes(written)) == written == to_bytes(graph.clone())
    save(graph, folder / "saved.onnx", external_data=True)
    for value in graph.constants():
        if value.const is not None:
            value.const.numpy()
    return "graph"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one case, to look at it")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    found: collections.Counter[str] = collections.Counter()
    originals = seeds()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "data.bin").write_bytes(bytes(4096))
        for number in range(options.cases) if options.only is None else [options.only]:
            chance = random.Random(f"{options.seed}/{number}")
            damage = with_damaged_bytes if number % 2 else with_odd_fields
            content = damage(chance.choice(originals), chance)
            signal.setitimer(signal.ITIMER_REAL, 10)  # the default action ends the process
            try:
                found[outcome(content, Path(folder))] += 1
            except BaseException as error:
                error.add_note(f"case {number} of seed {options.seed}")
                raise
            signal.setitimer(signal.ITIMER_REAL, 0)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
