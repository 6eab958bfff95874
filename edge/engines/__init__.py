"""One file an engine: ``open_engine(artifact, settings) -> Session``."""
