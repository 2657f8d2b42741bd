"""Comparison of runs: their records, statistics and report; `rsseg.answer` puts them together."""
