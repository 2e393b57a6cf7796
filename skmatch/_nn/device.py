"""Choice of the device."""

from __future__ import annotations

import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(device: str) -> torch.device:
    """Give the device of a name; "auto" takes a GPU where there is one."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next((name for name, is_there in available.items() if is_there), "cpu"))
    name = device.split(":")[0]
    if name not in DEVICES:
        raise ValueError(f"device={device!r} is not known; choose one of {DEVICES}.")
    if not available.get(name, True):
        raise ValueError(f"device={device!r} is not available here; use device='auto' or 'cpu'.")
    return torch.device(device)
