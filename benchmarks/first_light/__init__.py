"""First light: what one GPU can show in a quarter of an hour, shortest check first; see `__main__`."""
