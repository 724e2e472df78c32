"""The manager: nothing is taken over that does not hold, and nothing is lost when something goes wrong."""

from __future__ import annotations

import gc
import io
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import example_passes as examples
from helpers.graphs import empty, gemm_mlp, if_captures, shared_weight

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.ir import Graph, Op, Value
from secateur.ir.errors import GraphError, OutputError, PassError, RefusedError
from secateur.passes import Context, Manager, Manifest, Pass, fact, parse_pipeline, run_pipeline
from secateur.passes.cleanup.dead_code import RemoveDeadCode
from secateur.passes.facets import Facet
from secateur.passes.facts import Facts
from secateur.passes.hooks import Dump, Hook, Show, Step, Watch
from secateur.passes.reproducer import read_reproducer
from secateur.passes.settings import Check, Settings

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(check=Check.FULL, crashes=tmp_path / "crashes")


def test_the_users_graph_is_not_touched(settings: Settings) -> None:
    graph = gemm_mlp()
    text = str(graph)
    result = run_pipeline(graph, [examples.Scale(3.0), RemoveDeadCode()], settings=settings)
    assert str(graph) == text
    assert result.graph is not graph and str(result.graph) != text
    assert [entry.rewrites for entry in result.report.entries] == [4, 0]
    assert result.manifest.pipeline == "scale{factor=3.0},remove-dead-code"


def test_layers_that_were_fitted_together_are_what_later_passes_go_by(settings: Settings) -> None:
    manager = Manager(gemm_mlp(), settings=settings)
    expected = []
    for one in (RemoveDeadCode(), examples.Scale(2.0), examples.Scale(3.0), examples.ScaleTogether(), examples.Scale()):
        manager.apply(one)
        expected.append([str(graph) for graph in (manager.context.original, manager.context.reference)])
    dense, fitted = str(gemm_mlp()), str(Manager(gemm_mlp()).graph)
    together = run_pipeline(gemm_mlp(), [examples.Scale(12.0)]).graph
    assert expected[0] == ["None", "None"]
    assert expected[1] == expected[2] == [dense, fitted]
    assert expected[3] == expected[4] == [dense, str(together)]


@pytest.mark.parametrize("failure", ["refused", "crash", "interrupt", "memory"])
def test_a_pass_that_fails_halfway_leaves_no_trace(failure: str, settings: Settings) -> None:
    manager = Manager(gemm_mlp(), Context(manifest=Manifest(model="m")), settings=settings)
    manager.apply(examples.Scale(2.0))
    text, manifest = str(manager.graph), manager.result.manifest.to_json()
    expected = {"refused": RefusedError, "crash": PassError, "interrupt": KeyboardInterrupt, "memory": MemoryError}
    with pytest.raises(expected[failure]):
        manager.apply(examples.Halfway(failure))  # type: ignore[arg-type]
    assert str(manager.graph) == text
    manager.graph.verify()
    assert manager.result.manifest.to_json() == manifest
    manager.apply(examples.Scale(0.5))
    assert [entry.name for entry in manager.report.entries] == ["scale", "scale"]
    assert str(manager.graph) == str(Manager(gemm_mlp()).graph)


def test_a_refusal_says_in_which_pass(settings: Settings) -> None:
    with pytest.raises(RefusedError) as caught:
        run_pipeline(gemm_mlp(), [examples.Halfway()], settings=settings)
    assert caught.value.__notes__ == ["in the pass halfway"]


def test_a_crash_writes_a_reproducer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(self: Pass, graph: Graph, context: Context) -> int:
        graph.set_interface(outputs=[])
        raise IndexError("out of luck")

    monkeypatch.setattr(RemoveDeadCode, "run", crash)
    graph = gemm_mlp()
    with pytest.raises(PassError, match="remove-dead-code crashed: IndexError: out of luck") as caught:
        run_pipeline(graph, [examples.Scale(), RemoveDeadCode()], Context(seed=7), settings=settings)
    assert isinstance(caught.value.__cause__, IndexError)
    folder = caught.value.reproducer
    assert folder and folder in str(caught.value)
    again = read_reproducer(folder)
    assert (again.passes, again.seed) == ((RemoveDeadCode(),), 7)
    assert str(again.graph) == str(run_pipeline(graph, [examples.Scale()]).graph)
    assert "out of luck" in Path(folder, "error.txt").read_text()


def test_a_reproducer_that_cannot_be_written_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings(crashes=tmp_path / "file")
    with pytest.raises(PassError, match="ZeroDivisionError: by zero") as caught:
        run_pipeline(gemm_mlp(), [examples.Halfway("crash")], settings=settings)
    assert caught.value.reproducer is None


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (examples.Undeclared(), "changed weights, but declares only attributes"),
        (examples.Miscounting(), "counted 0 rewrites, but changed weights"),
        (examples.Boasting(), "counted 3 rewrites, but changed nothing"),
        (examples.FalselyExact(), "promises to be exact, but output 'fc2' differs at 12 of 12 places"),
    ],
)
def test_a_pass_that_lies_is_found_out(one: Pass, message: str, settings: Settings) -> None:
    with pytest.raises(PassError, match=message) as caught:
        run_pipeline(gemm_mlp(), [one], Context(runner=_RUNNER), settings=settings)
    assert caught.value.reproducer


def test_lies_pass_where_nothing_is_checked() -> None:
    loose = Settings(check=Check.VERIFY)
    for one in (examples.Undeclared(), examples.Miscounting(), examples.Boasting(), examples.FalselyExact()):
        run_pipeline(gemm_mlp(), [one], Context(runner=_RUNNER), settings=loose)


def test_effects_are_checked_on_the_calibration_data_where_there_is_some(settings: Settings) -> None:
    zeros = [Batch({"x": np.zeros((4, 6), np.float32)})]
    run_pipeline(shared_weight(), [examples.FalselyExact()], Context(runner=_RUNNER, source=zeros), settings=settings)
    with pytest.raises(PassError, match="promises"):
        run_pipeline(shared_weight(), [examples.FalselyExact()], Context(runner=_RUNNER), settings=settings)


def test_a_malformed_graph_is_never_taken_over(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_it(self: Pass, graph: Graph, context: Context) -> int:
        graph.ops()[0].inputs = (Value("stranger"),)
        return 1

    monkeypatch.setattr(RemoveDeadCode, "run", break_it)
    manager = Manager(gemm_mlp(), settings=settings)
    with pytest.raises(PassError, match="left a malformed graph"):
        manager.apply(RemoveDeadCode())
    manager.graph.verify()


def test_a_malformed_model_is_the_users(settings: Settings) -> None:
    graph = gemm_mlp()
    graph.ops()[0].inputs = (Value("stranger"),)
    with pytest.raises(GraphError):
        run_pipeline(graph, [], settings=settings)


def test_the_interface_must_stay(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(self: Pass, graph: Graph, context: Context) -> int:
        graph.rename(graph.outputs[0], "other")
        return 1

    monkeypatch.setattr(RemoveDeadCode, "run", rename)
    with pytest.raises(PassError, match="changed the names or types"):
        run_pipeline(gemm_mlp(), [RemoveDeadCode()], settings=settings)


def test_facts_live_from_pass_to_pass(settings: Settings) -> None:
    calls: list[int] = []

    @fact(reads=Facet.TOPOLOGY)
    def op_count(graph: Graph, facts: Facts) -> int:
        calls.append(len(graph.ops()))
        return calls[-1]

    manager = Manager(gemm_mlp(), settings=replace(settings, check=Check.HONEST))
    manager.context.facts.get(op_count)
    manager.apply(examples.Scale())
    manager.context.facts.get(op_count)
    assert calls == [3]
    with pytest.raises(RefusedError):
        manager.apply(examples.Halfway())
    manager.context.facts.get(op_count)
    assert calls == [3, 3]


def test_stale_facts_are_the_passs_defect(settings: Settings) -> None:
    @fact(reads=Facet.ATTRIBUTES)  # a lie: it reads weights
    def first_weight(graph: Graph, facts: Facts) -> float:
        return float(graph["w1"].const.numpy()[0, 0]) if graph["w1"].const else 0.0

    manager = Manager(gemm_mlp(), settings=settings)
    manager.context.facts.get(first_weight)
    with pytest.raises(PassError, match="stale facts: first_weight"):
        manager.apply(examples.Scale())


def test_hooks_see_every_pass(settings: Settings, tmp_path: Path) -> None:
    seen: list[tuple[str, str, int, int | None]] = []
    told: list[tuple[str, int, int]] = []

    class Spy(Hook):
        def before(self, step: Step) -> None:
            seen.append(("before", step.running.name, step.entry.rewrites, step.total))

        def after(self, step: Step) -> None:
            seen.append(("after", step.running.name, step.entry.rewrites, step.total))

    stream = io.StringIO()
    hooks = [Spy(), Show(stream), Watch(lambda *words: told.append(words)), Dump(tmp_path / "dump")]
    passes = [examples.Scale(), RemoveDeadCode()]
    run_pipeline(gemm_mlp(), passes, hooks=hooks, settings=settings)
    assert seen == [
        ("before", "scale", 0, 2),
        ("after", "scale", 4, 2),
        ("before", "remove-dead-code", 0, 2),
        ("after", "remove-dead-code", 0, 2),
    ]
    assert told == [("scale", 0, 2), ("scale", 1, 2), ("remove-dead-code", 1, 2), ("remove-dead-code", 2, 2)]
    assert stream.getvalue().startswith("# after scale: 4 rewrites\n") and "remove-dead" not in stream.getvalue()
    names = [path.name for path in sorted((tmp_path / "dump").iterdir())]
    assert names == ["000-input.txt", "001-scale.txt", "002-remove-dead-code.txt"]
    assert (tmp_path / "dump" / "000-input.txt").read_text() == f"{gemm_mlp()}\n"


def test_settings_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.from_environment({}) == Settings()
    said = {"SECATEUR_CHECK": "2", "SECATEUR_DUMP": str(tmp_path / "d"), "SECATEUR_CRASHES": "c"}
    assert Settings.from_environment(said) == Settings(Check.FULL, tmp_path / "d", Path("c"))
    for name, text in said.items():
        monkeypatch.setenv(name, text)
    run_pipeline(gemm_mlp(), parse_pipeline("remove-dead-code"))
    assert (tmp_path / "d" / "001-remove-dead-code.txt").is_file()
    monkeypatch.setenv("SECATEUR_CHECK", "yes")
    with pytest.raises(Exception, match="SECATEUR_CHECK is 'yes'"):
        run_pipeline(gemm_mlp(), [])


def test_large_graphs_are_checked_less() -> None:
    graph = empty()
    value = graph.inputs[0]
    assert Settings().level(graph) is Check.HONEST
    for index in range(5000):
        made = Value(f"v{index}")
        graph.add_op(Op("Relu", (value,), (made,)))
        value = made
    assert Settings().level(graph) is Check.VERIFY
    assert Settings(check=Check.FULL).level(graph) is Check.FULL


def test_a_dump_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot make"):
        Dump(tmp_path / "file" / "dump")


def test_the_report_is_a_table(settings: Settings) -> None:
    result = run_pipeline(if_captures(), [examples.Scale(), RemoveDeadCode()], settings=settings)
    report = result.report.to_json(timing=False)
    assert json.loads(json.dumps(report)) == report
    assert report["passes"][0] == {
        "text": "scale",
        "effect": "lossy",
        "rewrites": 2,
        "rows": [{"weight": "w", "factor": 2.0}, {"weight": "outer", "factor": 2.0}],
        "notes": [],
    }
    assert report["totals"]["rewrites"] == 2
    assert report["totals"]["before"] == report["totals"]["after"] == {"ops": 6, "parameters": 60, "bytes": 240}
    assert result.report.seconds == sum(entry.seconds for entry in result.report.entries) > 0


def test_no_passes_give_the_same_model(settings: Settings) -> None:
    result = run_pipeline(gemm_mlp(), [], settings=settings)
    assert str(result.graph) == str(gemm_mlp())
    assert result.report.to_json()["passes"] == []


def test_the_garbage_collector_is_left_as_it_was(settings: Settings) -> None:
    assert not gc.get_freeze_count()
    run_pipeline(gemm_mlp(), [examples.Scale()], settings=settings)
    assert gc.isenabled() and not gc.get_freeze_count()
    with pytest.raises(RefusedError):
        run_pipeline(gemm_mlp(), [examples.Halfway()], settings=settings)
    assert not gc.get_freeze_count()
    gc.freeze()  # as servers do before they fork
    try:
        run_pipeline(gemm_mlp(), [examples.Scale()], settings=settings)
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()
