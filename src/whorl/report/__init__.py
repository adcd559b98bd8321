"""Reports: one HTML page of sections, tables, structures in files."""

from whorl.report.page import write_report
from whorl.report.structures import write_structures
from whorl.report.tables import make_table, write_samples, write_tables

__all__ = [
    "make_table",
    "write_report",
    "write_samples",
    "write_structures",
    "write_tables",
]
