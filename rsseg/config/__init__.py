"""From YAML and the command line to checked, built objects."""
