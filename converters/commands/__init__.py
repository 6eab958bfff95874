"""The commands whose noun is a model or an artifact."""
