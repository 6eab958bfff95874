"""The runner in Python: what a device needs for it, and the call."""
