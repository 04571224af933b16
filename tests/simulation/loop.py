"""An asyncio event loop on virtual time, that can be cut off between any two steps.

Time lives in the world, because it goes on over crashes. The loop runs one callback a step and asks the world before
each whether the power is still on. Sets of tasks and cancel scopes iterate in the order of their hashes, which are
addresses; here hashes are drawn, so that two processes run the same seed alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
import sys
from collections.abc import Coroutine
from typing import Any, Protocol

import anyio
import anyio._backends._asyncio as anyio_asyncio
import anyio.lowlevel

MAX_STEPS = 400_000
MAX_SECONDS = 400_000.0
_CLOSING_TRIES = 99


class StuckError(Exception):
    """The run cannot come to an end: nothing is scheduled, or far too much."""


class LeakError(Exception):
    """A real thread or pool got into the simulation."""


class Mains(Protocol):
    """What the loop needs of the world: virtual seconds, and whether the power is on."""

    now: float
    dead: bool

    def tick(self) -> None: ...
    def shuffled(self, count: int) -> int: ...


class _Hashes:
    """The source of drawn hashes; one for the process, because tasks and scopes are made everywhere."""

    draw = random.Random(0).getrandbits


def seed_hashes(seed: int) -> None:
    """Begin a run: the hashes of its tasks and scopes follow from the seed."""
    _Hashes.draw = random.Random(seed).getrandbits


class _Task(asyncio.Task):  # type: ignore[type-arg]
    def __init__(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> None:
        self._drawn_hash = _Hashes.draw(30)
        super().__init__(coro, **kwargs)

    def __hash__(self) -> int:
        return self._drawn_hash


class _Scope(anyio_asyncio.CancelScope):
    __slots__ = ("_drawn_hash",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._drawn_hash = _Hashes.draw(30)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._drawn_hash


anyio_asyncio.CancelScope = _Scope  # type: ignore[misc]


class VirtualLoop(asyncio.BaseEventLoop):
    """One incarnation of the program under test."""

    def __init__(self, mains: Mains) -> None:
        super().__init__()
        self._mains = mains
        self._tasks: list[asyncio.Task[Any]] = []
        self._generators: list[Any] = []
        self.steps = 0
        self.set_exception_handler(lambda loop, context: None)

    def time(self) -> float:
        return self._mains.now

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None, **kwargs: Any) -> Any:
        task = _Task(coro, loop=self, name=name or "task", context=context)
        self._tasks.append(task)
        return task

    def _write_to_self(self) -> None:
        raise LeakError("call_soon_threadsafe: a real thread leaked in")

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        raise LeakError("run_in_executor: a thread pool leaked in")

    def drive(self, coro: Coroutine[Any, Any, None]) -> bool:
        """Run until the coroutine has ended (True; its exception is raised) or the power is cut (False)."""
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._generators.append, finalizer=lambda generator: None)
        asyncio.events._set_running_loop(self)
        task = self.create_task(coro)
        try:
            while not (task.done() or self._mains.dead):
                self._mains.tick()
                if not self._mains.dead:
                    self._step()
            if self._mains.dead or not task.done():
                return False
            task.result()
            return True
        finally:
            self._dispose()  # what is closed now may still ask for the running loop
            asyncio.events._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def _step(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready:
            if not scheduled:
                raise StuckError("deadlock: nothing can ever happen again")
            self._mains.now = max(self._mains.now, scheduled[0]._when)
            while scheduled and scheduled[0]._when <= self._mains.now:
                handle = heapq.heappop(scheduled)
                handle._scheduled = False
                ready.append(handle)
        if len(ready) > 1:
            ready.rotate(-self._mains.shuffled(len(ready)))
        handle = ready.popleft()
        self.steps += 1
        if self.steps > MAX_STEPS or self._mains.now > MAX_SECONDS:
            raise StuckError(f"livelock: no end after {self.steps} steps, {self._mains.now:.0f} virtual seconds")
        if not handle._cancelled:
            handle._run()

    def _dispose(self) -> None:
        """Close what is left. The world is dead by now: `finally` blocks may run, and can touch nothing."""
        self._mains.dead = True
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]
        for task in self._tasks:
            _discard(task)
        for generator in self._generators:
            _swallow(lambda generator=generator: generator.aclose().send(None))
        anyio.lowlevel._run_vars.pop(self, None)  # type: ignore[attr-defined, call-overload]
        self._tasks.clear()
        self._generators.clear()
        self.close()


def _discard(task: asyncio.Task[Any]) -> None:
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    if task.done():
        if not task.cancelled():
            task.exception()
    else:
        coro = task.get_coro()
        frame = getattr(coro, "cr_frame", None)
        holder = frame.f_locals.get("self") if frame is not None else None
        inner = getattr(holder, "_coro", None)  # anyio's wrapper may hold a coroutine that has not begun
        asyncio.tasks._enter_task(task.get_loop(), task)  # anyio's scopes ask who is closing them
        try:
            for each in (inner, coro):
                if each is not None and hasattr(each, "close"):
                    _close(each)
        finally:
            asyncio.tasks._leave_task(task.get_loop(), task)
    anyio_asyncio._task_states.pop(task, None)  # else anyio keeps every abandoned task for ever


def _close(coro: Any) -> None:
    """Unwind it from its innermost await outwards; unlike `close`, this goes on where a `finally` awaits again."""
    for _ in range(_CLOSING_TRIES):
        try:
            coro.throw(_Gone())
        except BaseException:  # it has ended
            return
    coro.close()


class _Gone(BaseException):
    """The process does not exist any more."""


def _swallow(action: Any) -> None:
    with contextlib.suppress(BaseException):  # it is dead already
        action()
