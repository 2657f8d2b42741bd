"""The loss terms, one module each; what they have in common is said in `rsseg.losses`."""
