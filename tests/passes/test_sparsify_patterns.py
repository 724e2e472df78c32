"""Patterns: what they say, what they keep, and that text gives them back."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from secateur.calib.solvers.column_sweep import column_sweep, factor
from secateur.passes.sparsify.patterns import Dense, Neighbours, Pattern, Share, parse_named, parse_pattern

PATTERNS = ["2:4", "1:4", "4:8", "3:4", "1:2", "50%", "37.5%", "90%", "dense"]
_MATRICES = nps.arrays(np.float32, (3, 16), elements=st.floats(0, 4, width=16))


@pytest.mark.parametrize("text", PATTERNS)
def test_text_gives_a_pattern_back(text: str) -> None:
    assert str(parse_pattern(text)) == text


@pytest.mark.parametrize("text", ["", "2", "4:2", "4:4", "0:4", "0%", "100%", "120%", "-5%", "half", "2:4:8", "50"])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"N:M|share|pattern"):
        parse_pattern(text)


def test_names_may_hold_colons() -> None:
    assert parse_named("model::down*:2:4") == ("model::down*", Neighbours(2, 4))
    assert parse_named("*head*:dense") == ("*head*", Dense())
    assert parse_named("*:60%", "row") == ("*", Share(Fraction(3, 5), "row"))
    for text in ("dense", "*head*", ":2:4", "*head*:sparse"):
        with pytest.raises(ValueError, match="pattern"):
            parse_named(text)


@settings(deadline=None, derandomize=True)
@given(_MATRICES, st.sampled_from([text for text in PATTERNS if text != "dense"]), st.sampled_from(["layer", "row"]))
def test_a_mask_holds_the_pattern_and_keeps_as_many_as_it_may(saliency: np.ndarray, text: str, scope: str) -> None:
    pattern = parse_pattern(text, scope)  # type: ignore[arg-type]
    mask = pattern.mask(saliency)
    assert pattern.holds(mask * (saliency + 1))
    # One more anywhere would be one too many.
    flat = mask.reshape(-1)
    for place in np.flatnonzero(~flat)[:5]:
        more = flat.copy()
        more[place] = True
        assert not pattern.holds(more.reshape(mask.shape) * (saliency + 1))


def test_shares_are_whole_numbers_of_the_layer_or_of_each_row() -> None:
    saliency = np.arange(30.0).reshape(3, 10)
    assert (~parse_pattern("33%").mask(saliency)).sum() == 9
    assert (~parse_pattern("33%", "row").mask(saliency)).sum(axis=1).tolist() == [3, 3, 3]
    assert (~parse_pattern("50%").mask(saliency)).sum(axis=1).tolist() == [10, 5, 0]


@pytest.mark.parametrize("text", [text for text in PATTERNS if text != "dense"])
def test_a_sweep_leaves_the_pattern(text: str) -> None:
    random = np.random.default_rng(0)
    rows, weight = random.normal(size=(50, 16)), random.normal(size=(6, 16))
    pattern: Pattern = parse_pattern(text)
    swept = column_sweep(weight, factor(rows.T @ rows), pattern.choose())
    assert pattern.holds(swept.weight)


def test_zeros_are_counted() -> None:
    assert [parse_pattern(text).zeros for text in ("2:4", "1:4", "37.5%", "dense")] == [0.5, 0.75, 0.375, 0.0]
    assert Neighbours(2, 4).misfit(6) is not None
    assert Neighbours(2, 4).misfit(8) is None
    assert Share(Fraction(1, 2)).misfit(7) is None
