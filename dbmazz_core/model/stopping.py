"""Requests to stop."""

from __future__ import annotations


class StopRequested(Exception):
    """A source that waited, or a copy, was asked to stop. It is not an error."""
