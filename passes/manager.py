"""Running passes: each on a graph that it may spoil, none of which anybody sees before all checks have passed."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from secateur.ir import Graph
from secateur.ir.errors import GraphError, PassError, RefusedError, SecateurError
from secateur.ir.sparsity_scheme import SparsityScheme, broken_schemes
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.effects import broken_promise
from secateur.passes.facets import Effect
from secateur.passes.facts import Facts
from secateur.passes.hooks import Dump, Hook, Step
from secateur.passes.manifest import Manifest
from secateur.passes.pipeline import print_pipeline
from secateur.passes.report import Entry, Report, Size
from secateur.passes.reproducer import write_reproducer
from secateur.passes.settings import Check, Settings
from secateur.passes.snapshot import Snapshot


@dataclass(frozen=True)
class Result:
    """What a pipeline gives back."""

    graph: Graph
    report: Report
    manifest: Manifest


def run_pipeline(
    graph: Graph,
    passes: Iterable[Pass],
    context: Context | None = None,
    *,
    hooks: Sequence[Hook] = (),
    settings: Settings | None = None,
) -> Result:
    """Runs passes one after another on a copy of `graph`, which itself is not touched, whatever happens.

    Args:
        graph: a whole model.
        passes: in order; see `parse_pipeline`.
        context: runner, calibration data and seed; facts, report and manifest are the manager's own.
        hooks: see `secateur.passes.hooks`.
        settings: None reads them from the environment.

    Raises:
        GraphError: the graph is not well formed to begin with.
        SecateurError: a pass cannot do what it is asked for (`RefusedError`), or the data does not fit.
        PassError: a pass broke its contract or crashed; names the folder with a reproducer.
    """
    wanted = tuple(passes)
    manager = Manager(graph, context, hooks=hooks, settings=settings)
    for one in wanted:
        manager.apply(one, total=len(wanted))
    return manager.result


class Manager:
    """Applies passes one at a time. `graph` is always the last state that passed all checks."""

    def __init__(
        self,
        graph: Graph,
        context: Context | None = None,
        *,
        hooks: Sequence[Hook] = (),
        settings: Settings | None = None,
    ) -> None:
        """Copies the graph and checks it.

        Raises:
            GraphError: it is not well formed.
        """
        graph.verify()
        self.settings = settings or Settings.from_environment()
        self.hooks = [*hooks, *([Dump(self.settings.dump)] if self.settings.dump else [])]
        self.graph = graph.clone()
        self.passes: list[Pass] = []
        self.report = Report(graph.name, before=Size.of(graph))
        given = context or Context()
        self.context = replace(given, facts=Facts(self.graph), manifest=given.manifest.copy())

    @property
    def result(self) -> Result:
        """Everything so far."""
        self.report.after = Size.of(self.graph)
        manifest = self.context.manifest.copy()
        manifest.pipeline = print_pipeline(self.passes)
        return Result(self.graph, self.report, manifest)

    def apply(self, one: Pass, *, total: int | None = None) -> Entry:
        """Runs one pass, checks it, and takes its result over.

        Whatever is raised, an interrupt from the keyboard too, `graph` and the manifest stay as they were before.

        Raises:
            SecateurError: the pass cannot do what it is asked for.
            PassError: it broke its contract or crashed.
        """
        entry = Entry(str(one), one.effect.value)
        context = replace(self.context, report=entry, manifest=self.context.manifest.copy())
        step = Step(len(self.passes), total, one, self.graph, entry)
        for hook in self.hooks:
            hook.before(step)
        before = self.graph.clone()
        try:
            with _settled():
                self._run(one, context, before)
        except BaseException as error:
            self.graph, self.context.facts = before, Facts(before)
            if isinstance(error, SecateurError):
                error.add_note(f"in the pass {entry.text}")
                raise
            if isinstance(error, MemoryError) or not isinstance(error, Exception):
                raise
            raise self._defect(one, error) from error
        self.context.manifest = context.manifest
        if one.effect is Effect.LOSSY and self.context.original is None:
            self.context.original = self.context.reference = before
        if one.joint and entry.rewrites:
            self.context.reference = self.graph.clone()
        self.passes.append(one)
        self.report.entries.append(entry)
        for hook in self.hooks:
            hook.after(step)
        return entry

    def _run(self, one: Pass, context: Context, before: Graph) -> None:
        level = self.settings.level(self.graph)
        snapshot = Snapshot.of(self.graph) if level >= Check.HONEST else None
        started = time.perf_counter()
        rewrites = one.run(self.graph, context)
        context.report.seconds = time.perf_counter() - started
        context.report.rewrites = rewrites
        if rewrites:
            context.facts.drop(one.changes)
        self._verify(one, before)
        lost = list(broken_schemes(self.graph, before))
        if lost and one.effect is not Effect.LOSSY:
            mark = SparsityScheme.of(lost[0])
            raise RefusedError(
                f"{one.name} fills zeros of {lost[0].name}, which is to stay {mark}",
                hint=f"run {one.name} before what made them",
            )
        if snapshot is not None:
            _check_honesty(one, rewrites, snapshot, self.graph)
        if level >= Check.FULL:
            if stale := context.facts.stale():
                raise PassError(f"{one.name} left stale facts: {', '.join(stale)}")
            if reason := broken_promise(one, before, self.graph, context):
                raise PassError(f"{one.name} promises to be {one.effect.value}, but {reason}")
        if lost:
            from secateur.passes.sparsify.remask import remask  # solvers take a while to load, and few models need it

            remask(self.graph, lost, context)

    def _verify(self, one: Pass, before: Graph) -> None:
        try:
            self.graph.verify()
        except GraphError as error:
            raise PassError(f"{one.name} left a malformed graph: {error.message}") from error
        if not _keeps_interface(before, self.graph, types=not one.retypes):
            raise PassError(f"{one.name} changed the names or types of the model's inputs or outputs")

    def _defect(self, one: Pass, error: Exception) -> PassError:
        """`self.graph` is again the one from before the pass."""
        folder = write_reproducer(self.graph, one, self.context.seed, error, self.settings.crashes)
        broken = isinstance(error, PassError)
        message = str(error) if broken else f"{one.name} crashed: {type(error).__name__}: {error}"
        return PassError(message, reproducer=folder or None)


@contextmanager
def _settled() -> Iterator[None]:
    """Spares the garbage collector what is there already, models as a whole, while a pass makes many objects more."""
    if gc.get_freeze_count():  # somebody else has done so, and will undo it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _check_honesty(one: Pass, rewrites: int, before: Snapshot, graph: Graph) -> None:
    moved = before.moved(Snapshot.of(graph))
    if moved & ~one.changes:
        raise PassError(f"{one.name} changed {moved & ~one.changes}, but declares only {one.changes}")
    if bool(rewrites) != bool(moved):
        raise PassError(f"{one.name} counted {rewrites} rewrites, but changed {moved}")


def _keeps_interface(before: Graph, after: Graph, *, types: bool) -> bool:
    """Same names of inputs and outputs; with `types`, those of inputs, and element types of outputs that had one."""
    if [value.name for value in before.inputs] != [value.name for value in after.inputs]:
        return False
    if [value.name for value in before.outputs] != [value.name for value in after.outputs]:
        return False
    if not types:
        return True
    if [value.type for value in before.inputs] != [value.type for value in after.inputs]:
        return False
    pairs = [(old.type, new.type) for old, new in zip(before.outputs, after.outputs, strict=True)]
    return all(getattr(old, "dtype", None) in (None, getattr(new, "dtype", None)) for old, new in pairs)
