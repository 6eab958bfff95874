"""Host room: devices and what is built for them."""
