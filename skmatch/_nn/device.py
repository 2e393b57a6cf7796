"""Choice of the device."""

from __future__ import annotations

import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(device: str) -> torch.device:
    """Give the device of a name; "auto" takes a GPU where there is one."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next((name for name, is_there in available.items() if is_there), "cpu"))
    name, colon, number = device.partition(":")
    if name not in DEVICES or (colon and (name == "auto" or not number.isdecimal())):
        names = ", ".join(map(repr, DEVICES))
        raise ValueError(
            f"device={device!r} is not known; choose one of {names}, or one GPU of several, such "
            "as 'cuda:1'."
        )
    is_there = available.get(name, True)
    if name == "cuda" and number:
        is_there = int(number) < torch.cuda.device_count()
    if not is_there:
        raise ValueError(f"device={device!r} is not available here; use device='auto' or 'cpu'.")
    return torch.device(device)
