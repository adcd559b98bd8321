"""Docstrings as Markdown: Sphinx roles become links and mathematics, examples become blocks of code."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(class|func|meth|attr|data|mod|exc|math):`([^`]+)`", re.DOTALL)
_DIRECTIVE = re.compile(r"^(?P<indent> *)\.\. (?P<name>math|code-block):: *(?P<rest>.*)$")


class MarkdownDocstrings(griffe.Extension):
    """Rewrites all docstrings of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite the docstrings of all its members."""
        _rewrite(pkg)


def _rewrite(item: griffe.Object | griffe.Alias) -> None:
    if item.is_alias:
        return
    if item.docstring is not None:
        item.docstring.value = as_markdown(item.docstring.value, item)
    for member in item.members.values():
        _rewrite(member)


def as_markdown(text: str, item: griffe.Object) -> str:
    """Return a docstring in Markdown."""
    return _ROLE.sub(lambda role: _role(role[1], role[2], item), "\n".join(_blocks(text.split("\n"))))


def _role(kind: str, text: str, item: griffe.Object) -> str:
    if kind == "math":
        return rf"\({' '.join(text.split())}\)"
    if titled := re.fullmatch(r"(.+?)\s*<(.+)>", text, re.DOTALL):
        return f'<autoref identifier="{_path(titled[2], item)}" optional>{titled[1]}</autoref>'
    name = text.lstrip("~")
    shown = name.rpartition(".")[2] if text.startswith("~") or name.startswith("whorl.") else name
    if kind == "mod":
        shown = name
    if kind in ("func", "meth"):
        shown += "()"
    # Optional: what the pages do not show has no link.
    return f'<autoref identifier="{_path(name, item)}" optional><code>{shown}</code></autoref>'


def _path(name: str, item: griffe.Object) -> str:
    if name.startswith("whorl."):
        return name
    try:
        return item.resolve(name)
    except griffe.NameResolutionError:
        return name


def _blocks(lines: list[str]) -> list[str]:
    """Replace directives and examples by blocks of Markdown."""
    written: list[str] = []
    while lines:
        line = lines.pop(0)
        directive = _DIRECTIVE.match(line)
        if directive:
            indent = directive["indent"]
            body = _indented(lines, len(indent))
            if directive["name"] == "math":
                body = [directive["rest"], *body] if directive["rest"] else body
                written += ["", *(indent + part for part in _mathematics(body)), ""]
            else:
                written += [
                    f"{indent}```{directive['rest']}",
                    *(indent + part for part in body),
                    f"{indent}```",
                ]
        elif line.lstrip().startswith(">>>"):
            indent = line[: len(line) - len(line.lstrip())]
            example = [line]
            while lines and lines[0].strip():
                example.append(lines.pop(0))
            example = [re.sub(r"\s+# doctest:.*$", "", part) for part in example]
            written += ["", f"{indent}```pycon", *example, f"{indent}```", ""]
        else:
            written.append(line)
    return written


def _indented(lines: list[str], indent: int) -> list[str]:
    """Take the lines of a directive's body away from ``lines``."""
    body: list[str] = []
    while lines and (not lines[0].strip() or len(lines[0]) - len(lines[0].lstrip()) > indent):
        body.append(lines.pop(0))
    while body and not body[-1].strip():
        body.pop()
    while body and not body[0].strip():
        body.pop(0)
    margin = min((len(line) - len(line.lstrip()) for line in body if line.strip()), default=0)
    return [line[margin:] for line in body]


def _mathematics(body: list[str]) -> list[str]:
    body = [line for line in body if line.strip()]
    if any("&" in line or r"\\" in line for line in body):
        body = [r"\begin{aligned}", *body, r"\end{aligned}"]
    return ["$$", *body, "$$"]
