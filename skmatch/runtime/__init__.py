"""Recommendations from an exported folder, with numpy and onnxruntime alone.

`load` reads a folder that `skmatch.export.to_onnx` wrote, without torch, scikit-learn or pandas.
"""

from skmatch.runtime._load import load
from skmatch.runtime._recommender import Recommender

__all__ = ["Recommender", "load"]
