"""ONNX in, prepared ONNX out."""
