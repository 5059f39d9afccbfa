"""Pictures of a run, as files.  Not imported with the part: most runs draw none, and pay nothing for it."""

from pytest_elastic.report._html import write_page
from pytest_elastic.report._perfetto import write_trace
from pytest_elastic.report._timeline import Picture

__all__ = ["Picture", "write_page", "write_trace"]
