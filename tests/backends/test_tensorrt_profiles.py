import pytest
from helpers import tensorrt_models as models
from hypothesis import given
from hypothesis import strategies as st

from secateur.backends.tensorrt import BuildOptions, Profile, ProfileError, ShapeRange, build, parse_shape
from secateur.backends.tensorrt.profiles import NetworkInput, check_profiles

X = NetworkInput("x", "float", (-1, 8, 16, 16), ("N", "", "", ""), is_shape=False)
FIXED = NetworkInput("f", "half", (3, 4), ("", ""), is_shape=False)
SHAPE = NetworkInput("s", "int64", (2,), ("",), is_shape=True)


def profile(*texts: str) -> Profile:
    return Profile(tuple(map(parse_shape, texts)))


def test_one_shape_stands_for_all_three():
    assert parse_shape("x=1x2") == ShapeRange("x", (1, 2), (1, 2), (1, 2))
    assert parse_shape("x=1x2,3x4,5x6") == ShapeRange("x", (1, 2), (3, 4), (5, 6))
    assert parse_shape("a=b=7").input == "a=b"


@given(st.text(min_size=1), st.lists(st.tuples(*[st.integers(-9, 99)] * 3), min_size=1, max_size=5))
def test_printed_shapes_parse_back(name, sizes):
    low, best, high = zip(*map(sorted, sizes), strict=True)
    made = ShapeRange(name, low, best, high)
    assert parse_shape(str(made)) == made


@pytest.mark.parametrize("text", ["", "x", "=1x2", "x=", "x=1x2,3x4", "x=1xa", "x=1x2,3x4,5x6,7x8", "x=1,,2"])
def test_unreadable_shape_shows_the_form(text):
    with pytest.raises(ProfileError, match="cannot read the shape") as caught:
        parse_shape(text)
    assert "NAME=MIN,OPT,MAX" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x=4x8,2x8,8x8", ("axis 0", "4, 2, 8")),
        ("x=1x8,2x8,4x6", ("axis 1", "8, 8, 6")),
        ("x=-1x8,-2x8,4x8", ("axis 0", "-1, -2")),
        ("x=1x8,2x8x1,4x8", ("2 dimensions", "3")),
    ],
)
def test_range_out_of_order_names_input_and_axis(text, words):
    with pytest.raises(ProfileError) as caught:
        parse_shape(text)
    assert caught.value.input == "x"
    for word in ("'x'", *words):
        assert word in str(caught.value)


def test_input_named_twice():
    with pytest.raises(ProfileError, match="'x' is named 2 times"):
        profile("x=1", "x=2")


@pytest.mark.parametrize(
    ("texts", "name", "words"),
    [
        (("y=1x8x16x16", "x=1x8x16x16"), "y", ("no input 'y'", "x float[N, 8, 16, 16]")),
        ((), "x", ("does not say the size of input x",)),
        (("x=1x8x16",), "x", ("expected 4 dimensions", "found 3")),
        (("x=1x3x16x16",), "x", ("axis 1 is fixed at 8", "found 3")),
        (("x=1x8x16x16,2x8x16x16,4x8x16x32",), "x", ("axis 3 is fixed at 16", "found 32")),
        (("x=1x8x16x16", "f=3x5"), "f", ("f half[3, 4]", "axis 1 is fixed at 4", "found 5")),
    ],
)
def test_profile_that_does_not_fit_names_expected_and_found(texts, name, words):
    with pytest.raises(ProfileError) as caught:
        check_profiles([X, FIXED], [profile(*texts)])
    assert caught.value.input == name
    for word in words:
        assert word in str(caught.value)


def test_every_profile_is_checked():
    good = profile("x=1x8x16x16")
    with pytest.raises(ProfileError, match="fixed at 8"):
        check_profiles([X], [good, profile("x=1x9x16x16")])


def test_no_profile_says_which_inputs_need_one_and_the_remedy():
    with pytest.raises(ProfileError) as caught:
        check_profiles([FIXED, X, SHAPE], [])
    assert "x float[N, 8, 16, 16]; s int64[2]" in str(caught.value)
    assert '--shape "x=1x8x16x16,4x8x16x16,8x8x16x16" --shape "s=1x1,4x4,8x8"' in (caught.value.hint or "")
    check_profiles([FIXED], [])


def test_remedy_is_accepted_when_followed():
    with pytest.raises(ProfileError) as caught:
        check_profiles([X, SHAPE], [])
    texts = (caught.value.hint or "").split('"')[1::2]
    check_profiles([X, SHAPE], [profile(*texts)])


def test_sizes_are_not_negative_but_values_may_be():
    with pytest.raises(ProfileError, match=r"axis 0: expected a size of 0 or more, found -1") as caught:
        check_profiles([X], [profile("x=-1x8x16x16,2x8x16x16,4x8x16x16")])
    assert caught.value.input == "x"
    check_profiles([SHAPE], [profile("s=-1x6")])


def test_shape_input_takes_values():
    check_profiles([SHAPE], [profile("s=1x24,4x24,6x24")])
    with pytest.raises(ProfileError, match="expected 2 values, found 3"):
        check_profiles([SHAPE], [profile("s=1x2x3")])


def test_one_dimension_name_is_one_size():
    other = NetworkInput("z", "float", (5, -1), ("", "N"), is_shape=False)
    check_profiles([X, other], [profile("x=1x8x16x16,2x8x16x16,4x8x16x16", "z=5x1,5x2,5x4")])
    with pytest.raises(ProfileError, match="'N' is 1,2,4 in input 'x', but 1,3,4 here") as caught:
        check_profiles([X, other], [profile("x=1x8x16x16,2x8x16x16,4x8x16x16", "z=5x1,5x3,5x4")])
    assert caught.value.input == "z"


class TestWithBuilder:
    """The signature comes from the real parser, and what passes the check passes the builder."""

    @pytest.fixture(autouse=True)
    def _rtx(self):
        pytest.importorskip("tensorrt_rtx")

    def run(self, folder, proto, *profiles):
        options = BuildOptions(flavor="tensorrt-rtx", compute_capabilities=("8.9",), profiles=profiles)
        return build(models.save(folder / "model.onnx", proto), folder / "out.engine", options)

    def test_dynamic_model_without_profile(self, tmp_path):
        with pytest.raises(ProfileError, match=r"x float\[N, 8, 16, 16\]"):
            self.run(tmp_path, models.conv(batch="N"))
        assert not (tmp_path / "out.engine").exists()

    def test_dynamic_model_with_one_and_with_two_profiles(self, tmp_path):
        small, large = profile("x=1x8x16x16"), profile("x=4x8x16x16,8x8x16x16,16x8x16x16")
        assert self.run(tmp_path, models.conv(batch="N"), small).profiles == (small,)
        assert self.run(tmp_path, models.conv(batch="N"), small, large).profiles == (small, large)

    def test_fixed_input_may_be_named(self, tmp_path):
        assert self.run(tmp_path, models.conv(), profile("x=1x8x16x16")).bytes
        assert self.run(tmp_path, models.two_inputs(["N", 6], [1, 6]), profile("a=1x6,2x6,4x6", "b=1x6")).bytes

    def test_unknown_name(self, tmp_path):
        with pytest.raises(ProfileError, match="no input 'nix'"):
            self.run(tmp_path, models.conv(batch="N"), profile("x=1x8x16x16", "nix=1"))

    def test_shape_tensor_input(self, tmp_path):
        assert self.run(tmp_path, models.reshape(), profile("shape=1x1,4x6,24x24")).bytes
        assert self.run(tmp_path, models.reshape(), profile("shape=-1x6")).bytes
        with pytest.raises(ProfileError, match="expected 2 values"):
            self.run(tmp_path, models.reshape(), profile("shape=24"))

    def test_shared_dimension_name_is_read_from_the_model(self, tmp_path):
        proto = models.two_inputs(["N", 6], ["N", 6])
        assert self.run(tmp_path, proto, profile("a=1x6,2x6,4x6", "b=1x6,2x6,4x6")).bytes
        with pytest.raises(ProfileError, match="dimension 'N'"):
            self.run(tmp_path, proto, profile("a=1x6,2x6,4x6", "b=1x6,3x6,4x6"))
