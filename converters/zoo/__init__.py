"""The models that have a name, and where they come from."""
