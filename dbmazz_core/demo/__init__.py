"""The demo: a private PostgreSQL, a workload on it, and what dbmazz makes of it."""
