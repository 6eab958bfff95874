"""One converter or quantiser a format."""
