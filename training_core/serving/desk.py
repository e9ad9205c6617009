"""Where requests are taken in, wait for their turn, and are answered: never more at once than there is room for."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from training_core.serving.answers import answer_rows
from training_core.serving.config import ServingConfig
from training_core.serving.current import CurrentModel
from training_core.serving.meters import Meters
from training_core.serving.requests import RefusedError, read_request


class Desk:
    """Answers bodies of requests in threads of its own, within the limits of a configuration."""

    def __init__(self, current: CurrentModel, config: ServingConfig, meters: Meters) -> None:
        self._current, self._config, self._meters = current, config, meters
        self._pool = ThreadPoolExecutor(config.workers, thread_name_prefix="answer")
        self.in_progress = 0

    async def answer(self, chunks: AsyncIterator[bytes], announced_bytes: int) -> tuple[bytes, int]:
        """The answer to one request, and for how many rows it is.

        Args:
            chunks: the body as it arrives.
            announced_bytes: how long the sender says it is; 0 when it does not say.

        Raises:
            RefusedError: it is too long (413), too slow (408), does not fit the model (400, 413, 422), there is no
                room for it or no time left to answer it (503).
        """
        began = time.monotonic()
        with self._place():
            try:
                async with asyncio.timeout(self._config.timeout_seconds):
                    body = await self._read(chunks, announced_bytes)
            except TimeoutError:
                raise RefusedError(f"the body took longer than {self._limit} to arrive", 408) from None
            left = self._config.timeout_seconds - (time.monotonic() - began)
            try:
                work = asyncio.get_running_loop().run_in_executor(self._pool, self._work, body, began)
                return await asyncio.wait_for(work, left)
            except TimeoutError:
                raise RefusedError(f"there was no answer within {self._limit}; ask for fewer rows", 503) from None

    def close(self) -> None:
        """Take in no more; what is being answered is answered."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def _limit(self) -> str:
        return f"{self._config.timeout_seconds:g} s"

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A place among the requests that are taken in; only the event loop's thread comes here."""
        if self.in_progress >= self._config.max_waiting:
            raise RefusedError(f"{self.in_progress} requests are being answered already; ask again in a moment", 503)
        self.in_progress += 1
        try:
            yield
        finally:
            self.in_progress -= 1

    async def _read(self, chunks: AsyncIterator[bytes], announced_bytes: int) -> bytes:
        limit = self._config.max_bytes
        body = bytearray()
        if announced_bytes <= limit:
            async for chunk in chunks:
                body += chunk
                if len(body) > limit:
                    break
        if max(announced_bytes, len(body)) > limit:
            raise RefusedError(f"the body is longer than {limit:,} bytes; send fewer rows at once", 413)
        return bytes(body)

    def _work(self, body: bytes, began: float) -> tuple[bytes, int]:
        served = self._current.now
        samples = read_request(body, served.ensemble.spec, self._config.max_rows)
        rows = answer_rows(served.ensemble, samples)
        text = json.dumps({"model": served.uri, "predictions": rows}, ensure_ascii=False, allow_nan=False)
        missing = Counter(name for row in rows for name in row["missing"])
        self._meters.count_answer(len(rows), missing, time.monotonic() - began)
        return text.encode(), len(rows)
