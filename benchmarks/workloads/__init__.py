"""The workloads: backlogs of one table each, in transactions of about 1,000 rows."""

from __future__ import annotations

from benchmarks.workloads.documents import DOCUMENTS
from benchmarks.workloads.keyless import KEYLESS
from benchmarks.workloads.orders import ORDERS
from benchmarks.workloads.toast import TOAST
from benchmarks.workloads.wide import WIDE
from benchmarks.workloads.workload import Workload

WORKLOADS: dict[str, Workload] = {w.name: w for w in (ORDERS, WIDE, DOCUMENTS, TOAST, KEYLESS)}

__all__ = ["WORKLOADS", "Workload"]
