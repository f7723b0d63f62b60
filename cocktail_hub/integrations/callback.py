"""MixBack: at the end of training, mix the trained model with the one that it was before, so that it forgets less."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from cocktail_hub.errors import MergeError, ScoringError
from cocktail_hub.evaluation.example_files import examples_given
from cocktail_hub.merge.options import MixOptions
from cocktail_hub.pipeline.measurement import evaluate
from cocktail_hub.pipeline.mix import mix, publish, recipe_or_model
from cocktail_hub.recipe.validation import as_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import TrainerControl, TrainerState, TrainingArguments

    from cocktail_hub.pipeline.mix import Mix
    from cocktail_hub.search.evaluate import Evaluation

_LOG = logging.getLogger(__name__)
TRAINED, MIXED = "trained", "mix"
"""Folders in the trainer's output folder."""


class MixBack(TrainerCallback):  # type: ignore[misc]
    """Mix a trained model with its base when training ends, and save or push the mix with its recipe.

    For the `Trainer` of transformers and those of sentence-transformers: `callbacks=[MixBack("org/base", weight=0.5)]`.
    What was trained is saved to `trained` in the trainer's output folder, the mix to `mix`.

    Args:
        base: the model that the training starts from: Hub id or folder.
        weight: that of the trained model, from 0 to 1; `None`: computed from the examples, or 0.5 without them.
        examples: a list, a path or a Hub dataset; the mix, the trained model and the base are evaluated on them.
        push_to_hub: repo to publish the mix to, as weights with their recipe.
        recipe: other keys of the recipe, such as `{"missing": {"classifier.*": "first"}}` (docs/recipe.md).
        options: how to make the mix, with the token of the Hub.

    Raises:
        RecipeError: the weight is no number from 0 to 1.
    """

    mix: Mix | None = None
    """The mix, once training has ended."""
    evaluation: Evaluation | None = None
    """The mix beside its parts, where examples are given."""

    def __init__(
        self,
        base: str | Path,
        *,
        weight: float | None = None,
        examples: str | Path | Sequence[Mapping[str, Any]] | None = None,
        push_to_hub: str | None = None,
        recipe: Mapping[str, Any] | None = None,
        options: MixOptions | None = None,
    ) -> None:
        self.base = str(base)
        self.weight = 0.5 if weight is None and examples is None else weight
        if self.weight is not None:
            as_number(self.weight, "weight", low=0, high=1)
        self.examples = str(examples) if isinstance(examples, Path) else examples
        self.push_to_hub = push_to_hub
        self.recipe = dict(recipe or {})
        self.options = options or MixOptions()

    def on_train_begin(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        """Refuse what could not be mixed in the end, before the hours of training.

        Raises:
            MergeError: the model is cut into pieces on several devices.
            ScoringError: there is one example only.
            CocktailError: the base or the examples cannot be read.
        """
        if args.deepspeed or args.fsdp:
            raise MergeError(
                "MixBack cannot save a model that DeepSpeed or FSDP cuts into pieces.\n"
                "No process has all of its weights when training ends.\n"
                f"Let the trainer save it, and mix it afterwards: `cocktail mix FOLDER {self.base} --weights 0.5 0.5`."
            )
        recipe_or_model(self.base, self.options, None, merged=True)[0].check()
        if self.examples is not None and len(examples_given(self.examples, self.options.hub).rows()) == 1:
            raise ScoringError(
                "MixBack got one example.\nWith one, nobody knows by how much a figure may be off.\nGive two or more."
            )

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 - the trainer's signature
        model: Any = None,
        **given: Any,
    ) -> None:
        """Save the trained model, mix it, evaluate and push the mix."""
        if not state.is_world_process_zero:
            return
        output = Path(args.output_dir or ".")
        model.save_pretrained(str(output / TRAINED))
        if not hasattr(model, "encode") and given.get("processing_class") is not None:
            given["processing_class"].save_pretrained(str(output / TRAINED))
        weights = (None, None) if self.weight is None else (self.weight, 1 - self.weight)
        models = zip((str(output / TRAINED), self.base), weights, strict=True)
        recipe = {**self.recipe, "ingredients": [{"model": name, "weight": weight} for name, weight in models]}
        if self.weight is None:
            recipe["weighting"] = {**self.recipe.get("weighting", {}), "examples": self.examples}
        self.mix = mix(recipe, output=output / MIXED, options=replace(self.options, replace=True))
        if self.examples is not None:
            self.evaluation = evaluate(self.mix.recipe, examples={"examples": self.examples}, options=self.options)
            _LOG.info("%s", self.evaluation)
        if self.push_to_hub is not None:
            publish(self.mix, self.push_to_hub, results=self.evaluation, options=self.options)
