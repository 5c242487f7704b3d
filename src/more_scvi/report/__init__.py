"""The report of an evaluation: one HTML page that needs no network, and the same figures as JSON."""

from ._inputs import ReportInputs, add_umaps
from ._write import write_report

__all__ = ["ReportInputs", "add_umaps", "write_report"]
