"""Can these models be mixed? Answered before any weights are downloaded."""

from cocktail_hub.check.check import Checked, check
from cocktail_hub.check.kinds import Kind
from cocktail_hub.check.parts import Part

__all__ = ["Checked", "Kind", "Part", "check"]
