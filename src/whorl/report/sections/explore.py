"""Section of the interactive viewer."""

from __future__ import annotations

from whorl.report.sections.base import ReportContext, ReportSection
from whorl.report.viewer import embed_viewer, viewer_is_there
from whorl.report.widgets import render


class Explore(ReportSection):
    """Structures in chemiscope, real and generated ones in one map."""

    kind = "explore"
    title = "Explore the structures"
    order = 85

    def applies(self, context: ReportContext) -> bool:
        """Whether there are structures, and a viewer in the chemiscope that is installed."""
        if not viewer_is_there():
            return False
        return context.reference.structures is not None or bool(context.candidates)

    def html(self, context: ReportContext) -> str:
        """Return the viewer with its data, packed."""
        viewer = embed_viewer(context)
        assert viewer is not None
        return render("sections/explore.html", viewer=viewer)
