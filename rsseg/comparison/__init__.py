"""Which loss serves which metric."""
