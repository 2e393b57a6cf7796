"""Fitted pipelines as files that other programs read: towers in ONNX, vectors and ids."""

from skmatch.export._to_onnx import to_onnx

__all__ = ["to_onnx"]
