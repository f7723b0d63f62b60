"""Connect to a Ray cluster, or start one on this machine, and run pure functions on it."""

from __future__ import annotations

import os
import re
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from cocktail_hub.errors import CocktailError, MergeError, MissingExtraError
from cocktail_hub.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

RETRIES = 3
"""How often a task is restarted when its worker has died."""
STORE_BYTES = 256 << 20
"""Shared memory of a cluster that is started here: tasks return digests, not weights."""
CONNECT_SECONDS = 10.0
"""How long a cluster may take to accept a connection."""
_PASSED_ON = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_XET", "COCKTAIL_HUB_CACHE")
"""Environment variables that workers of a cluster need to find the same files."""

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one task needs of a node."""

    cpus: int = 1
    """Processors."""
    gpus: float = 0
    """GPUs; may be a part of one."""


@contextmanager
def joined() -> Iterator[Cluster]:
    """Connect to Ray while the block runs.

    An open connection of this process is used. Otherwise `RAY_ADDRESS`, or a cluster that this machine belongs to;
    otherwise a small one is started here, and stopped at the end.

    Raises:
        MissingExtraError: Ray is not installed.
        MergeError: the cluster that `RAY_ADDRESS` names cannot be reached.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield Cluster(ray, own=False)
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    given, own = os.environ.get("RAY_ADDRESS"), False
    try:
        if given and (found := re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+)\]?:(\d+)", given)):
            # An address where nobody listens is an error now; Ray itself would wait for many minutes.
            socket.create_connection((found[1], int(found[2])), timeout=CONNECT_SECONDS).close()
        ray.init(address="auto", **quiet)
    except OSError as error:
        if given:
            raise MergeError(
                f"The Ray cluster at RAY_ADDRESS={given} cannot be reached: {error}.\n"
                "Nothing was merged.\nStart it, or unset RAY_ADDRESS to use this machine alone."
            ) from error
        if not isinstance(error, ConnectionError):
            raise
        ray.init(address="local", include_dashboard=False, object_store_memory=STORE_BYTES, **quiet)
        own = True
    try:
        yield Cluster(ray, own=own)
    finally:
        ray.shutdown()


def import_ray() -> Any:
    """Import Ray. Raises MissingExtraError."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError.of("ray", extra="ray", purpose="merge or score on a cluster") from error
    return ray


class Cluster:
    """A connection to Ray."""

    def __init__(self, ray: Any, *, own: bool) -> None:
        self._ray = ray
        self._own = own

    def cpus_per_task(self, most: int) -> int:
        """Return how many processors every node has, at most `most`."""
        nodes = [node["Resources"].get("CPU", 0) for node in self._ray.nodes() if node["Alive"]]
        return max(1, min([most, *(int(count) for count in nodes if count >= 1)]))

    @property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return int(self._ray.cluster_resources().get("GPU", 0))

    def at_once(self, demand: Demand) -> int:
        """Return how many such tasks run at a time."""
        found = self._ray.cluster_resources()
        slots = [int(found.get("CPU", 0) // demand.cpus)]
        if demand.gpus:
            slots.append(int(found.get("GPU", 0) // demand.gpus))
        return max(1, min(slots))

    def run(
        self, work: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item], demand: Demand
    ) -> Generator[tuple[int, Result], None, None]:
        """Call `work(shared, item)` for every item on the cluster, and yield index and result as they come.

        A task whose worker dies is restarted, so `work` must give the same result whenever it is called.

        Raises:
            CocktailError: the first that a task raised; the other tasks are stopped.
            MergeError: a worker died too often, or cannot import this package.
        """
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        task = self._ray.remote(_call).options(
            num_cpus=demand.cpus,
            num_gpus=demand.gpus,
            max_retries=RETRIES,
            runtime_env=None if self._own else {"env_vars": environment},
        )
        reference = self._ray.put(shared)
        pending = {task.remote(VERSION, work, reference, item): index for index, item in enumerate(items)}
        try:
            while pending:
                (done,), _ = self._ray.wait(list(pending), num_returns=1)
                index = pending.pop(done)
                yield index, self._result(done)
        finally:
            for left in pending:
                self._ray.cancel(left, force=True)

    def _result(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, CocktailError):
                raise error.cause from error
            raise MergeError(
                f"A task on the Ray cluster failed: {error.cause!r}.\n"
                "What is finished is kept.\nCheck that every node has the same cocktail_hub installed and sees the "
                "same folders, then run the same command again."
            ) from error
        except self._ray.exceptions.RayError as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise MergeError(
                f"A worker of the Ray cluster died {RETRIES + 1} times over the same task: {reason}\n"
                "What is finished is kept.\nCheck the node's memory and logs, then run the same command again."
            ) from error


def _call(version: str, work: Callable[[Any, Any], Any], shared: Any, item: Any) -> Any:
    """Runs on a worker."""
    if version != VERSION:
        raise MergeError(
            f"A Ray worker has cocktail_hub {VERSION}, this machine has {version}.\n"
            "Another version may give other bytes.\nInstall the same one on every node."
        )
    return work(shared, item)
