"""Errors for people: what was got, what was expected, what to do about it."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class WhorlError(Exception):
    """A mistake the user can mend. The command line prints its message without a traceback."""


class InputError(WhorlError, ValueError):
    """Data, files or settings that cannot be used as they are."""


class MissingExtraError(WhorlError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the option nearest to ``word``, then the list of all options.

    >>> did_you_mean("chgnt", ["emt", "chgnet"])
    " Did you mean 'chgnet'? Choose from: chgnet, emt."
    """
    known = sorted(options)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"{hint} Choose from: {', '.join(known)}."


def unknown_option(kind: str, word: str, options: Iterable[str]) -> InputError:
    """Build the error for a name that is none of ``options``.

    >>> str(unknown_option("calculator", "chgnt", ["emt", "chgnet"]))
    "unknown calculator 'chgnt'. Did you mean 'chgnet'? Choose from: chgnet, emt."
    """
    return InputError(f"unknown {kind} '{word}'.{did_you_mean(word, options)}")


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
