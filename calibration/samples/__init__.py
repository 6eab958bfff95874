"""What networks are trained and calibrated on: crops and scenes."""
