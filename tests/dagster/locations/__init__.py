"""Code locations that tests run in processes of their own; the environment describes the capture."""
