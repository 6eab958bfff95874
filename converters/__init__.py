"""Host room: an ONNX file or checkpoint becomes verified artifacts.

Reading order: ``onnx_file`` (what may come in), ``recognise`` (what kind of model it is),
``prepare`` (ONNX -> ONNX), ``onnx`` and ``ncnn`(one function a format), ``parity`` (were the
answers kept), ``chain`` (steps, cache, nothing half-written), ``convert`` (all of it), ``zoo``.
"""
