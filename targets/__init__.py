"""Host room: devices and what is built for them."""

from pathlib import Path

__all__ = ["CHECKOUT", "ROOM"]

ROOM = Path(__file__).resolve().parent
"""This room's folder: the data that ships with it lies below."""

CHECKOUT = ROOM.parent
"""The folder of the whole checkout: lock files, environments, licence."""
