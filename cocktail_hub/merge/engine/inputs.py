"""What a shard is made from, opened when its turn comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from cocktail_hub.checkpoint.reader import TensorReader
    from cocktail_hub.merge.plan import ShardPlan


@runtime_checkable
class Inputs(Protocol):
    """The models behind a plan, for those who do not keep all of them open: on little disk, or on many machines."""

    def opened(self, shard: ShardPlan) -> AbstractContextManager[Sequence[TensorReader]]:
        """Open what one shard needs of each model of its component, in the plan's order, until the block ends.

        Raises:
            SourceError: a model cannot be read.
            CheckpointError: a model is damaged.
        """
        ...
