"""Sources: every kind of data gives the same samples, again and again; what cannot be used is refused by name."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.batches import Batch, Source
from secateur.calib.sources import open_source
from secateur.ir.errors import DataError

IMAGES = np.arange(10 * 6, dtype=np.float32).reshape(10, 2, 3)
TOKENS = np.arange(10, dtype=np.int64).reshape(10, 1)
BOTH: dict[str, Any] = {"image": IMAGES, "token": TOKENS}


def samples(source: Source, name: str = "image") -> np.ndarray[Any, Any]:
    """All samples of two walks, which must agree."""
    first = [batch.feeds[name] for batch in source]
    second = [batch.feeds[name] for batch in source]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    return np.concatenate(first)


class Tensor:
    """What a torch tensor looks like from outside."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> np.ndarray[Any, Any]:
        return self._array


class Loader:
    """What a DataLoader looks like from outside: iterable, not an iterator."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def _npz(folder: Path, compressed: bool) -> Path:
    path = folder / "data.npz"
    (np.savez_compressed if compressed else np.savez)(path, **BOTH)
    return path


def _npy_per_input(folder: Path) -> Path:
    for name, array in BOTH.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def _npz_per_batch(folder: Path) -> Path:
    for index in range(10):
        part = slice(index, index + 1)
        np.savez(folder / f"batch{index + 1}.npz", **{name: array[part] for name, array in BOTH.items()})
    return folder


def _function(_: Path) -> object:
    def batches() -> Iterator[dict[str, Any]]:
        for index in range(0, 10, 5):
            yield {name: array[index : index + 5] for name, array in BOTH.items()}

    return batches


KINDS: dict[str, Callable[[Path], object]] = {
    "npz": lambda folder: _npz(folder, compressed=False),
    "npz_compressed": lambda folder: str(_npz(folder, compressed=True)),
    "npy_per_input": _npy_per_input,
    "npz_per_batch": _npz_per_batch,
    "mapping": lambda _: BOTH,
    "tensors": lambda _: {name: Tensor(array) for name, array in BOTH.items()},
    "list": lambda _: [BOTH],
    "tuples_with_labels": lambda _: [(IMAGES[:4], TOKENS[:4], "cat"), (IMAGES[4:], TOKENS[4:], "dog")],
    "loader": lambda _: Loader([{name: Tensor(array) for name, array in BOTH.items()}]),
    "function": _function,
    "source": lambda _: open_source(BOTH),
}


@pytest.mark.parametrize("batch_size", [None, 1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_all_samples_in_order(kind: str, batch_size: int | None, tmp_path: Path) -> None:
    source = open_source(KINDS[kind](tmp_path), batch_size, input_names=["image", "token"])
    assert np.array_equal(samples(source), IMAGES)
    assert np.array_equal(samples(source, "token"), TOKENS)
    if batch_size is not None:
        sizes = [batch.samples for batch in source]
        assert sizes[:-1] == [batch_size] * (len(sizes) - 1)


def test_unnamed_arrays_are_the_only_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "unnamed.npz", IMAGES)
    np.savez(tmp_path / "x.npz", x=IMAGES)
    np.save(tmp_path / "one.npy", IMAGES)
    (tmp_path / "folder").mkdir()
    for index in range(10):
        np.save(tmp_path / "folder" / f"{index + 1}.npy", IMAGES[index : index + 1])
    kinds: list[object] = [tmp_path / name for name in ("unnamed.npz", "x.npz", "one.npy", "folder")]
    for data in [*kinds, IMAGES, Tensor(IMAGES), [IMAGES], [Tensor(IMAGES)], [(IMAGES, "label")]]:
        assert np.array_equal(samples(open_source(data, input_names=["pixels"]), "pixels"), IMAGES)


def test_an_unnamed_array_is_not_guessed() -> None:
    with pytest.raises(DataError, match="2 inputs: a, b"):
        open_source(IMAGES, input_names=["a", "b"])
    with pytest.raises(DataError, match="input_names were not given"):
        list(open_source([IMAGES]))
    # A name that is no placeholder was meant: check_batch will say that it is wrong.
    assert "other" in next(iter(open_source({"other": IMAGES}, input_names=["pixels"]))).feeds


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    weights=st.lists(st.sampled_from([1.0, 2.0]), min_size=6, max_size=6),
    batch_size=st.none() | st.integers(1, 9),
    limit=st.none() | st.integers(1, 30),
)
def test_cutting_keeps_samples_order_and_weights(
    sizes: list[int], weights: list[float], batch_size: int | None, limit: int | None
) -> None:
    edges = np.cumsum([0, *sizes])
    data = [
        Batch({"x": np.arange(start, stop)[:, None]}, weight)
        for start, stop, weight in zip(edges[:-1], edges[1:], weights, strict=False)
    ]
    batches = list(open_source(data, batch_size, limit))
    got = np.concatenate([batch.feeds["x"][:, 0] for batch in batches])
    wanted = np.arange(edges[-1])[:limit]
    assert np.array_equal(got, wanted)
    assert np.array_equal(
        np.concatenate([np.full(len(batch.feeds["x"]), batch.weight) for batch in batches]),
        np.repeat(weights[: len(sizes)], sizes)[:limit],
    )
    if batch_size is not None:
        assert all(len(batch.feeds["x"]) <= batch_size for batch in batches)


def test_sample_weights_never_share_a_batch(tmp_path: Path) -> None:
    weights = np.array([1, 1, 1, 2, 2, 0.5, 0.5, 0.5, 0.5, 0.5])
    np.savez(tmp_path / "weighted.npz", image=IMAGES, __weight__=weights)
    for data in (tmp_path / "weighted.npz", {"image": IMAGES, "__weight__": weights}):
        for batch_size in (None, 1, 4):
            batches = list(open_source(data, batch_size))
            got = np.concatenate([np.full(batch.samples or 0, batch.weight) for batch in batches])
            assert np.array_equal(got, weights)
            assert all("__weight__" not in batch.feeds for batch in batches)
    (whole,) = open_source([{"image": IMAGES, "__weight__": 3}])
    assert whole.weight == 3.0


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.ones(3), "heavy"])
def test_bad_weights_are_refused(weight: Any) -> None:
    with pytest.raises(DataError, match="__weight__"):
        list(open_source([{"image": IMAGES, "__weight__": weight}]))
    with pytest.raises(DataError, match="__weight__"):
        list(open_source({"image": IMAGES, "__weight__": weight}))


def test_scalars_go_with_every_batch_and_keep_batches_apart() -> None:
    step = np.array(0.5)
    assert all(batch.feeds["step"] == 0.5 for batch in open_source({"image": IMAGES, "step": step}, 3))
    data = [{"image": IMAGES[:3], "step": 1}, {"image": IMAGES[3:6], "step": 2}]
    cut = [(batch.samples, int(batch.feeds["step"])) for batch in open_source(data, 2)]
    assert cut == [(2, 1), (1, 1), (2, 2), (1, 2)]


def test_inputs_without_a_batch_axis_pass_as_they_are() -> None:
    feeds = {"tokens": np.zeros((1, 7)), "state": np.zeros((2, 1, 3))}
    (batch,) = open_source([feeds])
    assert batch.samples is None
    with pytest.raises(DataError, match="no common axis 0"):
        list(open_source([feeds], batch_size=1))
    with pytest.raises(DataError, match="equally many samples"):
        open_source(feeds)


def test_drop_last_leaves_out_the_rest() -> None:
    assert [batch.samples for batch in open_source(BOTH, 4, drop_last=True)] == [4, 4]
    with pytest.raises(DataError, match="fewer than 16"):
        list(open_source(BOTH, 16, drop_last=True))


def test_a_generator_is_refused_and_a_function_is_not() -> None:
    generator = (batch for batch in [BOTH])
    with pytest.raises(DataError, match="only once"):
        open_source(generator)
    source = open_source(lambda: generator)
    assert len(list(source)) == 1
    with pytest.raises(DataError, match="does not repeat itself"):
        list(source)


def test_a_shuffling_loader_is_noticed() -> None:
    class Shuffling(Loader):
        def __iter__(self) -> Iterator[Any]:
            self.items = self.items[1:] + self.items[:1]
            return iter(self.items)

    source = open_source(Shuffling([{"image": IMAGES[:3]}, {"image": IMAGES[3:]}]))
    list(source)
    with pytest.raises(DataError, match=r"the Shuffling does not repeat itself.*item 0"):
        list(source)
    growing = [BOTH]
    source = open_source(growing)
    list(source)
    growing.append(BOTH)
    with pytest.raises(DataError, match="had 1 items before, and now has more"):
        list(source)


@pytest.mark.parametrize("data", [[], {}, {"x": np.zeros((0, 3))}, lambda: []])
def test_empty_data_is_refused(data: object) -> None:
    with pytest.raises(DataError, match="no samples"):
        list(open_source(data))


def test_an_empty_or_mixed_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.npy or \.npz"):
        open_source(tmp_path)
    _npz(tmp_path, compressed=False)
    _npy_per_input(tmp_path)
    with pytest.raises(DataError, match="both"):
        open_source(tmp_path)


def test_a_folder_of_unnamed_batches_takes_one_input_and_no_weights(tmp_path: Path) -> None:
    np.save(tmp_path / "1.npy", IMAGES)
    with pytest.raises(DataError, match=r"1\.npy is not the name of an input.*2 inputs: a, b"):
        open_source(tmp_path, input_names=["a", "b"])
    np.save(tmp_path / "__weight__.npy", np.ones(10))
    with pytest.raises(DataError, match="cannot weigh"):
        open_source(tmp_path, input_names=["a"])
    (tmp_path / "1.npy").rename(tmp_path / "a.npy")
    assert next(iter(open_source(tmp_path, input_names=["a"]))).weight == 1.0


def test_missing_and_unknown_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(DataError, match="no such file"):
        open_source(tmp_path / "gone.npz")
    with pytest.raises(DataError, match="unknown kind of file"):
        open_source(tmp_path / "data.csv")
    with pytest.raises(DataError, match="int is no calibration data"):
        open_source(3)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.98])
def test_a_file_that_is_cut_short_is_refused(keep: float, compressed: bool, tmp_path: Path) -> None:
    path = _npz(tmp_path, compressed)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(DataError, match=r"data\.npz cannot be read"):
        list(open_source(path))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("place", [0.02, 0.1, 0.5, 0.9])
def test_a_damaged_file_is_refused(place: float, compressed: bool, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    (np.savez_compressed if compressed else np.savez)(path, image=np.random.default_rng(0).normal(size=1000))
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz cannot be read"):
        list(open_source(path))


def test_a_member_that_is_not_as_long_as_its_header_says_is_refused(tmp_path: Path) -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (9, 4)})
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive:
        archive.writestr("image.npy", member.getvalue() + b"\0" * 64)
    with pytest.raises(DataError, match="cut short"):
        list(open_source(tmp_path / "short.npz"))
    with zipfile.ZipFile(tmp_path / "long.npz", "w") as archive:
        archive.writestr("image.npy", member.getvalue() + b"\0" * 160)
    with pytest.raises(DataError, match="longer than its header"):
        list(open_source(tmp_path / "long.npz"))


def test_pickles_are_refused(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}, None], dtype=object)
    np.savez(tmp_path / "data.npz", image=objects)
    np.save(tmp_path / "data.npy", objects)
    for data in (tmp_path / "data.npz", tmp_path / "data.npy"):
        with pytest.raises(DataError, match="Python objects"):
            open_source(data, input_names=["image"])
    with pytest.raises(DataError, match="Python objects"):
        open_source({"image": objects})
    with pytest.raises(DataError, match="no array of numbers"):
        list(open_source([{"image": [[1, 2], [3]]}]))


def test_column_major_members_are_read_right(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", image=np.asfortranarray(IMAGES))
    np.save(tmp_path / "image.npy", np.asfortranarray(IMAGES))
    assert np.array_equal(samples(open_source(tmp_path / "data.npz")), IMAGES)
    assert np.array_equal(samples(open_source(tmp_path / "image.npy", input_names=["image"])), IMAGES)


def test_archives_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _npz(tmp_path, compressed=True)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("the archive was read as a whole"))
    assert np.array_equal(samples(open_source(path, 3)), IMAGES)


def test_nonsense_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        open_source(BOTH, 0)
    with pytest.raises(ValueError, match="limit"):
        open_source(BOTH, limit=0)


def test_a_real_torch_loader() -> None:
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(IMAGES), torch.arange(10))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    source = open_source(loader, input_names=["image"])
    assert source.name == "the DataLoader"
    assert np.array_equal(samples(source), IMAGES)
    with pytest.raises(DataError, match="does not repeat itself"):
        samples(open_source(torch.utils.data.DataLoader(data, batch_size=1, shuffle=True), input_names=["image"]))
