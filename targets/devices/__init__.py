"""The state of a device: reading it, setting it up, putting it back."""
