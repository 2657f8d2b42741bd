"""What runs record, which are compared, how surely they differ, and the report of it; `rsseg.answer` puts it together."""
