"""Can these models be mixed? Answered before any weights are downloaded."""

from cocktail_hub.checking.checked import Checked, check
from cocktail_hub.checking.kinds import Kind
from cocktail_hub.checking.parts import Model, Part, Roots

__all__ = ["Checked", "Kind", "Model", "Part", "Roots", "check"]
