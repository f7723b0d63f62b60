"""Can these models be mixed? Answered before any weights are downloaded."""

from cocktail_hub.checking.checked import Checked, check
from cocktail_hub.checking.kinds import Kind
from cocktail_hub.checking.parts import Part

__all__ = ["Checked", "Kind", "Part", "check"]
