"""The `dbmazz` command."""
