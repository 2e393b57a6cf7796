"""Choice of the device."""

from __future__ import annotations

import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
# e to the power of it is nothing beside 1 in float32. Of less, even of -inf, an exponential takes
# up to ten times as long on a CPU, and products with the results are slow, too: they are next to 0.
LEAST_EXPONENT = -50.0


def is_waited_for(device: torch.device) -> bool:
    """Tell whether to read a value means to wait until the device has done all that it was given.

    It then stands idle until it is given more: no step of training reads a value there.
    """
    return device.type != "cpu"


def float_for_sums(device: torch.device) -> torch.dtype:
    """Give the float of most digits that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64


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
