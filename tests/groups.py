"""Two processes with a gloo group between them, for tests that compare them with one process.

The processes start with the first test that asks for them and serve all later ones: to start them
and to import torch takes longer than most tests.
"""

import atexit
import gc
import pickle
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

WORKERS = 2


class Group:
    """Processes that run the same function at the same time."""

    def __init__(self) -> None:
        spawn = mp.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        meet = Path(self._folder.name) / "meet"
        self._pipes: list[Connection] = []
        self._members = []
        for rank in range(WORKERS):
            here, there = spawn.Pipe()
            member = spawn.Process(target=_serve, args=(rank, str(meet), there), daemon=True)
            member.start()
            there.close()  # so that the death of the member is seen as an end of the pipe
            self._pipes.append(here)
            self._members.append(member)

    def run(self, work: Callable[..., Any], *args: Any) -> list[Any]:
        """Return what `work(*args)` returns in each process. Raises RuntimeError if one fails."""
        task = pickle.dumps((work, args))
        for pipe in self._pipes:
            pipe.send_bytes(task)

        results: dict[int, Any] = {}
        while len(results) < WORKERS:
            open_pipes = [pipe for rank, pipe in enumerate(self._pipes) if rank not in results]
            for pipe in cast(list[Connection], wait(open_pipes)):
                rank = self._pipes.index(pipe)
                try:
                    done, value = pickle.loads(pipe.recv_bytes())
                except EOFError as error:
                    raise RuntimeError(f"process {rank} of the group died") from error
                if not done:
                    raise RuntimeError(f"process {rank} of the group failed:\n{value}")
                results[rank] = value
        return [results[rank] for rank in range(WORKERS)]

    def stop(self) -> None:
        """End the processes, whatever they do."""
        for member in self._members:
            member.kill()
            member.join()
        self._folder.cleanup()


_running: list[Group] = []
"""The group of this process, once there is one."""


def in_group(work: Callable[..., Any], *args: Any) -> list[Any]:
    """Return what `work(*args)` returns in each process of a group."""
    if not _running:
        _running.append(Group())
    try:
        return _running[0].run(work, *args)
    except BaseException:
        # The other process may wait for one that failed; the next test gets a fresh group.
        _running.pop().stop()
        raise


@atexit.register
def _stop() -> None:
    while _running:
        _running.pop().stop()


def _serve(rank: int, meet: str, pipe: Connection) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=WORKERS)
    while True:
        try:
            task = pipe.recv_bytes()
        except EOFError:  # the tests are over
            return
        pipe.send_bytes(pickle.dumps(_outcome(task)))


def _outcome(task: bytes) -> tuple[bool, Any]:
    """Return whether the work succeeded, and its result or its traceback."""
    torch.set_num_threads(1)  # anew: the test before may have changed it
    try:
        work, args = pickle.loads(task)
        result = work(*args)
        gc.collect()  # DDP's reducer has to be gone before the next test uses the group
        dist.barrier()
    except Exception:
        return False, traceback.format_exc()
    return True, result
