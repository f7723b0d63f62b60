"""Can these models be mixed? Answered before any weights are downloaded."""

from cocktail_hub.compat.check import CompatibilityReport, Component, Model, Roots, check_models
from cocktail_hub.compat.config import ModelKind

__all__ = ["CompatibilityReport", "Component", "Model", "ModelKind", "Roots", "check_models"]
