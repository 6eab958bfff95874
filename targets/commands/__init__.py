"""The commands whose noun is a target, a device or what was measured there."""
