"""Check of the contract of report sections."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whorl.report.sections.base import ReportContext, ReportSection

_VOID = {"br", "hr", "img", "input", "link", "meta"}


def check_report_section(section: ReportSection, context: ReportContext) -> None:
    """Check the contract of a :class:`whorl.report.sections.base.ReportSection`.

    Args:
        section: To be checked.
        context: Of a run that it applies to.

    Raises:
        AssertionError: Says which part of the contract is broken.
    """
    name = type(section).__name__
    assert isinstance(section.title, str), f"{name}: its title is no text"
    assert isinstance(section.order, int | float), f"{name}: its order is no number"
    applies = section.applies(context)
    assert isinstance(applies, bool), f"{name}: applies() answers {applies!r}, expected True or False"
    assert applies, f"{name}: does not apply to this run, so that its contents cannot be checked"
    html = section.html(context)
    assert isinstance(html, str), f"{name}: html() returns a {type(html).__name__}, expected a str"
    outline = _Outline(name)
    outline.feed(html)
    outline.close()
    assert not outline.open, f"{name}: <{outline.open[-1]}> is never closed"
    assert outline.contents, f"{name}: is empty though it applies"
    assert section.html(context) == html, f"{name}: the same run gives different contents"


class _Outline(HTMLParser):
    """Checks that tags nest, and that nothing outside the page is referred to."""

    def __init__(self, name: str) -> None:
        super().__init__(convert_charrefs=True)
        self.name, self.open, self.contents = name, list[str](), False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("html", "head", "body", "h1", "h2"), f"{self.name}: <{tag}> belongs to the page"
        self.contents = True
        for key, value in attrs:
            outside = key in ("src", "href") and not (value or "").startswith(("data:", "#"))
            assert not outside, f"{self.name}: refers to {value!r}; the page has to hold all it shows"
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        last = self.open.pop() if self.open else None
        assert last == tag, f"{self.name}: </{tag}> closes {f'<{last}>' if last else 'nothing'}"

    def handle_data(self, data: str) -> None:
        self.contents = self.contents or bool(data.strip())
