"""What an app ships: header, manifest, archive."""
