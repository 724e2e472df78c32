"""Pipelines as text: what parses prints, and what does not parse says where and why."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
from helpers.example_passes import Color, Options
from hypothesis import given
from hypothesis import strategies as st

from secateur.ir.errors import PassError, TextError
from secateur.passes import make_pass, parse_pipeline, pipeline, print_pipeline, registry
from secateur.passes.cleanup.clean import Clean
from secateur.passes.cleanup.constants import FoldConstants
from secateur.passes.cleanup.dead_code import RemoveDeadCode


@pytest.fixture(autouse=True)
def _options_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        registry, "PASSES", {**registry.PASSES, "options": "helpers.example_passes:Options", "gone": "nowhere:Pass"}
    )


def test_a_pipeline_of_registered_passes() -> None:
    passes = parse_pipeline(" fold-constants{ max-bytes = 64 },\n remove-dead-code , clean{limit=2,batchnorm=false}")
    assert passes == (FoldConstants(max_bytes=64), RemoveDeadCode(), Clean(batchnorm=False, limit=2))
    assert print_pipeline(passes) == "fold-constants{max-bytes=64},remove-dead-code,clean{batchnorm=false,limit=2}"


@pytest.mark.parametrize("text", ["", "  \n ", "remove-dead-code", "remove-dead-code{}"])
def test_short_texts(text: str) -> None:
    assert [str(one) for one in parse_pipeline(text)] == ["remove-dead-code"] * bool(text.strip())


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("flag=true", {"flag": True}),
        ("count=-0", {"count": 0}),
        ("ratio=1e-3", {"ratio": 0.001}),
        ("ratio=1", {"ratio": 1.0}),
        ("label=int8", {"label": "int8"}),
        ('label="two words, {and} more\\n"', {"label": "two words, {and} more\n"}),
        ("label=none", {"label": "none"}),
        ("color=deep-blue", {"color": Color.BLUE}),
        ("pattern=1:2", {"pattern": "1:2"}),
        ("size=none", {}),
        ("size=7", {"size": 7}),
        ("layers=[conv1,/block/conv2]", {"layers": ("conv1", "/block/conv2")}),
        ("layers=conv1", {"layers": ("conv1",)}),
        ("layers=[]", {}),
        ("pair=[3,0.25]", {"pair": (3, 0.25)}),
        ("max_bytes=3", {"max_bytes": 3}),
        ("max-bytes=3.5", {"max_bytes": 3.5}),
        ("max-bytes=many", {"max_bytes": "many"}),
        ('max-bytes="none"', {"max_bytes": "none"}),
        ("nested=[[1,2],[],[3]]", {"nested": ((1, 2), (), (3,))}),
    ],
)
def test_options_by_their_types(text: str, options: dict[str, Any]) -> None:
    (parsed,) = parse_pipeline(f"options{{{text}}}")
    assert parsed == Options(**options)
    assert type(parsed.ratio) is float  # type: ignore[attr-defined]
    assert parse_pipeline(str(parsed)) == (parsed,)


_OPTIONS: st.SearchStrategy[Options] = st.builds(
    Options,
    flag=st.booleans(),
    count=st.integers(0),
    ratio=st.floats(allow_nan=False),
    label=st.text(),
    color=st.sampled_from(Color),
    pattern=st.sampled_from(["2:4", "1:2"]),
    size=st.none() | st.integers(),
    layers=st.lists(st.text()).map(tuple),
    pair=st.tuples(st.integers(), st.floats(allow_nan=False)),
    max_bytes=st.none() | st.integers() | st.floats(allow_nan=False).filter(lambda number: number != number // 1),
    nested=st.lists(st.lists(st.integers()).map(tuple)).map(tuple),
)


@given(passes=st.lists(_OPTIONS, max_size=3))
def test_print_then_parse_gives_equal_passes(passes: list[Options]) -> None:
    text = print_pipeline(passes)
    assert parse_pipeline(text) == tuple(passes)
    assert print_pipeline(parse_pipeline(text)) == text


def test_only_what_differs_from_the_defaults_is_printed() -> None:
    assert str(Options()) == "options"
    assert str(Options(label="x", ratio=0.5, pair=(1, 2.0))) == "options{label=x}"
    assert str(replace(Options(count=3), count=1)) == "options"


@pytest.mark.parametrize(
    ("text", "line", "column", "message", "hint"),
    [
        ("remove-ded-code", 1, 1, "no pass 'remove-ded-code'", "did you mean remove-dead-code"),
        ("zzz", 1, 1, "no pass 'zzz'", "apply-masks, armor, "),
        ("clean,\n  clean{limit=2,\n  limt=3}", 3, 3, "clean has no option 'limt'", "did you mean limit?"),
        ("clean{limit=2,limit=3}", 1, 15, "given twice", ""),
        ("clean{limit=two}", 1, 13, "expected a whole number, found 'two'", ""),
        ("clean{limit=2.0}", 1, 13, "expected a whole number", ""),
        ("clean{limit=0}", 1, 1, "limit must be at least 1", ""),
        ("clean{batchnorm=yes}", 1, 17, "expected one of true, false, found 'yes'", ""),
        ("options{color=green}", 1, 15, "expected one of red, deep-blue, found 'green'", ""),
        ("options{pattern=3:4}", 1, 17, "expected one of 2:4, 1:2", ""),
        ("options{size=big}", 1, 14, "expected a whole number", ""),
        ("options{count=[1]}", 1, 15, "expected a whole number, found a list", ""),
        ("options{pair=[1]}", 1, 14, "expected a list of 2, found 1", ""),
        ("options{nested=[[a]]}", 1, 16, "expected a whole number", ""),
        ("clean clean", 1, 7, "expected `,` or the end, found 'c'", ""),
        ("clean,", 1, 7, "expected a pass, found the end", ""),
        ("clean{limit}", 1, 12, "expected `=` after limit, found '}'", ""),
        ("clean{limit=}", 1, 13, "expected a value, found '}'", ""),
        ("clean{limit=2", 1, 14, "expected `,` or `}`, found the end", ""),
        ('options{label="abc', 1, 15, "string that does not end well", ""),
        ("options{layers=[a", 1, 18, "expected `,` or `]`, found the end", ""),
        ("{}", 1, 1, "expected a pass, found '{'", ""),
    ],
)
def test_errors_say_where_and_why(text: str, line: int, column: int, message: str, hint: str) -> None:
    with pytest.raises(TextError) as caught:
        parse_pipeline(text)
    assert f"line {line}, column {column}:" in str(caught.value)
    assert message in str(caught.value)
    assert hint in (caught.value.hint or "")
    marked, mark = caught.value.message.split("\n")[1:]
    assert marked.strip() == text.split("\n")[line - 1].strip()
    assert mark.index("^") == column + 1


@given(st.text(alphabet='clean{}[],="a1- \n', max_size=20))
def test_any_text_is_a_pipeline_or_a_text_error(text: str) -> None:
    try:
        parse_pipeline(text)
    except TextError as error:
        assert "column" in error.message


def test_make_pass_from_python_values() -> None:
    assert make_pass("clean", limit=3) == Clean(limit=3)
    with pytest.raises(TextError, match="clean has no option 'limt'"):
        make_pass("clean", limt=3)
    with pytest.raises(TextError, match="at least 1"):
        make_pass("clean", limit=0)


def test_a_table_that_names_nothing_is_our_defect() -> None:
    with pytest.raises(PassError, match="nowhere:Pass"):
        parse_pipeline("gone")


def test_every_name_in_the_table_is_kebab_case_and_ours() -> None:
    for name, target in registry.PASSES.items():
        assert name == name.lower() and "_" not in name
        assert ":" in target
    assert registry.names() == sorted(registry.names())


def test_other_packages_add_passes_but_replace_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    points = [
        EntryPoint("scale", "helpers.example_passes:Scale", registry.GROUP),
        EntryPoint("clean", "helpers.example_passes:Scale", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.GROUP else [])
    assert str(parse_pipeline("scale{factor=3}")[0]) == "scale{factor=3.0}"
    assert parse_pipeline("clean") == (Clean(),)
    assert "scale" in registry.names()


def test_passes_pickle_and_hash() -> None:
    passes = parse_pipeline("options{label=x,layers=[a,b]},clean")
    assert pickle.loads(pickle.dumps(passes)) == passes
    assert len({*passes, *parse_pipeline("options{label=x,layers=[a,b]},clean")}) == 2
    assert pipeline.print_pipeline(passes) == "options{label=x,layers=[a,b]},clean"
