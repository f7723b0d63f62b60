"""Can these models be mixed? Answered before any weights are downloaded."""

from cocktail_hub.compat.check import CompatibilityReport, check_models
from cocktail_hub.compat.components import Component, Model, Roots
from cocktail_hub.compat.task import ModelKind

__all__ = ["CompatibilityReport", "Component", "Model", "ModelKind", "Roots", "check_models"]
