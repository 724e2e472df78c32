"""Scratch folders go with their work, even if it was killed, and never while it lives."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from secateur.ir.errors import OutputError
from secateur.ir.files import write_atomically
from secateur.ir.scratch import PREFIX, remove_abandoned, scratch_folder

_OPEN = {
    "output": "write_atomically(target) as (temporary,)",
    "build": "staging() as stage, nullcontext(stage.place(target)) as temporary",
}
_WRITER = """
import sys, time
from contextlib import nullcontext
from pathlib import Path
from secateur.ir.files import write_atomically
from secateur.staging import staging

target = Path(sys.argv[1]) / "model.onnx"
with {how}:
    temporary.write_text("half of it")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=_OPEN.values(), ids=_OPEN)
def writer(request, tmp_path):
    """A process that is in the middle of writing `model.onnx`."""
    command = [sys.executable, "-c", _WRITER.format(how=request.param), str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(PREFIX))


def write(folder: Path) -> None:
    with write_atomically(folder / "other.onnx") as (temporary,):
        temporary.write_text("whole")


def test_what_a_killed_process_leaves_goes_with_the_next_output(tmp_path, writer):
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert len(hidden(tmp_path)) == 1
    write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other.onnx"]


def test_what_a_living_process_writes_stays(tmp_path, writer):
    before = hidden(tmp_path)
    write(tmp_path)
    remove_abandoned(tmp_path)
    assert hidden(tmp_path) == before
    assert [path.read_text() for path in tmp_path.glob(f"{PREFIX}*/files/model.onnx")] == ["half of it"]


def test_two_at_once_in_one_process_leave_each_other_alone(tmp_path):
    with scratch_folder(tmp_path) as first, scratch_folder(tmp_path) as second:
        assert first != second
        remove_abandoned(tmp_path)
        assert first.is_dir()
        assert second.is_dir()
    assert hidden(tmp_path) == []


def test_many_at_once_all_get_a_folder(tmp_path):
    errors = []

    def work() -> None:
        for _ in range(20):
            try:
                with scratch_folder(tmp_path) as folder:
                    (folder / "a").write_text("a")
                    assert (folder / "a").read_text() == "a"
            except (OSError, AssertionError) as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert hidden(tmp_path) == []


def test_only_folders_of_ours_go(tmp_path):
    (tmp_path / f"{PREFIX}build.json").write_text("{}")
    (tmp_path / f"{PREFIX}mine").mkdir()
    (tmp_path / f"{PREFIX}mine" / "notes").write_text("keep")
    (tmp_path / f"{PREFIX}empty").mkdir()
    remove_abandoned(tmp_path)
    assert hidden(tmp_path) == [f"{PREFIX}build.json", f"{PREFIX}mine"]


def test_without_locks_nothing_of_others_is_removed(tmp_path, monkeypatch, writer):
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    write(tmp_path)
    assert len(hidden(tmp_path)) == 1
    assert (tmp_path / "other.onnx").read_text() == "whole"


def test_an_error_inside_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), write_atomically(tmp_path / "model.onnx") as (temporary,):
        temporary.write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_outputs_in_two_folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    targets = tmp_path / "a" / "x", tmp_path / "b" / "x"
    with write_atomically(*targets) as temporaries:
        for number, temporary in enumerate(temporaries):
            temporary.write_text(str(number))
    assert [target.read_text() for target in targets] == ["0", "1"]
    assert hidden(tmp_path / "a") == hidden(tmp_path / "b") == []


def test_a_target_that_vanished_is_an_error(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputError), write_atomically(tmp_path / "a" / "x"):
        pass
