"""Stopping from outside."""

from __future__ import annotations


class StopRequested(Exception):
    """A source, or a copy, was asked to stop while it waited or copied. It is not an error."""
