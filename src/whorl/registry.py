"""Registries of the methods of an axis: built-in names, entry points of other packages, import paths.

An axis is a kind of method that a recipe chooses by name: a representation, a generator, a potential ….
Built-in methods are imported on first use. Another package adds its own by an entry point in the axis' group,

.. code-block:: toml

    [project.entry-points."whorl.generators"]
    mine = "my_package.generators:MyGenerator"

or is named in a recipe by its import path, ``my_package.generators:MyGenerator``.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from whorl.errors import InputError, MissingExtraError, unknown_option

T = TypeVar("T")

IMPORT_PATH = "package.module:Class"


class Registry(Generic[T]):
    """The classes of one axis by name.

    Args:
        axis: What one of them is, in the singular, for messages: ``"generator"``.
        group: Entry-point group in which other packages add to it: ``"whorl.generators"``.
        base: Import path of the class that all of them derive from.
        builtin: Import path of each built-in class, by its name.

    >>> from whorl.registry import Registry
    >>> solvers = Registry("solver", group="whorl.solvers", base="whorl.reconstruction.solvers.base:Solver",
    ...     builtin={"adam": "whorl.reconstruction.solvers.adam:Adam"})
    >>> solvers.get("adam").__name__
    'Adam'
    """

    def __init__(self, axis: str, *, group: str, base: str, builtin: Mapping[str, str]) -> None:
        self.axis, self.group = axis, group
        self._base, self._builtin = base, dict(builtin)

    def __repr__(self) -> str:
        """Return the axis and its names."""
        return f"Registry({self.axis}: {', '.join(self)})"

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, built-in ones first."""
        return iter([*self._builtin, *(name for name in self._others if name not in self._builtin)])

    def __contains__(self, name: object) -> bool:
        """Whether a method of this name is registered."""
        return name in self._builtin or name in self._others

    def get(self, name: str, *, imports: bool = True) -> type[T]:
        """Return the class of a name, or of an import path ``package.module:Class``.

        Args:
            name: A registered name, or an import path.
            imports: Whether the module of an import path may be imported. A name that comes from a data file
                must not run code: its module has to be there already.

        Raises:
            InputError: An unknown name, an invalid import path, a plug-in that fails on import, or an
                object that is no subclass of the axis' base.
            MissingExtraError: An optional package of a built-in method is not installed.
        """
        if name in self._builtin:
            return _imported(self._builtin[name])
        if name in self._others:
            entry = self._others[name]
            return self._checked(entry.value, f"{self.axis} '{name}' of the package {_owner(entry)}")
        if ":" in name:
            module = name.partition(":")[0]
            if not imports and module not in sys.modules:
                raise InputError(
                    f"{self.axis} '{name}': is of a module that has not been imported. Import {module} "
                    f"first, or register the class under an entry point of the group {self.group}."
                )
            return self._checked(name, f"{self.axis} '{name}'")
        raise unknown_option(self.axis, name, [*self, IMPORT_PATH])

    def name_of(self, method: type[Any]) -> str:
        """Return the name under which :meth:`get` finds a class: its ``kind``, or else its import path."""
        kind = method.__dict__.get("kind")
        if isinstance(kind, str) and kind in self and self.get(kind) is method:
            return kind
        return f"{method.__module__}:{method.__qualname__}"

    @cached_property
    def _others(self) -> dict[str, Any]:  # a backport may put its own class in EntryPoint's place
        """Entry points of other packages, by name."""
        return {entry.name: entry for entry in entry_points(group=self.group)}

    def _checked(self, path: str, what: str) -> type[T]:
        try:
            method = _imported(path)
        except MissingExtraError:
            raise
        except Exception as error:  # whatever a module of others does when it is imported
            raise InputError(
                f"{what}: cannot be imported from {path} ({type(error).__name__}: {error}). Correct the "
                f"package, or choose another {self.axis}: {', '.join(self._builtin)}."
            ) from error
        base = _imported(self._base)
        if not (isinstance(method, type) and issubclass(method, base)):
            raise InputError(
                f"{what}: {path} is {_described(method)}, expected a subclass of "
                f"{base.__module__}.{base.__name__}."
            )
        if missing := sorted(getattr(method, "__abstractmethods__", ())):
            raise InputError(f"{what}: {path} lacks {', '.join(missing)}, which every {self.axis} has.")
        return method


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _owner(entry: Any) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


def _described(method: Any) -> str:
    if isinstance(method, type):
        return f"the class {method.__name__}"
    return "a module" if inspect.ismodule(method) else f"a {type(method).__name__}"
