"""The loss terms, one module each; `rsseg.losses` describes their common contract."""
