"""The trainers that the kit knows by name, each behind the border of `adapter.py`."""
