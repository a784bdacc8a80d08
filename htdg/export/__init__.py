"""Trained models as ONNX files, for programs that are not written in Python."""
