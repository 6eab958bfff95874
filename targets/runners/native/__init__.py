"""The runner in C++: source, build and call."""
