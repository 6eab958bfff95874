"""The commands whose noun is pictures and people."""
