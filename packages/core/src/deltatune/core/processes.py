"""The processes of one launch (`accelerate launch`, `torchrun`): which of them this is, and what they do together."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from deltatune.core.errors import DeltatuneError, SharedError
from deltatune.core.files import held

T = TypeVar("T")


def launched() -> bool:
    """Whether this is one of several processes of a launch."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main() -> bool:
    """Whether this is the first process, the one that writes and prints."""
    return not launched() or int(os.environ.get("RANK", "0")) == 0


def local_rank() -> int | None:
    """The number of this process on its machine, and so of its GPU; None outside a launch."""
    return int(os.environ.get("LOCAL_RANK", "0")) if launched() else None


def join(device: str) -> Processes:
    """The processes of this launch, which can talk to each other from here on; just one outside a launch.

    Args:
        device: where they compute: cpu, cuda, or auto, which is the CPU where there is no GPU or the launch asks for it.

    Raises:
        DeltatuneError: the processes do not find each other.
    """
    if not launched():
        return Processes(0, 1)
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    without = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    state = PartialState(cpu=device == "cpu" or (device == "auto" and without))
    # The threads of the connection may outlive the interpreter, which then aborts; `leave` is surer, where a program ends itself.
    atexit.register(state.destroy_process_group)
    if state.num_processes != int(os.environ["WORLD_SIZE"]):
        raise DeltatuneError(
            f"{state.num_processes} of the {os.environ['WORLD_SIZE']} processes of this launch are connected; start them with "
            "`accelerate launch` or `torchrun`, or name another --device"
        )
    return Processes(state.process_index, state.num_processes)


def leave(code: int) -> NoReturn:
    """End this process with an exit code; one of a launch ends without the interpreter's own end.

    That end sometimes aborts a process whose work is done (`terminate called without an active exception`), since threads of
    the connection are still there when what they use is torn down. Everything is written and closed by then.
    """
    if not launched():
        sys.exit(code)
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed at the other end, or here
            stream.flush()
    os._exit(code)


@dataclass(frozen=True)
class Processes:
    """The processes of a launch, connected.

    Args:
        rank: number of this one, from 0.
        count: how many there are.
    """

    rank: int
    count: int

    def lead(self, action: Callable[[], T]) -> T:
        """What `action` returns on the first process, on all of them; the others wait for it.

        Raises:
            SharedError: on the others, what the first one raises.
        """
        if self.count == 1:
            return action()
        from torch import distributed

        said: list[Any] = [None, None]
        error = None
        if self.rank == 0:
            said[0], error = _tried(action)
            said[1] = error and str(error)
        distributed.broadcast_object_list(said, src=0)
        if error is not None:
            raise error
        if said[1] is not None:
            raise SharedError(said[1])
        result: T = said[0]
        return result

    def agree(self, action: Callable[[], T]) -> T:
        """What `action` returns here, done by every process; where one fails, all do, and the first one says why.

        Raises:
            SharedError: a user can mend it.
        """
        if self.count == 1:
            return action()
        from torch import distributed

        result, error = _tried(action)
        said: list[Any] = [None] * self.count
        distributed.all_gather_object(said, error and str(error))
        if error is not None and not isinstance(error, DeltatuneError):
            raise error
        if (first := next((text for text in said if text is not None), None)) is not None:
            raise SharedError(first) from error
        return result  # type: ignore[return-value]

    @contextmanager
    def held(self, path: Path) -> Iterator[None]:
        """Hold `path` as `deltatune.core.files.held` does, in the name of all processes."""
        with ExitStack() as stack:
            self.lead(lambda: stack.enter_context(held(path)))
            yield


def _tried(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return action(), None
    except Exception as error:  # told to the other processes, then raised
        return None, error
