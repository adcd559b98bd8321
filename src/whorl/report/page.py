"""The report: one HTML page, composed of sections, that needs no other file and no network."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from whorl.axes import SECTIONS
from whorl.errors import WhorlError
from whorl.files import write_text
from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.subject import describe
from whorl.report.widgets import render


@dataclass(frozen=True, kw_only=True)
class PageSection:
    """A section ready to be put into a page.

    Attributes:
        kind: Anchor.
        title: Heading and link; empty for a section without either, and without a frame.
        html: Contents.
    """

    kind: str
    title: str
    html: str


def write_report(path: Path | str, context: ReportContext) -> None:
    """Write the report of a run: all registered sections that apply, in their order.

    A section that raises is replaced by a sentence that says so, with a warning: it does not take the page
    along.

    Args:
        path: The page.
        context: What the run has made.
    """
    sections = [
        rendered for section in report_sections() if (rendered := _rendered(section, context)) is not None
    ]
    subject = describe(context.recipe, context.results)
    subtitle = f"{subject[0][1]}: structures generated through their fingerprints"
    write_page(path, title=context.title, subtitle=subtitle, sections=sections)


def write_page(path: Path | str, *, title: str, subtitle: str, sections: Sequence[PageSection]) -> None:
    """Write a page of sections: one HTML file that needs no other file and no network."""
    write_text(path, render("page.html", title=title, subtitle=subtitle, sections=sections))


def report_sections() -> list[ReportSection]:
    """Return all sections in order; one that cannot be imported is left out with a warning."""
    sections = []
    for name in SECTIONS:
        try:
            sections.append(SECTIONS.get(name)())
        except WhorlError as error:
            warnings.warn(f"report: {error}", stacklevel=2)
    return sorted(sections, key=lambda section: section.order)


def _rendered(section: ReportSection, context: ReportContext) -> PageSection | None:
    try:
        html = section.html(context) if section.applies(context) else None
    except Exception as error:
        sentence = f"This section could not be made ({type(error).__name__}: {error})."
        warnings.warn(f"report, section {section.kind}: {sentence}", stacklevel=2)
        html = render("sections/table.html", tables=[], captions=[sentence])
    return None if html is None else PageSection(kind=section.kind, title=section.title, html=html)
