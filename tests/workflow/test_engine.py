import subprocess
import sys
from pathlib import Path

import pytest

from whorl.errors import InputError
from whorl.workflow.engine import Step, execute, locked
from whorl.workflow.monitor import Monitor


class Chain:
    """a → b → d and a → c → d, counting what is done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[str] = []
        self.fail_in = ""

    def run(self, *, version: int = 1, monitor: Monitor | None = None, **settings: int) -> list[str]:
        def work(name: str):
            def run(directory: Path, monitor: Monitor) -> None:
                self.done.append(name)
                (directory / "part.txt").write_text(name)
                if name == self.fail_in:
                    raise KeyboardInterrupt
                if name == "a":
                    monitor.warn("a warns")
                    monitor.skip("x.cif", "broken")
                (directory / "result.txt").write_text(name)

            return run

        needs = {"a": (), "b": ("a",), "c/n3": ("a",), "d": ("b", "c/n3")}
        steps = [
            Step(
                name=name,
                settings=settings.get(name[0], 0),
                needs=needs[name],
                run=work(name),
                version=version if name == "b" else 1,
            )
            for name in needs
        ]
        self.done = []
        execute(steps, self.folder, monitor or Monitor())
        return self.done


@pytest.fixture
def chain(tmp_path):
    return Chain(tmp_path / "run")


def test_finished_steps_are_not_repeated(chain):
    assert chain.run() == ["a", "b", "c/n3", "d"]
    assert chain.run() == []


@pytest.mark.parametrize(
    ("changed", "again"),
    [("a", ["a", "b", "c/n3", "d"]), ("b", ["b", "d"]), ("c", ["c/n3", "d"]), ("d", ["d"])],
)
def test_a_changed_setting_repeats_only_what_depends_on_it(chain, changed, again):
    chain.run()
    assert chain.run(**{changed: 1}) == again
    assert chain.run(**{changed: 1}) == []


def test_a_new_version_of_a_step_repeats_it(chain):
    chain.run()
    assert chain.run(version=2) == ["b", "d"]


def test_an_interrupted_step_keeps_its_parts_and_is_continued(chain):
    chain.fail_in = "b"
    with pytest.raises(KeyboardInterrupt):
        chain.run()
    assert chain.done == ["a", "b"]
    assert (chain.folder / "b" / "part.txt").exists()
    chain.fail_in = ""
    assert chain.run() == ["b", "c/n3", "d"]


def test_parts_of_other_settings_are_not_continued(chain):
    chain.fail_in = "b"
    with pytest.raises(KeyboardInterrupt):
        chain.run()
    (chain.folder / "b" / "old.txt").write_text("of the first settings")
    chain.fail_in = ""
    chain.run(b=1)
    assert not (chain.folder / "b" / "old.txt").exists()


def test_lost_and_shortened_files_are_made_again(chain):
    chain.run()
    (chain.folder / "b" / "result.txt").unlink()
    assert chain.run() == ["b"]
    (chain.folder / "d" / "result.txt").write_text("")
    assert chain.run() == ["d"]
    (chain.folder / "c/n3" / "stage.json").write_text('{"key": ')
    assert chain.run() == ["c/n3"]


def test_folders_of_others_are_left_alone(chain):
    (chain.folder / "a").mkdir(parents=True)
    (chain.folder / "a" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex.*Choose another folder"):
        chain.run()
    assert (chain.folder / "a" / "thesis.tex").read_text() == "years of work"


def test_kept_folders_survive_and_may_be_brought_along(tmp_path):
    (tmp_path / "a" / "chunks").mkdir(parents=True)
    (tmp_path / "a" / "chunks" / "0").write_text("computed elsewhere")
    for settings in (1, 2):
        step = Step(name="a", settings=settings, run=lambda directory, _: None, keeps=("chunks",))
        execute([step], tmp_path, Monitor())
    assert (tmp_path / "a" / "chunks" / "0").read_text() == "computed elsewhere"


def test_warnings_of_finished_steps_are_told_again(chain):
    for _ in range(2):
        monitor = Monitor()
        chain.run(monitor=monitor)
        assert monitor.warnings == ["a warns"]
        assert [tuple(entry) for entry in monitor.skipped] == [("x.cif", "broken")]


HOLD = """
import sys, time
from pathlib import Path
from whorl.workflow.engine import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_and_locks_of_the_dead_are_void(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=rf"another whorl .*process {holder.pid}"), locked(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with locked(tmp_path):
        pass
