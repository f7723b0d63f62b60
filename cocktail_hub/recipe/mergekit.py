"""mergekit's configurations (version 0.1.5) as recipes. What a recipe cannot express is listed, all of it at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml

from cocktail_hub.errors import RecipeError, did_you_mean
from cocktail_hub.methods.registry import METHODS
from cocktail_hub.recipe.recipe import IMPORTED, Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_KEYS = frozenset(
    {"name", "models", "slices", "modules", "merge_method", "base_model", "dtype", "out_dtype", "parameters"}
    | {"tokenizer_source", "tokenizer", "chat_template"}
)
LAYERS = "[0-9]*.*"
"""The pattern of all tensors in layers."""
_REQUIRED = object()
_UNUSED = ("int8_mask", "max_iter", "tol", "eps")
"""Parameters that change no number here: storage of masks, and how exact an iteration is."""
_VOTE = "Where task vectors cancel exactly, mergekit takes the positive ones; here the base's element stays."
_DRAWN = "Elements are drawn at random: here by the recipe's `seed`, so other ones than mergekit draws."


@dataclass(frozen=True, kw_only=True)
class _Theirs:
    """A method as mergekit has it."""

    base: str = "donor"
    """What `base_model` is: `vectors`, what task vectors are taken from; `end`, where t is 0; `optional`; or `donor`,
    which gives config and tokenizer only."""
    shared: Mapping[str, Any] = field(default_factory=dict)
    """Parameter that all models share -> default."""
    each: Mapping[str, Any] = field(default_factory=dict)
    """Parameter of each model -> default."""
    differs: tuple[str, ...] = ()
    """Where its numbers are others than ours."""


def _task_vectors(*differs: str, normalize: bool = False, rescale: bool = False, **each: float) -> _Theirs:
    shared = {"normalize": normalize, "rescale": rescale, "lambda": 1.0, "int8_mask": False}
    return _Theirs(base="vectors", shared=shared, each={"weight": _REQUIRED, **each}, differs=differs)


_WEIGHT = {"weight": _REQUIRED}
_METHODS: Mapping[str, _Theirs] = {
    "linear": _Theirs(shared={"normalize": True}, each=_WEIGHT),
    "slerp": _Theirs(base="end", shared={"t": _REQUIRED}),
    "nuslerp": _Theirs(
        base="optional", shared={"nuslerp_row_wise": False, "nuslerp_flatten": True, "int8_mask": 0}, each=_WEIGHT
    ),
    "multislerp": _Theirs(base="optional", shared={"normalize_weights": True, "eps": 1e-8}, each=_WEIGHT),
    "karcher": _Theirs(
        shared={"max_iter": 10, "tol": 1e-5}, differs=("mergekit stops near the mean on the sphere; here it is exact.",)
    ),
    "passthrough": _Theirs(each={"scale": 1.0}),
    "model_stock": _Theirs(
        base="vectors",
        shared={"filter_wise": False},
        differs=("Where task vectors point apart (a mean cosine below 0), mergekit moves away from them; here not.",),
    ),
    "arcee_fusion": _Theirs(
        base="vectors",
        differs=("mergekit takes quartiles of large tensors from a random sample; here they are exact.",),
    ),
    "nearswap": _Theirs(base="vectors", shared={"t": _REQUIRED}),
    "sce": _Theirs(
        base="vectors",
        shared={"int8_mask": False, "select_topk": 1.0},
        differs=("mergekit counts `select_topk` over the elements that differ; here over all elements.", _VOTE),
    ),
    "task_arithmetic": _task_vectors(density=1.0),
    "ties": _task_vectors(_VOTE, normalize=True, density=1.0),
    "dare_linear": _task_vectors(_DRAWN, rescale=True, density=1.0),
    "dare_ties": _task_vectors(_DRAWN, _VOTE, rescale=True, density=1.0),
    "della": _task_vectors(_DRAWN, _VOTE, normalize=True, rescale=True, density=1.0, epsilon=0.15),
    "della_linear": _task_vectors(_DRAWN, rescale=True, density=1.0, epsilon=0.15),
    "breadcrumbs": _task_vectors(density=1.0, gamma=0.01),
    "breadcrumbs_ties": _task_vectors(_VOTE, density=1.0, gamma=0.01),
}
"""Method -> its parameters and defaults in mergekit."""
_AGREEING = ("ties", "dare_ties", "della", "breadcrumbs_ties")


class Lines(dict[str, Any]):
    """A mapping of a YAML file that knows its lines."""

    def line(self, key: str) -> int:
        """Return the line of a key, 1 for the first; for a key that is not there, that of the mapping."""
        return int(self.at.get(key, self.first))

    at: Mapping[str, int] = MappingProxyType({})
    first: int = 1

    @classmethod
    def of(cls, loader: yaml.SafeLoader, node: yaml.MappingNode) -> Lines:
        """Construct the mapping of a node."""
        found = Lines({str(key): value for key, value in loader.construct_mapping(node, deep=True).items()})
        found.first = node.start_mark.line + 1
        found.at = {str(key.value): key.start_mark.line + 1 for key, _ in node.value}
        return found


class _Loader(yaml.SafeLoader):
    """YAML whose mappings are `Lines`."""


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, Lines.of)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A model, or some of its layers, with parameters of its own."""

    model: str
    line: int
    parameters: Lines
    layers: tuple[int, int] | None = None


def read_mergekit(text: str, name: str = "configuration") -> Recipe:
    """Read a configuration of mergekit, of one or many documents. What to know about it is in the recipe's `evidence`.

    Raises:
        RecipeError: it is not valid; or it says what a recipe cannot, with every such line.
    """
    try:
        documents = [doc for doc in yaml.load_all(text, Loader=_Loader) if doc is not None]
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise RecipeError(f"'{name}' is not valid YAML: {error}.\nNothing was read from it.") from error
    importer = _Importer(documents)
    recipe: Recipe | None = None
    try:
        found = importer.final()
        if not importer.problems:
            recipe = Recipe.from_dict(found | {"evidence": {IMPORTED: {"from": "mergekit", "notes": importer.notes}}})
    except RecipeError as error:
        importer.problems.append(str(error))
    if recipe is None:
        ignored = [note for note in importer.notes if "mergekit ignores it" in note]  # maybe misspelt
        listed = "\n".join(f"- {problem}" for problem in (*importer.problems, *ignored))
        raise RecipeError(
            f"'{name}' is a configuration of mergekit that a recipe cannot express:\n{listed}\n"
            "Without that, the mix would be another one.\n"
            "Change these lines; docs/from-mergekit.md lists what there is."
        )
    return recipe


class _Importer:
    """Translates documents, and collects what cannot be translated and what to know."""

    def __init__(self, documents: Sequence[Any]) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.documents = [doc for doc in documents if isinstance(doc, Lines)]
        if len(self.documents) < len(documents):
            self.problems.append("It must consist of mappings.")
        self.named = {str(doc["name"]): doc for doc in self.documents if doc.get("name")}
        self.open: list[str] = []
        """Names of the documents that are being read."""

    def problem(self, line: int, text: str) -> None:
        """Note what cannot be expressed."""
        if (entry := f"line {line}: {text}") not in self.problems:
            self.problems.append(entry)

    def note(self, text: str) -> None:
        """Note what to know."""
        if text not in self.notes:
            self.notes.append(text)

    def final(self) -> dict[str, Any]:
        """Return the recipe of the document without a name, or of the last one."""
        unnamed = [doc for doc in self.documents if not doc.get("name")]
        for doc in unnamed[1:]:
            self.problem(doc.first, "a second document has no `name`, so it is not clear which one is the result.")
        for last in unnamed[:1] or self.documents[-1:]:
            return self.document(last)
        self.problems.append("It is empty.")
        return {}

    def document(self, doc: Lines) -> dict[str, Any]:
        """Return the recipe of a document; one that is used by others is not rounded."""
        method = str(doc.get("merge_method"))
        if "experts" in doc:
            self.problem(doc.line("experts"), "a mixture of experts made from dense models is not built here.")
            return {}
        if method not in _METHODS:
            what = f"there is no method `{method}` here" if "merge_method" in doc else "there is no `merge_method`"
            self.problem(doc.line("merge_method"), f"{what}. {did_you_mean(method, _METHODS)}")
            return {}
        for key in doc.keys() - _KEYS:
            self.note(f"line {doc.line(key)}: `{key}` is no key of a configuration, and mergekit ignores it.")
        base = None if doc.get("base_model") is None else self.name_of(doc["base_model"], doc.line("base_model"))
        levels = [lines for lines in (doc.get("parameters"),) if isinstance(lines, Lines)]
        recipe = self.slices(doc, method, base, levels)
        self.small_files(doc, recipe, base)
        for difference in _METHODS[method].differs:
            self.note(f"{method}: {difference}")
        dtype = str(doc.get("out_dtype") or doc.get("dtype") or "auto").removeprefix("torch.")
        if not self.open:
            return recipe | {"dtype": dtype}
        if dtype != "auto":
            self.note(f"mergekit rounds '{self.open[-1]}' to {dtype} before it goes on; here it is not rounded.")
        return recipe

    def slices(self, doc: Lines, method: str, base: str | None, levels: list[Lines]) -> dict[str, Any]:
        """Return the recipe without its small files."""
        part, modules = doc, doc.get("modules")
        if isinstance(modules, Lines) and modules:
            part = next(iter(modules.values()))
            if any(other != part for other in modules.values()) or not isinstance(part, Lines):
                self.problem(doc.line("modules"), "`modules` that differ from each other; a recipe is for all of them.")
                return {}
            levels = [*(part[key] for key in ("parameters",) if isinstance(part.get(key), Lines)), *levels]
        listed = part.get("slices") or [Lines({"sources": part.get("models") or []})]
        if not isinstance(listed, list) or not all(isinstance(entry, Lines) for entry in listed):
            self.problem(part.line("slices"), "`slices` must be a list of mappings with `sources`.")
            return {}
        whole = not part.get("slices")
        if whole and not part.get("models"):
            self.problem(doc.first, "there are no `models`, `slices` or `modules`.")
            return {}
        stacked = []
        for number, entry in enumerate(listed):
            own = [entry["parameters"]] if isinstance(entry.get("parameters"), Lines) else []
            sources = [self.source(value, doc.first) for value in entry.get("sources") or ()]
            origin = self.name_of(entry["base_model"], entry.first) if entry.get("base_model") else base
            if whole and origin and method == "karcher" and origin not in [source.model for source in sources]:
                sources.append(_Source(model=origin, line=doc.line("base_model"), parameters=Lines()))
            mixed = self.mixture(method, sources, origin, own + levels, entry.first if not whole else doc.first)
            if len(listed) == 1:
                return mixed
            inside = mixed.get("ingredients", [])
            scale = mixed.get("parameters", {}).get("scale", 1.0)
            if mixed.get("method") == "passthrough" and len(inside) == 1 and isinstance(scale, float):
                stacked.append(inside[0] | ({"parameters": {"scale": scale}} if scale != 1.0 else {}))
            else:
                start, stop = sources[0].layers or (0, 0) if sources else (0, 0)
                name = f"slice {number}"
                stacked.append({"model": name, "recipe": mixed, "layer_range": [0, stop - start], "weight": 1.0})
        return {"method": "passthrough", "ingredients": stacked}

    def source(self, value: Any, line: int) -> _Source:
        """Read an entry of `models` or `sources`."""
        given = value if isinstance(value, Lines) else Lines({"model": value})
        own = given.get("parameters")
        for key in given.keys() - {"model", "parameters", "layer_range"}:
            self.note(f"line {given.line(key)}: `{key}` is no key of a model, and mergekit ignores it.")
        layers = given.get("layer_range")
        if layers is not None and (not isinstance(layers, list) or [type(end) for end in layers] != [int, int]):
            self.problem(given.line("layer_range"), "`layer_range` must be two whole numbers.")
            layers = None
        return _Source(
            model=self.name_of(given.get("model"), given.line("model")),
            line=given.first if given.at else line,
            parameters=own if isinstance(own, Lines) else Lines(),
            layers=tuple(layers) if layers else None,
        )

    def name_of(self, value: Any, line: int) -> str:
        """Return a model as one text, `model@revision+adapter@revision`."""
        if isinstance(value, str):
            return value
        found = value if isinstance(value, Lines) else {}
        parts = [found.get("model"), found.get("lora")]
        texts = [f"{p['path']}@{p['revision']}" if p.get("revision") else str(p.get("path")) for p in parts if p]
        if not texts:
            self.problem(line, f"a model must be a name, got {value!r}.")
        return "+".join(texts)

    def reference(self, text: str, line: int) -> dict[str, Any]:
        """Return a model, an adapter on a model, or the recipe of another document."""
        model, _, adapter = text.partition("+")
        if text in self.named:
            if text in self.open:
                self.problem(line, f"'{text}' is made from itself.")
                return {"model": text}
            self.open.append(text)
            found = {"model": text, "recipe": self.document(self.named[text])}
            self.open.pop()
            return found
        path, _, revision = model.partition("@")
        given = {"model": path} | ({"revision": revision} if revision else {})
        if not adapter:
            return given
        path, _, revision = adapter.partition("@")
        return {"model": path} | ({"revision": revision} if revision else {}) | {"base": given}

    def mixture(
        self, method: str, sources: Sequence[_Source], base: str | None, levels: list[Lines], line: int
    ) -> dict[str, Any]:
        """Return the recipe of one slice."""
        theirs = _METHODS[method]
        used = self.used(method, sources, base, line)
        if not used:
            self.note(f"line {line}: `{method}` of the base alone is the base.")
            alone = self.reference(base or "", line)
            return {"method": "passthrough", "ingredients": [alone | self.layers(sources[:1]) | {"weight": 1.0}]}
        self.name_ignored(method, sources, levels)
        shared = {name: self.number(name, levels, default, line) for name, default in theirs.shared.items()}
        own = {
            name: [self.number(name, [source.parameters, *levels], default, source.line) for source in used]
            for name, default in theirs.each.items()
        }
        weights = own.pop("weight", [1.0] * len(used))
        if method == "slerp":
            weights = [map_number(shared["t"], lambda t: round(1.0 - t, 12)), shared["t"]][: len(used)]
        ingredients = [
            self.reference(source.model, source.line) | self.layers([source]) | {"weight": weight}
            for source, weight in zip(used, weights, strict=True)
        ]
        recipe: dict[str, Any] = {"method": method, "ingredients": ingredients}
        if base is not None and theirs.base in ("vectors", "optional"):
            ranges = [source for source in sources if source.model == base] or used
            recipe["base"] = self.reference(base, line) | self.layers(ranges[:1])
        parameters: dict[str, Any] = {}
        for name, values in own.items():
            if method == "task_arithmetic":
                continue  # has a density that it does not use
            if all(value == values[0] for value in values):
                parameters[name] = values[0]
            else:
                for ingredient, value in zip(ingredients, values, strict=True):
                    ingredient.setdefault("parameters", {})[name] = value
        if method == "linear" and len(ingredients) == 1:  # as it is, or scaled
            scale = 1.0 if shared["normalize"] else weights[0]
            ingredients[0]["weight"] = 1.0
            return recipe | {"method": "passthrough"} | ({} if scale == 1.0 else {"parameters": {"scale": scale}})
        self.settle(method, recipe, shared, parameters, line)
        return recipe | ({"parameters": parameters} if parameters else {})

    def used(self, method: str, sources: Sequence[_Source], base: str | None, line: int) -> list[_Source]:
        """Return the models that are ingredients, in our order."""
        kind, others = _METHODS[method].base, [source for source in sources if source.model != base]
        if base is None and kind in ("vectors", "end"):
            self.problem(line, f"`{method}` needs a `base_model`.")
        if kind == "end":
            if len(others) != 1:
                self.problem(line, f"`{method}` is between the base and one other model, got {len(others)} others.")
            start = [source for source in sources if source.model == base]
            added = [replace(source, model=base or "", parameters=Lines()) for source in others]
            return [*(start or added)[:1], *others[:1]]
        if kind == "vectors" and 0 < len(others) < len(sources):
            self.note(f"line {line}: the base is among the models of `{method}`, where it changes nothing.")
        return list(sources) if kind == "donor" else others

    def layers(self, sources: Sequence[_Source]) -> dict[str, Any]:
        """Return the layers that are taken of the first of some models."""
        return {"layer_range": list(sources[0].layers)} if sources and sources[0].layers else {}

    def settle(
        self, method: str, recipe: dict[str, Any], shared: Mapping[str, Any], parameters: dict[str, Any], line: int
    ) -> None:
        """Write what all models share in our words, into the recipe and its parameters."""
        weights = [ingredient["weight"] for ingredient in recipe["ingredients"]]
        total = math.fsum(weights) if all(isinstance(weight, float) for weight in weights) else math.nan
        normalize = shared.get("normalize", shared.get("normalize_weights", False))
        if method in _AGREEING:
            parameters |= {"elect": "weighted"} | ({} if normalize else {"merge": "sum"})
            parameters |= {"exact_k": True} if method == "ties" else {}
        elif method in ("linear", "multislerp") and not math.isclose(total, 1.0, abs_tol=1e-9):
            recipe |= {"normalize": True} if method == "linear" else {}
            self.note(f"line {line}: the weights are divided by their sum, as mergekit does without saying so.")
            if not normalize:
                self.problem(line, f"`normalize: false` with weights of `{method}` that do not sum to 1.")
        elif method in ("model_stock", "karcher") or (normalize and method != "linear"):
            recipe["normalize"] = True
        if method.startswith(("dare", "della")):
            parameters["rescale"] = "l1" if shared["rescale"] else "none"
        parameters |= {name: shared[name] for name in ("lambda", "select_topk") if shared.get(name, 1.0) != 1.0}
        parameters |= {"t": shared["t"]} if method == "nearswap" else {}
        for name, usual in (("filter_wise", False), ("nuslerp_row_wise", False), ("nuslerp_flatten", True)):
            if shared.get(name, usual) != usual:
                self.problem(line, f"`{name}: {str(shared[name]).lower()}`: angles are of whole tensors here.")
        if shared.get("rescale") and method in ("ties", "breadcrumbs", "breadcrumbs_ties"):
            self.problem(line, f"`rescale: true` with `{method}`: what is kept is not made larger here.")

    def name_ignored(self, method: str, sources: Sequence[_Source], levels: Sequence[Lines]) -> None:
        """Name the parameters that mergekit ignores, and those that have no effect."""
        theirs = _METHODS[method]
        for owner, known in (
            *((source.parameters, set(theirs.each)) for source in sources),
            *((level, {*theirs.each, *theirs.shared}) for level in levels),
        ):
            for name in owner:
                if name in _UNUSED:
                    self.note(f"line {owner.line(name)}: `{name}` changes no number.")
                elif name not in known:
                    self.note(f"line {owner.line(name)}: `{name}` is no parameter of `{method}`; mergekit ignores it.")

    def number(self, name: str, levels: Sequence[Lines], default: Any, line: int) -> Any:
        """Return a parameter as a recipe has it: of the first level that has one for a tensor."""
        rules: list[tuple[str | None, Any]] = []
        for level in levels:
            if level.get(name) is not None and (not rules or rules[-1][0] is not None):
                line = level.line(name)
                for rule in self.rules(level[name], name, line):
                    rules.append(rule)
                    if rule[0] is None:
                        break
        if not rules or rules[-1][0] is not None:
            if default is _REQUIRED:
                self.problem(line, f"`{name}` is missing, for every tensor or for some.")
                default = 0.0
            rules.append((None, default))
        if len(rules) == 1:
            return rules[0][1]
        return [({} if match is None else {"match": match}) | {"value": value} for match, value in rules]

    def rules(self, setting: Any, name: str, line: int) -> Iterator[tuple[str | None, Any]]:
        """Yield pattern and value of a setting: a number, a gradient, or filters."""
        listed = setting if isinstance(setting, list) else [setting]
        filtered = any(isinstance(entry, Lines) for entry in listed)
        if not filtered and (found := numeric(listed)):
            if len(found) > 1 and found[0] != found[-1]:  # there, what follows the layers has a depth of 0, too
                yield LAYERS, found
            yield None, found[0] if len(set(found)) == 1 or found[0] != found[-1] else found
        elif not filtered and not isinstance(setting, list):
            yield None, setting
        elif not all(isinstance(entry, Lines) and "value" in entry for entry in listed):
            self.problem(line, f"`{name}` must be a number, a list of numbers, or a list of `filter` and `value`.")
            yield None, 0.0
        else:
            for entry in listed:
                pattern = entry.get("filter")
                if pattern in (None, "*"):
                    yield from self.rules(entry["value"], name, line)
                    return
                values = numeric(entry["value"] if isinstance(entry["value"], list) else [entry["value"]])
                if not values:
                    self.problem(entry.line("value"), f"`{name}` must be a number or a list of numbers.")
                outside = len(values) == 1 or "lm_head" in pattern or "embed" in pattern
                yield f"*{pattern}*", values[0] if values and outside else values

    def small_files(self, doc: Lines, recipe: dict[str, Any], base: str | None) -> None:
        """Say where config and tokenizer come from."""
        names = [entry["model"] for entry in recipe.get("ingredients", ())]
        if recipe.get("base"):
            names.append(recipe["base"]["model"])
        short = None if base is None else base.rpartition("+")[2].partition("@")[0]
        if short in names[1:]:
            recipe |= {"config": short, "tokenizer": short}
        elif base is not None and short not in names:
            self.note(f"line {doc.line('base_model')}: '{base}' is not mixed, so its config and tokenizer are unused.")
        given = doc.get("tokenizer")
        settings = given if isinstance(given, Lines) else Lines()
        line = doc.line("tokenizer_source" if "tokenizer_source" in doc else "tokenizer")
        source = doc.get("tokenizer_source") or settings.get("source", "union" if settings else None)
        if source == "union":
            recipe["tokenizer"] = source
        elif source is not None and source != "base":
            named = self.name_of(source, line).rpartition("+")[2].partition("@")[0]
            recipe["tokenizer"] = named
            if named not in names and METHODS[recipe["method"]].most is not None:
                self.problem(line, f"the tokenizer of '{named}', which is not mixed.")
            elif named not in names:
                recipe["ingredients"].append(self.reference(self.name_of(source, line), line) | {"weight": 0.0})
                self.note(f"line {line}: '{named}', whose tokenizer the mix has, is an ingredient of weight 0.")
        tokens = settings.get("tokens")
        found = {
            "chat_template": doc.get("chat_template"),
            "pad_to_multiple_of": settings.get("pad_to_multiple_of"),
            "tokens": {str(token): self.token(str(token), tokens) for token in tokens} if tokens else None,
        }
        recipe |= {key: value for key, value in found.items() if value is not None}

    def token(self, token: str, tokens: Lines) -> Any:
        """Return the rule of a token."""
        given = tokens[token] if isinstance(tokens[token], Lines) else Lines()
        source = given.get("source")
        force = {"force": True} if given.get("force") else {}
        if isinstance(source, Lines) and source.get("kind") == "zero":
            return {"source": "zero"} | force
        if isinstance(source, Lines) and source.get("kind") == "model_token":
            if source.get("token") is None:
                self.problem(source.first, f"the row of '{token}' by the id of another token: name that by its text.")
            model = self.name_of(source.get("model"), source.first).partition("@")[0]
            return {"source": model, "token": str(source.get("token"))} | force
        if source is None:
            self.problem(tokens.line(token), f"'{token}' has no `source`.")
        return {"source": self.name_of(source, tokens.line(token)).partition("@")[0]} | force


def numeric(values: Sequence[Any]) -> list[float]:
    """Return numbers, also those that YAML reads as text (1e-5); an empty list if one of them is none."""
    found = []
    for value in values:
        try:
            number = math.nan if isinstance(value, bool) or not isinstance(value, (str, Real)) else float(value)
        except ValueError:
            number = math.nan
        found.append(number)
    return [] if any(map(math.isnan, found)) else found


def map_number(number: Any, change: Any) -> Any:
    """Change every number of a value that may differ by tensor."""
    if isinstance(number, list):
        return [map_number(inner, change) for inner in number]
    return number | {"value": map_number(number["value"], change)} if isinstance(number, dict) else change(number)
