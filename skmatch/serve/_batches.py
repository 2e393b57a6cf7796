"""`Batcher`: a single call for all requests that arrive while the last call runs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from skmatch.serve._requests import RequestError

Respond = Callable[[Sequence[Any]], Sequence[Any]]


class Batcher:
    """Collects requests and responds to them in a thread, a batch at a time.

    A request that arrives while no batch runs is responded to at once; requests that arrive
    meanwhile wait and form the next batch. Use it within a single event loop.

    Parameters
    ----------
    respond : callable
        Takes a list of requests and returns a response or an exception for each.
    largest : int
        Number of requests in a batch, at most.
    limit : int
        Number of requests that wait, at most; beyond, `submit` raises a RequestError of status 429.
    timeout : float
        Seconds after which `submit` raises a RequestError of status 503.
    is_final : bool
        Whether a request whose batch has begun is waited for beyond the timeout, since it changes
        the model.
    """

    def __init__(
        self, respond: Respond, *, largest: int, limit: int, timeout: float, is_final: bool = False
    ):
        self.respond = respond
        self.largest = largest
        self.limit = limit
        self.timeout = timeout
        self.is_final = is_final
        self._waiting: deque[tuple[Any, asyncio.Future]] = deque()
        self._begun: set[asyncio.Future] = set()
        self._runner: asyncio.Task | None = None
        self._thread = ThreadPoolExecutor(1)

    def __len__(self) -> int:
        """Return the number of requests that wait."""
        return len(self._waiting)

    async def submit(self, request: Any) -> Any:
        """Return the response to a request; raise its error."""
        if len(self._waiting) >= self.limit:
            raise RequestError(429, f"{self.limit} requests wait already: send this one later.")
        response = asyncio.get_running_loop().create_future()
        self._waiting.append((request, response))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        await asyncio.wait([response], timeout=self.timeout)
        if self.is_final and response in self._begun:
            await asyncio.wait([response])
        if not response.done():
            response.cancel()  # a batch that has not begun leaves it out
            raise RequestError(
                503, f"No response within {self.timeout:g} seconds: send this request again later."
            )
        return response.result()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch: list[tuple[Any, asyncio.Future]] = []
            while self._waiting and len(batch) < self.largest:
                request, response = self._waiting.popleft()
                if not response.done():
                    batch.append((request, response))
            if not batch:
                break
            requests, responses = zip(*batch, strict=True)
            self._begun.update(responses)
            try:
                values = await loop.run_in_executor(self._thread, self.respond, requests)
            except Exception as error:
                values = [error] * len(batch)
            self._begun.clear()
            for response, value in zip(responses, values, strict=True):
                if response.done():  # cancelled after the timeout
                    continue
                if isinstance(value, Exception):
                    response.set_exception(value)
                else:
                    response.set_result(value)
        self._runner = None

    def close(self) -> None:
        """Wait for the batch that runs, if any, and end the thread."""
        self._thread.shutdown()
