"""Accuracy on benchmarks that people can trust: episodes played against a served model, tables, comparisons."""
