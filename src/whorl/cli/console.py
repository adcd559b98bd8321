"""Console output: progress, warnings, errors."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

import rich.box
import rich.table
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from whorl.cli.options import executor_settings
from whorl.executors.base import executing
from whorl.workflow.monitor import Monitor, ProgressCallback

if TYPE_CHECKING:
    from whorl.report.tables import Table

# Results go to stdout, everything else to stderr, so that output can be piped. Strings are shown as they are:
# in the markup of rich, the name of a file may be a tag or an emoji. What is to have a style is a Text.
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)

_PLAIN_EVERY = 15.0  # seconds between lines where there is no terminal
_MANY = 10  # skipped entries, and doubts, shown one by one


class _RateColumn(TextColumn):
    """Items per second since the task began."""

    def __init__(self) -> None:
        super().__init__("{task.fields[rate]}", markup=False)


class ConsoleMonitor(Monitor):
    """Shows bars on a terminal, and now and then a plain line elsewhere (logs)."""

    def __init__(self) -> None:
        super().__init__()
        self._bars = (
            Progress(
                TextColumn("  {task.description}", markup=False),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                _RateColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("left {task.fields[message]}", style="dim", markup=False),
                console=err,
                transient=True,
            )
            if err.is_terminal
            else None
        )

    def __enter__(self) -> ConsoleMonitor:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def progress(self, what: str) -> ProgressCallback:
        """Return the callback that draws one bar, or writes its plain lines."""
        return _Bar(self._bars, what) if self._bars is not None else _Lines(what)

    def step(self, name: str, *, state: str, seconds: float = 0.0) -> None:
        """Report a step that begins, ends, or was finished before."""
        if state == "finished":
            err.print(Text(f"• {name:<18} done before ({_duration(seconds)})", style="dim"))
        elif state == "started" and self._bars is None:
            err.print(f"▸ {name}")
        elif state == "done":
            self._clear()
            err.print(Text.assemble(("✓", "green"), f" {name:<18} ", (_duration(seconds), "dim")))

    def note(self, message: str) -> None:
        """Show it on a line of its own."""
        err.print(Text(f"  {message}", style="dim"))

    def warn(self, message: str) -> None:
        """Show a warning at once."""
        super().warn(message)
        err.print(Text("warning: ", style="yellow").append(message, style="default"))

    def skip(self, source: str, reason: str) -> None:
        """Show a skipped entry, up to a number of them; the rest is counted by :meth:`summary`."""
        super().skip(source, reason)
        _show_one("skipped", len(self.skipped), source, reason)

    def doubt(self, source: str, reason: str) -> None:
        """Show a doubtful entry, up to a number of them; the rest is counted by :meth:`summary`."""
        super().doubt(source, reason)
        _show_one("doubtful", len(self.doubts), source, reason)

    def summary(self) -> None:
        """Say how many more entries were skipped or doubtful than shown."""
        for what, count in (("skipped", len(self.skipped)), ("doubtful", len(self.doubts))):
            if count > _MANY:
                more = f" and {count - _MANY} more ({count} in all)"
                err.print(Text(f"{what}:", style="yellow").append(more, style="default"))

    def _clear(self) -> None:
        if self._bars is not None:
            for task in self._bars.task_ids:
                self._bars.remove_task(task)


def _show_one(what: str, number: int, source: str, reason: str) -> None:
    if number <= _MANY:
        err.print(Text(f"{what}: ", style="yellow").append(f"{source}: {reason}", style="default"))


class _Bar:
    """One bar of a terminal."""

    def __init__(self, bars: Progress, what: str) -> None:
        self.bars, self.what = bars, what
        self.task: TaskID | None = None
        self.start, self.first = 0.0, 0

    def __call__(self, done: int, total: int, message: str = "") -> None:
        now = time.monotonic()
        if self.task is None or self.task not in self.bars.task_ids:
            if done >= total:  # nothing to wait for
                return
            self.task = self.bars.add_task(self.what, total=total, completed=done, rate="", message="")
            self.start, self.first = now, done
            return
        rate = _rate(done - self.first, now - self.start)
        suffix = f"· {message}" if message else ""
        self.bars.update(self.task, completed=done, total=total, rate=rate, message=suffix)
        if done >= total:
            self.bars.remove_task(self.task)
            self.task = None


class _Lines:
    """A line every quarter of a minute, for logs."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.start = self.last = time.monotonic()
        self.first: int | None = None
        self.total = 0

    def __call__(self, done: int, total: int, message: str = "") -> None:
        now = time.monotonic()
        if self.first is None or total != self.total:  # another task of the same work counts anew
            self.first, self.total, self.start = done, total, now
        if now - self.last < _PLAIN_EVERY:
            return
        self.last = now
        made, elapsed = done - self.first, now - self.start
        left = f", {_duration((total - done) * elapsed / made)} left" if made and done < total else ""
        suffix = f"; {message}" if message else ""
        err.print(
            f"  {self.what}: {done}/{total}, {_rate(made, elapsed) or _duration(elapsed)}{left}{suffix}"
        )


def _rate(count: int, seconds: float) -> str:
    if count <= 0 or seconds <= 0:
        return ""
    rate = count / seconds
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 0.1 else f"{rate * 60:.1f}/min"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def show_table(heading: str, table: Table) -> None:
    """Write one of the tables of results, in a part for each training size."""
    for group, _, _ in table.groups:
        shown = rich.table.Table(
            title=f"{heading} ({group})",
            title_justify="left",
            title_style="",
            box=rich.box.SIMPLE_HEAD,
            collapse_padding=True,
            pad_edge=False,
        )
        columns = [(i, column) for i, column in enumerate(table.columns) if column.group == group]
        shown.add_column(table.target_label, justify="left", no_wrap=True)
        for i, column in columns:
            label = f"{column.label} ({column.unit})" if column.unit else column.label
            # Headings wrap between words, numbers do not.
            width = max(len(text) for text in (*label.split(), *(row[i] for row in table.rows)))
            shown.add_column(label, justify="right", min_width=width)
        for target, row in table.by_target:
            shown.add_row(target, *(row[i] for i, _ in columns))
        err.print(shown)


def show_summary(tables: Mapping[str, Table], lines: Sequence[str]) -> None:
    """Write the tables of results by their headings, and lines about structures."""
    for heading, table in tables.items():
        show_table(heading, table)
    for line in lines:
        out.print(line)


def plain_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Sequence[int] = (),
    colored: int,
    styles: Sequence[str],
    shortened: int,
) -> None:
    """Write a table that fits the terminal.

    Args:
        head: Names of the columns.
        rows: Cells.
        left: Columns that are aligned to the left.
        colored: Column with the colour of its row.
        styles: A colour for each row.
        shortened: Column whose cells lose their middle where the terminal is narrow.
    """
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    room = err.width - sum(widths) + widths[shortened] - 2 * len(head) - 2
    room = max(8, len(head[shortened]), min(room, widths[shortened]))
    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, name in enumerate(head):
        shown.add_column(name, justify="left" if i in left else "right", no_wrap=True)
    for row, style in zip(rows, styles, strict=True):
        cells = list(row)
        if len(cells[shortened]) > room:
            begin, end = (room - 1) // 2, room - 1 - (room - 1) // 2
            cells[shortened] = f"{cells[shortened][:begin]}…{cells[shortened][-end:]}"
        shown.add_row(*(Text(cell, style=style if i == colored else "") for i, cell in enumerate(cells)))
    err.print(shown)


def show_facts(facts: Mapping[str, object], *, width: int) -> None:
    """Write names and values, one pair a line, to stdout."""
    for name, value in facts.items():
        out.print(Text.assemble((f"{name:<{width}}", "bold"), f" {value}"))


def show_error(error: BaseException) -> None:
    """Write one clear message; with WHORL_DEBUG=1 the traceback too."""
    if os.environ.get("WHORL_DEBUG") == "1":
        err.print_exception()
    err.print(Text("error: ", style="bold red").append(str(error), style="default"))


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Write a warning of Python's as one line; see :func:`warnings.showwarning`."""
    err.print(Text("warning: ", style="yellow").append(str(message), style="default"))


@contextmanager
def monitored(executor: str | None = None) -> Iterator[ConsoleMonitor]:
    """Show the progress of a command; end with code 3 if entries were skipped or doubted.

    Args:
        executor: Does its long work: what ``--executor`` says.

    Raises:
        SystemExit: Code 3, after everything else went well.
    """
    with executing(executor_settings(executor)), ConsoleMonitor() as monitor:
        yield monitor
    monitor.summary()
    if monitor.skipped or monitor.doubts:
        raise SystemExit(3)
