"""What a command of ours is: a function from frozen options to an answer. Here it becomes one of typer's.

Every command gets `--json` and `--debug` beside its own options, and one way to show answers and failures.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Annotated, Any, TypeAlias, get_type_hints

import typer

from secateur.cli.failures import guarded
from secateur.cli.screen import Screen
from secateur.text import Shown


@dataclass(frozen=True)
class Answer:
    """What a command shows: `shown` as text or JSON, then it ends with `code`; `extra` goes into the JSON beside it."""

    shown: Shown
    code: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


Command: TypeAlias = Callable[[Any, Screen], Answer]
"""Does the work of a command, given its options; its docstring is the help text, and failures are raised."""


@dataclass(frozen=True)
class Common:
    """The options of every command."""

    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, nothing else.")] = (
        False
    )
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False


def command_of(run: Command) -> Callable[..., int]:
    """The function that typer calls: one parameter for each field of the command's options, and the common ones.

    Fields are declared as typer's parameters are, with `Annotated[type, typer.Option(...)]`.
    """
    kind: type[Any] = get_type_hints(run)["options"]

    def call(**given: Any) -> int:
        common = Common(**{one.name: given.pop(one.name) for one in fields(Common)})
        screen = Screen(json=common.json)

        def work() -> int:
            answer = run(kind(**given), screen)
            screen.show(answer.shown, answer.extra)
            return answer.code

        return guarded(work, json=common.json, debug=common.debug)

    parameters = [*_parameters(kind), *_parameters(Common)]
    call.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    call.__doc__ = run.__doc__
    return call


def _parameters(kind: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=_default(one), annotation=hints[one.name])
        for one in fields(kind)
    ]


def _default(one: Field[Any]) -> Any:
    if one.default is not MISSING:
        return one.default
    return inspect.Parameter.empty if one.default_factory is MISSING else one.default_factory()
