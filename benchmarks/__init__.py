"""Benchmarks against PostgreSQL's own tools: `make bench`. Compare ratios within one run, not absolute times."""
