"""User-facing errors: what was found, what was expected, what to do."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from itertools import accumulate
from types import ModuleType


class WhorlError(Exception):
    """An error that the user can correct. The command line prints its message without a traceback."""


class InputError(WhorlError, ValueError):
    """Data, files or settings that cannot be used as they are."""


class UsageError(InputError):
    """Arguments of a command that are wrong whatever the data are; the command line ends with code 2."""


class MissingExtraError(WhorlError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class ResultsAwaitedError(WhorlError):
    """A run cannot go on before results of another program are put back; the message says which."""


_QUOTED = 80  # characters of a value that a message quotes
_LISTED = 400  # characters of the options that a message lists; most lists are shorter


def shortened(value: object, limit: int = _QUOTED) -> str:
    r"""Return a value as one line of at most ``limit`` characters, for use in a message.

    >>> shortened("a\nb"), shortened("abcdefgh", 5)
    ('a b', 'abcd…')
    """
    try:
        text = value if isinstance(value, str) else str(value)
    except ValueError:  # Python writes no integers of more than 4,300 digits
        text = "a number of thousands of digits"
    text = " ".join(text[: 10 * limit].split())  # the start of a very long text is enough
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the option nearest to ``word``, then a list of the options.

    >>> did_you_mean("chgnt", ["emt", "chgnet"])
    " Did you mean 'chgnet'? Choose from: chgnet, emt."
    """
    known = sorted(options)
    near = difflib.get_close_matches(shortened(word), known, n=1, cutoff=0.6)
    hint = f" Did you mean '{shortened(near[0], 4 * _QUOTED)}'?" if near else ""
    listed = [shortened(option) for option in known]
    ends = accumulate(len(option) + 2 for option in listed)
    count = max(1, sum(end <= _LISTED for end in ends))
    more = f" and {len(known) - count} more" if count < len(known) else ""
    return f"{hint} Choose from: {', '.join(listed[:count])}{more}."


def unknown_option(kind: str, word: str, options: Iterable[str]) -> InputError:
    """Build the error for a name that is none of ``options``.

    >>> str(unknown_option("calculator", "chgnt", ["emt", "chgnet"]))
    "unknown calculator 'chgnt'. Did you mean 'chgnet'? Choose from: chgnet, emt."
    """
    return InputError(f"unknown {kind} '{shortened(word)}'.{did_you_mean(word, options)}")


def import_extra(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency or say which extra installs it.

    Raises:
        MissingExtraError: ``module`` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs the package '{module.split('.')[0]}', which is not installed. "
            f"Remedy: pip install 'whorl[{extra}]'"
        ) from error
