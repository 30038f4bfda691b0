"""ONNX Runtime: sessions, providers, timing."""
