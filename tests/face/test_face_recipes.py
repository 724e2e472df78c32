"""Recipe files mean what the pipeline text means, and say where they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.ir.errors import TextError
from secateur.passes.pipeline import parse_pipeline, print_pipeline
from secateur.recipes import Recipe, recipe_of


def load(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return Recipe.load(path)


def test_a_file_is_the_text_in_other_words(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        """
        version: 1
        seed: 7
        clean: false
        data: {batch_size: 4, limit: 20}
        passes:
          - clean
          - prune: {ratio: 0.25}
          - sparsify:
              pattern: 2:4
              worthwhile: false
          - quantize:
        """,
    )
    text = "clean,prune{ratio=0.25},sparsify{pattern=2:4,worthwhile=false},quantize"
    assert recipe.passes == parse_pipeline(text)
    assert (recipe.seed, recipe.clean, recipe.data.batch_size, recipe.data.limit) == (7, False, 4, 20)


def test_what_yaml_would_read_as_another_number_stays_as_written(tmp_path: Path) -> None:
    # YAML 1.1 reads 2:4 as 124 and 1:2 as 62.
    assert load(tmp_path, "version: 1\npasses: [sparsify: {pattern: 1:2}]").pipeline == "sparsify{pattern=1:2}"


def test_json_is_yaml(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text('{"version": 1, "passes": [{"prune": {"ratio": 0.25}}]}')
    assert recipe_of(str(path)).pipeline == "prune{ratio=0.25}"


def test_every_form_gives_the_same_recipe(tmp_path: Path) -> None:
    text = "prune{ratio=0.25},quantize"
    (tmp_path / "r.yaml").write_text("version: 1\npasses: [prune: {ratio: 0.25}, quantize]")
    forms = [text, tmp_path / "r.yaml", str(tmp_path / "r.yaml"), parse_pipeline(text), Recipe(pipeline=text)]
    assert {recipe_of(form).pipeline for form in forms} == {print_pipeline(parse_pipeline(text))}


WRONG = {
    "version: 2\npasses: [clean]": ("line 1: version: expected '1', found '2'", "version: 1"),
    "passes: [clean]": ("the field 'version' is missing", "version: 1"),
    "version: 1": ("the field 'passes' is missing", "prune"),
    "version: 1\npasses: []": ("line 2: passes: expected at least one pass", "prune"),
    "version: 1\npasses: clean": ("line 2: passes: expected a valid list, found 'clean'", "prune"),
    "version: 1\nsed: 3\npasses: [clean]": ("line 2: there is no field 'sed'", "seed"),
    "version: 1\ndata: {batchsize: 3}\npasses: [clean]": ("line 2: there is no field 'batchsize'", "batch_size"),
    "version: 1\ndata: {limit: 0}\npasses: [clean]": ("line 2: data.limit: expected greater than 0, found '0'", ""),
    "version: 1\nseed: x\npasses: [clean]": ("line 2: seed: expected", "seed: 0"),
    "version: 1\npasses:\n- clean\n- prun: {}": ("line 4: there is no pass 'prun'", "prune"),
    "version: 1\npasses:\n- prune: {ratoi: 1}": ("line 3: prune has no option 'ratoi'", "ratio"),
    "version: 1\npasses:\n- prune: {ratio: high}": ("line 3: prune: ratio: expected a number, found 'high'", ""),
    "version: 1\npasses:\n- prune: {ratio: {a: b}}": ("line 3: prune: ratio: expected a value", ""),
    "version: 1\npasses:\n- prune: 3": ("line 3: prune: expected options, found '3'", ""),
    "version: 1\npasses:\n- {prune: {}, clean: {}}": ("line 3: expected the name of a pass", "dash"),
    "version: 1\npasses:\n- [prune]": ("line 3: expected the name of a pass", "dash"),
    "- clean": ("line 1: expected fields, found a list", "version: 1"),
    "": ("the field 'version' is missing", ""),
    "{": ("line 1, column 2", "YAML"),
    "version: 1\nversion: 1": ("line 2: 'version' is given twice", ""),
    "a: &a [1]\nb: *a": ("line 1: an anchor is used twice", ""),
    "[" * 5000: ("nested too deeply", ""),
    "\x00": ("is no text", ""),
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: repr(text[:40]))
def test_mistakes_are_found_with_their_place(tmp_path: Path, text: str) -> None:
    message, hint = WRONG[text]
    with pytest.raises(TextError) as caught:
        load(tmp_path, text)
    assert message in caught.value.message
    assert "recipe.yaml" in caught.value.message
    assert hint in (caught.value.hint or "")


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="No such file"):
        recipe_of(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(TextError, match="is no text"):
        recipe_of(tmp_path / "binary.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(TextError, match="larger than 1 MiB"):
        recipe_of(tmp_path / "large.yaml")
    with pytest.raises(TextError, match="cannot read"):
        recipe_of(tmp_path)


@pytest.mark.parametrize("empty", ["", "  ", []])
def test_empty_recipes_are_refused(empty: str | list[object]) -> None:
    with pytest.raises(TextError, match="the recipe is empty"):
        recipe_of(empty)  # type: ignore[arg-type]


def test_lists_of_anything_else_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="has a str"):
        recipe_of(["clean"])  # type: ignore[list-item]
