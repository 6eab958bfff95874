"""An artifact on a device, by one of three runners."""
