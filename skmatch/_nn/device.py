"""Choice of the device, and independence of torch's global settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


def is_async(device: torch.device) -> bool:
    """Return whether `.item()` and the like synchronise with the device.

    No step of training may do that: the device would idle until it gets further work.
    """
    return device.type != "cpu"


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Return the most precise float that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def resolve_device(device: str) -> torch.device:
    """Return the device of a name; "auto" takes a GPU where there is one."""
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
    is_available = available.get(name, True)
    if name == "cuda" and number:
        is_available = int(number) < torch.cuda.device_count()
    if not is_available:
        raise ValueError(f"device={device!r} is not available here; use device='auto' or 'cpu'.")
    return torch.device(device)


@contextmanager
def isolated() -> Iterator[None]:
    """Train the same way whatever gradient mode, autocast or default device the caller has set.

    The caller's modes are restored at the end, also after an interrupt inside torch's own context
    managers.
    """
    grad_enabled = torch.is_grad_enabled()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            yield
    finally:
        torch.set_grad_enabled(grad_enabled)


@contextmanager
def seeded(seed: int, is_needed: bool = True) -> Iterator[None]:
    """Seed torch's global generators and draw float32; restore all of that afterwards."""
    if not is_needed:
        yield
        return
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(default)
