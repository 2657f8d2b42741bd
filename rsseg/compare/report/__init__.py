"""The report of a comparison: words, tables, figures and the page that holds them."""

from rsseg.compare.report.write import write_report

__all__ = ["write_report"]
