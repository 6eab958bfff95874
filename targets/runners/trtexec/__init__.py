"""TensorRT's own program as a runner."""
