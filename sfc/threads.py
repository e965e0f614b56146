"""The threads of a process, supervised: one that ends or hangs makes the process unhealthy, and the message names it.

What runs for as long as the process, or for a term of it, is started here, and gives a sign of life (`beat`) again and
again. Liveness probes are answered by `problem`. A process calls it in its main thread, too, so that the log has the
answer even when the thread hangs that answers probes.

A thread that some other thread waits for, such as that of a single call, is supervised through the one that waits.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor  # noqa: TID251
from typing import Any, TypeVar
from weakref import WeakSet

log = logging.getLogger(__name__)

T = TypeVar("T")
Thread = threading.Thread  # noqa: TID251 - for annotations

SILENT_SECONDS = 180.0
"""Without a sign of life, a thread is taken to hang. Twice as long as a watch may be silent (kube/watch.py)."""


def never() -> bool:
    """For a thread that runs as long as the process."""
    return False


def every(seconds: float, stop: threading.Event, step: Callable[[], object], failure: str) -> None:
    """Takes the step after each so many seconds, until `stop` is set. A step that raises is logged as the failure, and
    the next one is taken all the same."""
    while not stop.wait(seconds):
        beat()
        try:
            step()
        except Exception:
            log.exception(failure)


class _Life:
    """What is known of a thread."""

    def __init__(self, name: str, until: Callable[[], bool], silent: float, now: float) -> None:
        self.name = name
        self.until = until
        self.silent = silent
        self.beat_at = now
        self.ident: int | None = None
        self.ended: str | None = None
        """Why it ended, when nobody had asked for that."""
        self.told = False
        """Whether the log says that it hangs."""


class Supervisor:
    """The threads of one process. Every method may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._guard = threading.Lock()
        self._lives: list[_Life] = []
        self._pools: WeakSet[_Pool] = WeakSet()
        self._own = threading.local()

    def start(
        self,
        name: str,
        run: Callable[[], object],
        *,
        until: Callable[[], bool] = never,
        silent: float = SILENT_SECONDS,
    ) -> Thread:
        """Starts a daemon thread. It runs until `until()` is true, and calls `beat` at least every `silent` seconds."""
        life = _Life(name, until, silent, self._clock())
        thread = Thread(target=self._live, args=(life, run), name=name, daemon=True)
        with self._guard:
            self._lives.append(life)
        thread.start()
        return thread

    def adopt(self, name: str, *, until: Callable[[], bool] = never, silent: float = SILENT_SECONDS) -> None:
        """Supervises the thread that calls this, which runs already: the main thread of a process."""
        life = _Life(name, until, silent, self._clock())
        life.ident = threading.get_ident()
        self._own.life = life
        with self._guard:
            self._lives.append(life)

    def pool(self, workers: int, name: str, *, longest: float = SILENT_SECONDS) -> ThreadPoolExecutor:
        """Threads for tasks, none of which takes longer than `longest` seconds."""
        made = _Pool(workers, name, longest, self._clock)
        with self._guard:
            self._pools.add(made)
        return made

    def beat(self) -> None:
        """A sign of life of the thread that calls this; of one that is not supervised, nothing."""
        life: _Life | None = getattr(self._own, "life", None)
        if life:
            life.beat_at = self._clock()

    def problem(self) -> str | None:
        """Which threads ended or hang, or None. Logs each of them once."""
        with self._guard:
            self._lives = [life for life in self._lives if not (life.ended and life.until())]
            lives, pools = self._lives, list(self._pools)
        now = self._clock()
        found = [
            *filter(None, (self._trouble(life, now) for life in lives)),
            *(p for each in pools for p in each.late(now)),
        ]
        return "; ".join(found) or None

    def _live(self, life: _Life, run: Callable[[], object]) -> None:
        life.ident = threading.get_ident()
        self._own.life = life
        error: BaseException | None = None
        try:
            run()
        except BaseException as raised:  # noqa: BLE001 - what ends a thread is reported, whatever it is
            error = raised
        if error is None and life.until():
            with self._guard:
                self._lives = [each for each in self._lives if each is not life]
            return
        life.ended = f"{type(error).__name__}: {error}" if error else "its function returned"
        log.error("thread ended", extra={"thread_name": life.name, "error": life.ended}, exc_info=error)

    def _trouble(self, life: _Life, now: float) -> str | None:
        if life.until():
            return None
        if life.ended:
            return f"thread {life.name} ended: {life.ended}"
        silent = now - life.beat_at
        if silent <= life.silent:
            if life.told:
                life.told = False
                log.info("thread goes on", extra={"thread_name": life.name})
            return None
        if not life.told:
            life.told = True
            log.error(
                "thread hangs",
                extra={"thread_name": life.name, "silent_seconds": round(silent), "stack": _stack(life.ident)},
            )
        return f"thread {life.name} hangs: no sign of life for {silent:.0f} s"


class _Pool(ThreadPoolExecutor):
    """A pool that knows since when its threads have been at their tasks."""

    def __init__(self, workers: int, name: str, longest: float, clock: Callable[[], float]) -> None:
        super().__init__(workers, name)
        self._name = name
        self._longest = longest
        self._clock = clock
        self._busy: dict[int, tuple[str, float]] = {}
        """By thread: its task, and since when."""
        self._told: set[int] = set()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As every executor."""
        return super().submit(self._perform, fn, *args, **kwargs)

    def late(self, now: float) -> list[str]:
        """A sentence for each task that takes too long."""
        found = []
        for ident, (task, since) in list(self._busy.items()):
            if now - since <= self._longest:
                continue
            if ident not in self._told:
                self._told.add(ident)
                extra = {
                    "thread_name": self._name,
                    "task": task,
                    "silent_seconds": round(now - since),
                    "stack": _stack(ident),
                }
                log.error("thread hangs", extra=extra)
            found.append(f"thread {self._name} hangs: {task} for {now - since:.0f} s")
        return found

    def _perform(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        ident = threading.get_ident()
        self._busy[ident] = getattr(fn, "__name__", repr(fn)), self._clock()
        try:
            return fn(*args, **kwargs)
        finally:
            del self._busy[ident]
            self._told.discard(ident)


def _stack(ident: int | None) -> str:
    """Where the thread is now."""
    frame = sys._current_frames().get(ident) if ident is not None else None
    return "".join(traceback.format_stack(frame)) if frame else ""


_PROCESS = Supervisor()
start, adopt, pool, beat, problem = (
    _PROCESS.start,
    _PROCESS.adopt,
    _PROCESS.pool,
    _PROCESS.beat,
    _PROCESS.problem,
)
"""Of this process; as methods of Supervisor."""
