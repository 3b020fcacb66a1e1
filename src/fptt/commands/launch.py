"""Many trainings at once: in processes of this machine, or on a cluster through submitit."""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from signal import SIGINT
from typing import Any

from fptt.errors import InputError

PAUSE = 0.1  # seconds between two looks at what has ended
SLOW_TO_IMPORT = ["fptt.commands.train", "sklearn.datasets", "torch._dynamo", "torch._inductor.compile_fx"]  # once for all


@dataclass(frozen=True)
class Job:
    """``fptt`` with ``words``; what it prints goes to ``log``."""

    name: str
    words: list[str]
    log: Path


def in_processes(jobs: list[Job], number: int, stop: threading.Event) -> Iterator[tuple[Job, str | None]]:
    """Runs ``jobs``, each in a process of its own, ``number`` at a time.

    Yields each job that has ended, and its last line where it failed. After ``stop`` is set no more are begun, and those that
    run are told to save and end.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // number)))
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload(SLOW_TO_IMPORT)
    waiting, running = deque(jobs), dict[Any, Job]()
    try:
        while running or (waiting and not stop.is_set()):
            while waiting and len(running) < number and not stop.is_set():
                job = waiting.popleft()
                process = context.Process(target=run_logged, args=(job,))  # type: ignore[attr-defined]
                process.start()
                running[process] = job
            for process in [process for process in running if not process.is_alive()]:
                job = running.pop(process)
                if process.exitcode < 0:
                    yield job, f"killed by signal {-process.exitcode}"
                else:
                    yield job, last_line(job.log) if process.exitcode else None
            if stop.wait(PAUSE):
                break
    finally:
        for process in running:
            with suppress(ProcessLookupError):  # it ended by itself
                os.kill(process.pid, SIGINT)
        for process in running:
            process.join()


def run_logged(job: Job) -> None:
    """What a process does: as if ``fptt`` had been called with the job's words."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches it through ``in_processes``, once
    job.log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    sys.exit(command(job.words))


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("fptt: ") if lines else "ended without a word"


def through_submitit(
    jobs: list[Job], number: int, stop: threading.Event, *, cluster: str, folder: Path, parameters: dict[str, Any]
) -> Iterator[tuple[Job, str | None]]:
    """The same through submitit, whose ``cluster`` is "slurm" or "local", and whose own files go to ``folder``.

    ``parameters`` are submitit's, such as timeout_min or slurm_partition; ``number`` is that of an array's parallel jobs.
    """
    try:
        import submitit
    except ImportError:
        raise InputError(f"--launcher {cluster} needs submitit: pip install 'fptt[cluster]'") from None
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster)
        executor.update_parameters(name="fptt", slurm_array_parallelism=number, **parameters)
        submitted = executor.map_array(command, [job.words for job in jobs])
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError, submitit.core.utils.FailedJobError) as error:
        raise InputError(f"{cluster} takes no jobs ({str(error).strip().splitlines()[0]})") from None
    waiting = dict(zip(submitted, jobs, strict=True))
    while waiting:
        for task in [task for task in waiting if task.done()]:
            yield waiting.pop(task), outcome(task)
        if stop.wait(PAUSE):
            for task in waiting:
                task.cancel()
            while not all(task.done() for task in waiting):
                time.sleep(PAUSE)
            return


def command(words: list[str]) -> int:
    from fptt.cli import main

    return main(words)


def outcome(task: Any) -> str | None:
    """The last line of a job that failed, else None."""
    status: int | None = None
    with suppress(Exception):  # whatever ended it
        status = task.result()
    if status == 0:
        return None
    lines = (task.stderr() or task.stdout() or "").strip().splitlines()
    return lines[-1].removeprefix("fptt: ") if lines else "ended without a word"
