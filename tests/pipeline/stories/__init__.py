"""What can happen to the definition of a captured table within one window, for `test_definitions_in_force.py`."""
