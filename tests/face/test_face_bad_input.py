"""Whatever is wrong: one clear error that names the thing and the remedy, a non-zero exit, and nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.face_models import Cli, Ran, make_graph

import secateur as sc
from secateur.ir.build import emit
from secateur.ir.errors import BackendError

PIPELINE = "prune{ratio=0.5},quantize"
SECATEUR = Path(sys.executable).with_name("secateur")
Files = Callable[[], set[str]]


def check(ran: Ran, *words: str, code: int = 1, hint: bool = True) -> None:
    """One error of one kind, with these words in it."""
    lines = ran.err.splitlines()
    assert ran.code == code
    assert ran.out == ""
    assert [line for line in lines if line.startswith("error: ")] == lines[:1]
    assert all(word in ran.err for word in words), ran.err
    assert "Traceback" not in ran.err
    assert "internal" not in ran.err
    assert any(line.startswith("hint: ") for line in lines) == hint


# ---- models ---------------------------------------------------------------------------------------------------------


def damaged(model: Path, how: str) -> None:
    whole = model.read_bytes()
    contents = {
        "empty": b"",
        "text": b"This is not a model.\n" * 50,
        "random": np.random.default_rng(0).bytes(4000),
        "zeros": bytes(4000),
        "half": whole[: len(whole) // 2],
        "a byte short": whole[:-1],
    }
    model.write_bytes(contents[how])


@pytest.mark.parametrize("how", ["empty", "text", "random", "zeros", "half", "a byte short"])
@pytest.mark.parametrize("command", ["inspect", "print"])
def test_damaged_models(cli: Cli, model: Path, command: str, how: str) -> None:
    damaged(model, how)
    check(cli(command, model), "model.onnx")


def test_models_that_are_not_there(cli: Cli, tmp_path: Path) -> None:
    check(cli("inspect", tmp_path / "none.onnx"), "none.onnx", "No such file")
    check(cli("inspect", tmp_path), str(tmp_path))


@pytest.fixture
def external(tmp_path: Path) -> Path:
    path = tmp_path / "external.onnx"
    make_graph().save(path, external_data=True)
    return path


def data_file(external: Path) -> Path:
    [found] = [path for path in external.parent.iterdir() if path.name.startswith("external.onnx") and path != external]
    return found


def test_missing_external_data(cli: Cli, external: Path) -> None:
    data = data_file(external)
    data.unlink()
    check(cli("inspect", external), data.name)


def test_short_external_data(cli: Cli, external: Path) -> None:
    data = data_file(external)
    os.truncate(data, data.stat().st_size - 1)
    check(cli("inspect", external), data.name, "short")


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """A model that begins with an op that nobody knows."""
    graph = make_graph()
    [value] = graph.inputs
    made = emit(graph, "Mystery", [value], outputs=["z"])
    graph.replace_all_uses(value, made.output)
    graph.set_inputs(made, [value])
    made.output.type = value.type
    path = tmp_path / "strange.onnx"
    graph.save(path)
    return path


def test_ops_that_the_runtime_does_not_know(cli: Cli, strange: Path, calib: Path, tmp_path: Path, files: Files) -> None:
    before = files()
    assert "Mystery" in cli("inspect", strange).out
    check(cli("compare", strange, strange, "--data", calib), "Mystery")
    check(cli("compress", strange, "--recipe", "quantize", "--data", calib, "-o", tmp_path / "o.onnx"), "Mystery")
    assert files() == before


def test_ops_that_tensorrt_does_not_know(cli: Cli, strange: Path, tmp_path: Path, files: Files) -> None:
    pytest.importorskip("tensorrt_rtx")
    before = files()
    check(cli("build", strange, "-o", tmp_path / "e", "--shape", "x=1x3x8x8"), "Mystery", code=4)
    assert files() == before


# ---- data -----------------------------------------------------------------------------------------------------------

GOOD = np.random.default_rng(3).normal(size=(6, 3, 8, 8)).astype(np.float32)
BAD_DATA = {
    "another name": ({"image": GOOD}, ["lacks x", "image"]),
    "one array too many": ({"x": GOOD, "mask": GOOD}, ["mask"]),
    "rank": ({"x": GOOD[0]}, ["'x'", "[3, 8, 8]", "rank 4"]),
    "size": ({"x": GOOD[:, :2]}, ["'x'", "size 2 on axis 1, expected 3"]),
    "type": ({"x": (GOOD * 100).astype(np.uint8)}, ["'x'", "uint8", "float32"]),
    "text": ({"x": np.array(["cat", "dog"])}, ["'x'"]),
    "nan": ({"x": np.where(np.arange(6).reshape(-1, 1, 1, 1) == 5, np.nan, GOOD)}, ["'x'", "NaN or infinite"]),
    "infinity": ({"x": np.full_like(GOOD, np.inf)}, ["'x'", "NaN or infinite"]),
    "beyond float32": ({"x": np.full(GOOD.shape, 1e300)}, ["'x'", "range of float32"]),
    "empty": ({"x": GOOD[:0]}, ["no samples"]),
    "nothing": ({}, ["bad.npz"]),
}


@pytest.mark.parametrize("what", BAD_DATA)
def test_data_that_does_not_fit(cli: Cli, model: Path, tmp_path: Path, files: Files, what: str) -> None:
    arrays, words = BAD_DATA[what]
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    before = files()
    check(cli("compress", model, "--recipe", PIPELINE, "--data", path, "-o", tmp_path / "o.onnx"), "bad.npz", *words)
    assert files() == before


def test_data_files_that_cannot_be_read(cli: Cli, model: Path, calib: Path, tmp_path: Path) -> None:
    def compress(data: Path) -> Ran:
        return cli("compress", model, "--recipe", PIPELINE, "--data", data, "-o", tmp_path / "o.onnx")

    whole = calib.read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "folder").mkdir()
    (tmp_path / "data.csv").touch()
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    check(compress(tmp_path / "none.npz"), "none.npz", "no such file")
    for name in ("cut.npz", "text.npz", "folder", "data.csv", "pickled.npy"):
        check(compress(tmp_path / name), name)
    assert not (tmp_path / "o.onnx").exists()


def test_labels_that_do_not_fit(cli: Cli, model: Path, calib: Path, tmp_path: Path) -> None:
    def compare(labels: Path) -> Ran:
        return cli("compare", model, model, "--data", calib, "--repeats", 0, "--labels", labels)

    np.save(tmp_path / "short.npy", np.arange(3))
    np.save(tmp_path / "floats.npy", np.zeros(24))
    np.save(tmp_path / "square.npy", np.zeros((24, 10), np.int64))
    (tmp_path / "text.npy").write_text("cat")
    check(compare(tmp_path / "none.npy"), "none.npy")
    check(compare(tmp_path / "short.npy"), "3 labels for 24 samples")
    check(compare(tmp_path / "floats.npy"), "labels are float64")
    check(compare(tmp_path / "square.npy"), "[24, 10]")
    check(compare(tmp_path / "text.npy"), "text.npy")


# ---- recipes and options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("prunee", ["there is no pass 'prunee'", "did you mean prune"]),
        ("prune{ratoi=0.5}", ["prune has no option 'ratoi'", "did you mean ratio"]),
        ("prune{ratio=lots}", ["expected a number, found 'lots'"]),
        ("prune{ratio=7}", ["prune", "ratio"]),
        ("prune{ratio=0.5", ["expected", "found the end"]),
        ("", ["the recipe is empty"]),
        ("none.yaml", ["cannot read the recipe none.yaml"]),
    ],
)
def test_recipes_that_make_no_sense(
    cli: Cli, model: Path, calib: Path, tmp_path: Path, recipe: str, words: list[str]
) -> None:
    ran = cli("compress", model, "--recipe", recipe, "--data", calib, "-o", tmp_path / "o.onnx")
    hint = not recipe.startswith(("prune{ratio",))
    check(ran, *words, hint=hint)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["inspect"],
        ["inspect", "m.onnx", "--nonsense"],
        ["compress", "m.onnx"],
        ["build", "m.onnx", "-o", "e", "--target", "cuda"],
        ["compress", "m.onnx", "--recipe", "clean", "-o", "o", "--seed", "high"],
    ],
)
def test_mistakes_on_the_command_line(cli: Cli, arguments: list[str]) -> None:
    check(cli(*arguments), "--help", code=2)
    found = cli(*arguments, "--json")
    assert (found.code, set(found.json), found.err) == (2, {"error", "hint"}, "")


def test_shapes_that_make_no_sense(cli: Cli, model: Path, tmp_path: Path, files: Files) -> None:
    pytest.importorskip("tensorrt_rtx")
    before = files()

    def build(*arguments: str) -> Ran:
        return cli("build", model, "-o", tmp_path / "e", *arguments)

    check(build(), "x float[N, 3, 8, 8]", code=4)
    check(build("--shape", "x=axb"), "cannot read the shape")
    check(build("--shape", "x=1x3x8x8", "--shape", "x=1x3x8x8"), "'x'", "2 times", hint=False)
    check(build("--shape", "image=1x3x8x8"), "no input 'image'", hint=False, code=4)
    check(build("--shape", "x=1x3x8x8", "--compute-capability", "1.0"), "1.0", code=4)
    assert files() == before


# ---- outputs --------------------------------------------------------------------------------------------------------


def test_outputs_that_cannot_be_written(cli: Cli, model: Path, calib: Path, tmp_path: Path, files: Files) -> None:
    before = files()

    def compress(output: object, *more: object) -> Ran:
        return cli("compress", model, "--recipe", PIPELINE, "--data", calib, "-o", output, *more)

    check(compress(tmp_path / "none" / "o.onnx"), "none is not a folder")
    check(compress(model / "o.onnx"), "model.onnx is not a folder")
    check(compress(tmp_path), "it is a folder")
    check(compress("/dev/full"), "/dev/full", "not a regular file")
    check(compress(tmp_path / "o.onnx", "--report", model), "cannot make the folder")
    check(compress(tmp_path / "o.onnx", "--manifest", tmp_path / "none" / "m.json"), "none is not a folder")
    check(compress(tmp_path / "o", "--manifest", tmp_path / "o"), "two outputs have the same path", code=2)
    # A folder that could be made before something else went wrong is not left behind either.
    check(compress(tmp_path / "o.onnx", "--report", tmp_path / "r", "--manifest", "/dev/full"), "/dev/full")
    assert files() == before


def test_a_disk_that_is_full(model: Path, calib: Path, tmp_path: Path, files: Files) -> None:
    before = files()
    ran = subprocess.run(
        [
            SECATEUR,
            "compress",
            model,
            "--recipe",
            "clean",
            "-o",
            tmp_path / "o.onnx",
            "--manifest",
            tmp_path / "m.json",
        ],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )
    check(Ran(ran.returncode, ran.stdout, ran.stderr), "o.onnx", "File too large")
    assert files() == before


def test_standard_output_on_a_full_disk(model: Path) -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run([SECATEUR, "print", model], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    check(Ran(ran.returncode, "", ran.stderr), "cannot write to standard output", "No space left")


# ---- interrupts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_in_mid_run(tmp_path: Path, files: Files, number: int, code: int) -> None:
    make_graph(image=32).save(tmp_path / "m.onnx")
    np.savez_compressed(tmp_path / "calib.npz", x=np.zeros((20_000, 3, 32, 32), np.float32))
    outputs = ["-o", "o.onnx", "--report", "r", "--manifest", "m.json"]
    started = tmp_path / "dump" / "001-clean.txt"
    before = files()
    with subprocess.Popen(
        [SECATEUR, "compress", "m.onnx", "--recipe", PIPELINE, "--data", "calib.npz", *outputs],
        cwd=tmp_path,
        env={**os.environ, "SECATEUR_DUMP": str(started.parent), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not started.exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, ""), err
    assert err.splitlines() == [f"error: {'interrupted' if code == 130 else 'terminated'}; nothing was written"]
    assert {name for name in files() if not name.startswith("dump")} == before


def test_an_interrupt_that_a_library_made_an_error_of(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        try:
            raise ImportError("initialization failed") from KeyboardInterrupt()
        except ImportError as error:
            raise BackendError("onnxruntime cannot be loaded") from error

    monkeypatch.setattr("secateur.inspection.inspect", fail)
    check(cli("inspect", model), "interrupted; nothing was written", code=130, hint=False)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, RecursionError, OSError(28, "No space left")])
def test_stopping_while_outputs_are_written(
    cli: Cli, model: Path, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    before = files()
    monkeypatch.setattr(sc.Graph, "save", fail)
    common = ("compress", model, "--recipe", "clean", "-o", tmp_path / "o.onnx")
    ran = cli(*common, "--report", tmp_path / "r", "--manifest", tmp_path / "m.json")
    assert ran.code == {KeyboardInterrupt: 130, MemoryError: 70, RecursionError: 70}.get(failure, 1)  # type: ignore[call-overload]
    assert sum(line.startswith("error: ") for line in ran.err.splitlines()) == 1
    assert files() == before


# ---- defects --------------------------------------------------------------------------------------------------------


def test_our_own_defects(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("secateur.inspection.inspect", fail)
    ran = cli("inspect", model)
    assert ran.code == 70
    assert ran.err.splitlines() == [
        "error: internal error: ZeroDivisionError: a bug",
        "hint: run with --debug to see where",
    ]
    shown = cli("inspect", model, "--debug")
    assert shown.code == 70
    assert "Traceback" in shown.err
    found = cli("inspect", model, "--json")
    assert found.json["error"] == "internal error: ZeroDivisionError: a bug"


def test_a_pass_that_breaks_its_contract(
    cli: Cli, model: Path, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise IndexError("a bug")

    monkeypatch.setattr("secateur.passes.cleanup.identities.RemoveIdentities.run", fail)
    monkeypatch.setenv("SECATEUR_CRASHES", str(tmp_path / "crashes"))
    ran = cli("compress", model, "--recipe", "remove-identities", "--no-clean", "-o", tmp_path / "o.onnx")
    assert ran.code == 70
    assert "remove-identities crashed: IndexError: a bug" in ran.err
    [folder] = (tmp_path / "crashes").iterdir()
    assert str(folder) in ran.err
    assert not (tmp_path / "o.onnx").exists()


def test_errors_are_json_where_answers_are(cli: Cli, tmp_path: Path) -> None:
    ran = cli("inspect", tmp_path / "none.onnx", "--json")
    assert (ran.code, ran.err) == (1, "")
    assert set(json.loads(ran.out)) == {"error", "hint"}


def test_names_that_a_terminal_cannot_show(cli: Cli, tmp_path: Path) -> None:
    graph = make_graph()
    graph.rename(graph["fc.weight"], "gewicht_ä\N{PILE OF POO} [bold] :smile: [/nothing]")
    path = tmp_path / "m.onnx"
    graph.save(path)
    assert "gewicht_ä\N{PILE OF POO} [bold] :smile: [/nothing]" in cli("inspect", path).out
    assert cli("compress", path, "--recipe", "sparsify", "-o", tmp_path / "o", "--report", tmp_path).code == 0
    ran = subprocess.run(
        [SECATEUR, "inspect", path],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "gewicht_\\xe4\\U0001f4a9 [bold]" in ran.stdout
