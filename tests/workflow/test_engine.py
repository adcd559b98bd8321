import json
import os
from pathlib import Path

import pytest

from whorl.errors import InputError
from whorl.workflow.engine import Step, execute
from whorl.workflow.monitor import Monitor


class Chain:
    """a → b → d and a → c → d, counting what is done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[str] = []
        self.fail_in = ""
        self.content: dict[str, str] = {}
        self.source: Path | None = None

    def run(self, *, version: int = 1, monitor: Monitor | None = None, **settings: int) -> list[str]:
        def work(name: str):
            def run(monitor: Monitor) -> None:
                directory = self.folder / name
                self.done.append(name)
                (directory / "part.txt").write_text(name)
                if name == self.fail_in:
                    raise KeyboardInterrupt
                if name == "a":
                    monitor.warn("a warns")
                    monitor.skip("x.cif", "broken")
                    monitor.doubt("y.cif", "odd")
                (directory / "result.txt").write_text(name + self.content.get(name, ""))
                (directory / "deep" / "er").mkdir(parents=True, exist_ok=True)
                (directory / "deep" / "er" / "1.cif").write_text(name)

            return run

        needs = {"a": (), "b": ("a",), "c/n3": ("a",), "d": ("b", "c/n3")}
        steps = [
            Step(
                name=name,
                settings=settings.get(name[0], 0),
                needs=needs[name],
                run=work(name),
                sources=(self.source,) if name == "a" and self.source else (),
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


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flipped": flip,
    "shortened": lambda path: path.write_text(""),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["result.txt", "deep/er/1.cif"])
def test_a_damaged_result_is_made_again_and_said(chain, damage, file):
    chain.run()
    path = chain.folder / "b" / file
    times = path.stat()
    DAMAGES[damage](path)
    if path.exists():
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    monitor = Monitor()
    assert chain.run(monitor=monitor) == ["b"]
    assert path.read_text() == "b"
    said = "is missing" if damage == "deleted" else "has changed"
    assert any(f"{file} {said}" in message and "run again" in message for message in monitor.warnings)
    again = Monitor()
    assert chain.run(monitor=again) == []
    assert again.warnings == ["a warns"]


def test_what_read_other_results_than_there_are_now_is_done_again(chain):
    chain.run()
    flip(chain.folder / "b" / "result.txt")
    chain.content["b"] = " by another library"
    monitor = Monitor()
    assert chain.run(monitor=monitor) == ["b", "d"]
    assert any("results of b have changed" in message for message in monitor.warnings)
    assert chain.run() == []


@pytest.mark.parametrize(
    "text", ["[]", "null", "3", '"x"', "{}", '{"key": ', "[" * 50_000, "\ud800", "1" * 5000]
)
@pytest.mark.parametrize("file", ["stage.json", ".begun.json"])
def test_control_files_of_another_form_count_as_unfinished(chain, text, file):
    chain.run()
    directory = chain.folder / "c/n3"
    if file == ".begun.json":
        (directory / "stage.json").unlink()
    (directory / file).write_bytes(text.encode(errors="surrogatepass"))
    assert chain.run() == ["c/n3"]
    assert chain.run() == []


@pytest.mark.parametrize(
    "change",
    [
        *({"files": value} for value in ([], None, "x", {"result.txt": 3}, {"result.txt": None})),
        *({"warnings": value} for value in (None, [1], {"a": 1})),
        *({"skipped": value} for value in (None, [1], [["a"]])),
        *({"seconds": value} for value in ("abc", None, -1, [])),
        *({"key": value} for value in (None, 3, [])),
        {"results": [1]},
    ],
)
def test_wrong_types_in_control_files_count_as_unfinished(chain, change):
    chain.run()
    path = chain.folder / "d" / "stage.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert chain.run() == ["d"]


def test_scratch_is_kept_for_a_damaged_step_and_not_for_other_settings(tmp_path):
    seen = []

    def run(monitor: Monitor) -> None:
        directory = tmp_path / "a"
        seen.append((directory / "scratch" / "0").exists())
        (directory / "scratch").mkdir(exist_ok=True)
        (directory / "scratch" / "0").write_text("a checkpoint")
        (directory / "result").write_text("result")

    def go(settings: int) -> None:
        execute([Step(name="a", settings=settings, run=run, scratch=("scratch",))], tmp_path, Monitor())

    go(1)
    flip(tmp_path / "a" / "scratch" / "0")
    go(1)  # of no interest to a finished step
    flip(tmp_path / "a" / "result")
    go(1)
    go(2)
    assert seen == [False, True, False]


def test_a_finished_step_does_without_its_source_and_says_so(chain, tmp_path):
    chain.source = tmp_path / "data.csv"
    chain.source.write_text("1")
    assert chain.run() == ["a", "b", "c/n3", "d"]
    assert chain.run() == []
    moved = chain.source.rename(tmp_path / "elsewhere.csv")
    monitor = Monitor()
    assert chain.run(monitor=monitor) == []
    assert "data.csv: no longer exists" in monitor.warnings[0]
    with pytest.raises(InputError, match=r"data\.csv: no such file"):
        chain.run(a=1)
    assert (chain.folder / "a" / "result.txt").read_text() == "a"
    moved.rename(chain.source)
    assert chain.run() == []
    chain.source.write_text("2")
    assert chain.run() == ["a", "b", "c/n3", "d"]


def test_folders_of_others_are_left_alone(chain):
    (chain.folder / "a").mkdir(parents=True)
    (chain.folder / "a" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex.*Choose another folder"):
        chain.run()
    assert (chain.folder / "a" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("place", ["d", "c/n3", "c"])
def test_a_file_in_the_place_of_a_folder_is_said_before_any_work(chain, place):
    (chain.folder / place).parent.mkdir(parents=True)
    (chain.folder / place).write_text("not a folder")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        chain.run()
    assert chain.done == []


def test_a_folder_in_the_place_of_a_control_file_is_said_before_any_work(chain):
    (chain.folder / "d" / "stage.json").mkdir(parents=True)
    with pytest.raises(InputError, match=r"stage\.json.*Choose another folder"):
        chain.run()
    assert chain.done == []


def test_kept_folders_survive_and_may_be_brought_along(tmp_path):
    (tmp_path / "a" / "chunks").mkdir(parents=True)
    (tmp_path / "a" / "chunks" / "0").write_text("computed elsewhere")
    for settings in (1, 2):
        step = Step(name="a", settings=settings, run=lambda monitor: None, keeps=("chunks",))
        execute([step], tmp_path, Monitor())
    assert (tmp_path / "a" / "chunks" / "0").read_text() == "computed elsewhere"


def test_warnings_of_finished_steps_are_told_again(chain):
    for _ in range(2):
        monitor = Monitor()
        chain.run(monitor=monitor)
        assert monitor.warnings == ["a warns"]
        assert [tuple(entry) for entry in monitor.skipped] == [("x.cif", "broken")]
        assert [tuple(entry) for entry in monitor.doubts] == [("y.cif", "odd")]
