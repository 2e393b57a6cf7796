"""Training in the processes of torch's default group, or in this process alone.

Each process reads its part of every batch. Gradients are summed over the processes, so that all of
them take the same steps and end with bit-identical weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from skmatch._columns import PADDING
from skmatch._nn.device import is_async
from skmatch._nn.embedding import pad_repeats, sum_by_code

Value = TypeVar("Value")
Function = TypeVar("Function", bound=Callable)


def size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if size() > 1 else 0


def _collective(function: Function) -> Function:
    """Re-raise the errors of a failed process with the remedy; torch names only a connection."""

    @wraps(function)
    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except RuntimeError as error:
            raise RuntimeError(
                f"Another process of the group failed or stopped ({error}). Restart all of them; "
                "with a Checkpoint they continue after its last epoch."
            ) from error

    return cast(Function, call)


@_collective
def broadcast(value: Value) -> Value:
    """Return the value of the first process."""
    values = [value]
    if size() > 1:
        dist.broadcast_object_list(values)
    return values[0]


@_collective
def check_same(setting: dict[str, Any]) -> None:
    """Raise if the processes fit different data or parameters."""
    if size() == 1:
        return
    settings: list[dict[str, Any]] = [{}] * size()
    dist.all_gather_object(settings, setting)
    for process, process_setting in enumerate(settings):
        for name, value in process_setting.items():
            if value != settings[0][name]:
                raise ValueError(
                    f"Process {process} of the group fits with {name}={value!r}, and process 0 "
                    f"with {settings[0][name]!r}: all need the same events, parameters and "
                    "checkpoint."
                )


@_collective
def all_reduce(values: Tensor) -> Tensor:
    """Sum values over the processes, in place, and return them."""
    if size() > 1:
        dist.all_reduce(values)
    return values


@_collective
def sum_rows(codes: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sum rows, (M, D), of equal codes over the processes; return the codes and their sums."""
    if size() == 1:
        return codes, rows
    if is_async(codes.device):  # merge repeats, since the exchange synchronises anyway
        is_kept = pad_repeats(codes) != PADDING
        codes, rows = codes[is_kept], rows[is_kept]
    counts = [int(count) for count in _gather(torch.tensor([len(codes)], device=codes.device))]
    padded = rows.new_zeros(max(counts), rows.shape[1]), codes.new_zeros(max(counts))
    for buffer, values in zip(padded, (rows, codes), strict=True):
        buffer[: len(values)] = values
    all_rows, all_codes = (
        [part[:n] for part, n in zip(_gather(buffer), counts, strict=True)] for buffer in padded
    )
    # In rank order, so that the sums are the same in all processes.
    return sum_by_code(list(zip(all_codes, all_rows, strict=True)))


def _gather(values: Tensor) -> list[Tensor]:
    """Return the values of every process; they have equal shapes."""
    parts = [torch.empty_like(values) for _ in range(size())]
    dist.all_gather(parts, values)
    return parts


@_collective
def broadcast_tensors(values: Any) -> None:
    """Copy the tensors of the first process to all others."""
    if size() > 1:
        for value in values:
            dist.broadcast(value, 0)
