"""Measurements against PostgreSQL's own tools, all in one run: `make bench`. Absolute times mean little, ratios do."""
