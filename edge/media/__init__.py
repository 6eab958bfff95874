"""Pictures and videos: what comes in, told by its bytes, and what is written."""
