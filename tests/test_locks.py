import shutil
import subprocess
import sys
import threading

import pytest

from whorl.errors import InputError
from whorl.locks import locked, locked_output

HOLD = """
import sys, time
from pathlib import Path
from whorl.locks import locked, locked_output
with {"folder": locked, "output": locked_output}[sys.argv[1]](Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""
LOCKS = {"folder": locked, "output": locked_output}


@pytest.mark.parametrize("kind", LOCKS)
def test_one_process_at_a_time_and_locks_of_the_dead_are_void(tmp_path, kind):
    place = tmp_path / "place"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, str(place)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=rf"another whorl .*process {holder.pid}"), LOCKS[kind](place):
            pass
        holder.kill()
        holder.wait()
    with LOCKS[kind](place):
        pass


@pytest.mark.parametrize("kind", LOCKS)
def test_one_thread_at_a_time(tmp_path, kind):
    said = []

    def other() -> None:
        try:
            with LOCKS[kind](tmp_path / "place"):
                said.append("held")
        except InputError as error:
            said.append(str(error))

    with LOCKS[kind](tmp_path / "place"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(said) == 1 and "another whorl" in said[0]
    # The lock was not lost when the other thread gave up, and is free now.
    with LOCKS[kind](tmp_path / "place"):
        pass


def test_the_lock_of_an_output_leaves_nothing_behind(tmp_path):
    with locked_output(tmp_path / "x.safetensors"):
        assert [path.name for path in tmp_path.iterdir()] == [".x.safetensors.lock"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inside", [False, True])
def test_a_file_in_the_place_of_the_folder(tmp_path, inside):
    (tmp_path / "file").write_text("mine")
    place = tmp_path / "file" / "run" if inside else tmp_path / "file"
    for lock in (locked(place), locked_output(place / "x.safetensors")):
        with pytest.raises(InputError, match="file: is a file, expected a folder"), lock:
            pass
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_the_place_of_the_lock(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(InputError, match=r"\.lock: is a folder"), locked(tmp_path):
        pass
    (tmp_path / ".lock").rmdir()
    with locked(tmp_path):
        pass


def test_a_folder_that_is_removed_meanwhile_is_said(tmp_path):
    with pytest.raises(InputError, match="was removed while whorl was working"), locked(tmp_path / "run"):
        shutil.rmtree(tmp_path / "run")
