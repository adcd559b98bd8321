"""The command line as a whole: commands, version, errors and exit codes."""

from __future__ import annotations

import errno
from contextvars import ContextVar
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from whorl.cli.console import err, out, show_error
from whorl.errors import ResultsAwaitedError, UsageError, WhorlError
from whorl.version import __version__

_EPILOG = (
    "Exit codes: 0 success · 1 invalid input (the message says what to change) · 2 wrong usage "
    "· 3 success, but some input entries were skipped or are doubtful (listed), or results of another "
    "program are awaited · 130 stopped by Ctrl-C. "
    "WHORL_DEBUG=1 shows tracebacks."
)


_ORDER = (
    "init",
    "run",
    "data",
    "encode",
    "train",
    "generate",
    "propose",
    "invert",
    "decode",
    "refine",
    "evaluate",
    "compare",
    "dft",
    "report",
    "show",
)


_given: ContextVar[frozenset[str]] = ContextVar("options", default=frozenset())


def given_options() -> frozenset[str]:
    """Return the names of the parameters that were given on the command line."""
    return _given.get()


class OnceCommand(TyperCommand):
    """A command that rejects a repeated single-value option, one of whose values would be ignored."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments."""
        if not ctx.resilient_parsing:
            _, _, options = self.make_parser(ctx).parse_args(args=list(args))
            _given.set(frozenset(str(option.name) for option in options))
            for option in options:
                once = option.param_type_name == "option" and not option.multiple and not option.is_eager
                if once and options.count(option) > 1:
                    ctx.fail(f"{option.opts[0]} is given twice, and takes one value. Leave one of them out.")
        return super().parse_args(ctx, args)


class CommandTable(typer.Typer):
    """A command group whose commands reject repeated single-value options."""

    def command(self, *args: Any, **kwargs: Any) -> Any:
        """Add a command."""
        return super().command(*args, **{"cls": OnceCommand, **kwargs})


class Commands(TyperGroup):
    """Lists the commands in the order of the pipeline; turns errors into one message and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        return sorted(super().list_commands(ctx), key=lambda name: [*_ORDER, name].index(name))

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ResultsAwaitedError as awaited:
            err.print(str(awaited))
            raise typer.Exit(3) from None
        except WhorlError as error:
            show_error(error)
            raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None
        except KeyboardInterrupt:
            err.print("\nstopped; run the same command to continue")
            raise typer.Exit(130) from None
        except OSError as error:
            if error.errno in (None, errno.EPIPE):
                raise
            where = f"{error.filename}: " if error.filename else ""
            remedy = "Finished work is kept: correct this and run the same command again."
            show_error(WhorlError(f"{where}{error.strerror}. {remedy}"))
            raise typer.Exit(1) from None


def _print_version(wanted: bool) -> bool:
    if wanted:
        out.print(f"whorl {__version__}")
        raise typer.Exit
    return wanted


app = CommandTable(
    name="whorl",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    add_completion=False,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def whorl(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Inverse design of atomic structures through their fingerprints.

    Train on labelled structures, name a property value, and get new structures for it.
    `whorl init pt10_emt` writes a recipe and `whorl run pt10_emt.yaml` runs all of its stages; the other
    commands are single stages, from files to files.
    """
