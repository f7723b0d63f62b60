"""The page itself: what stands where, and which function answers to what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from cocktail_hub.cli.output import error_message
from cocktail_hub.cli.ui import markup
from cocktail_hub.cli.ui.answers import answers
from cocktail_hub.cli.ui.form import PARTS
from cocktail_hub.cli.ui.sessions import Session, Sessions
from cocktail_hub.errors import CocktailError
from cocktail_hub.merge.options import parse_size
from cocktail_hub.methods.registry import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cocktail_hub.hub import Hub

SUGGESTED = 12
"""Models that a search suggests."""
_SAME_TAB = """() => [sessionStorage.cocktail ||=
  Array.from(crypto.getRandomValues(new Uint32Array(4)), number => number.toString(16)).join("")]"""
"""Names the tab: the same name after a reload, another one in another tab, and none that can be guessed."""
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def serve(*, port: int | None = None, open_browser: bool = False, public: bool = False, largest: str = "5GB") -> None:
    """Show the page until Ctrl-C.

    Args:
        port: to listen on; `None`: the first free one from 7860 on.
        open_browser: whether to open it.
        public: whether strangers use it, as in a Space: then models come from the Hub alone, no token of this machine
            is used, and what tabs leave behind is removed.
        largest: most bytes that a mix may download and write on a public page.
    """
    sessions = Sessions(public=public, largest=parse_size(largest, "largest"))
    try:
        Page(sessions).blocks.launch(
            server_name="0.0.0.0" if public else "127.0.0.1",  # noqa: S104 - a Space is reached from outside
            server_port=port,
            inbrowser=open_browser,
            css_paths=Path(__file__).with_name("page.css"),
            theme=gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            footer_links=[],
            max_file_size="20mb",
            ssr_mode=False,
            share=False,
        )
    finally:
        sessions.close()


class Page:
    """The layout, and what its parts do. Every function gets the name of the tab first."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        with gr.Blocks(title="Cocktail", analytics_enabled=False) as self.blocks:
            self.lay_out()
            self.connect()

    def lay_out(self) -> None:
        """Put everything in its place, from choosing models to publishing the mix."""
        self.given, self.tab, self.redrawn = gr.Textbox(visible=False), gr.State(""), gr.State(0)
        gr.Markdown("# Cocktail\nMix fine-tuned models, see what the mix does, and publish it.")
        gr.Markdown("## Models")
        where = "the id of a repo" if self.sessions.public else "the id of a repo, or the path of a folder"
        chosen = {"allow_custom_value": True, "info": f"Type to search the Hub, or write {where} and press Enter."}
        self.models = gr.Dropdown([], multiselect=True, label="Models", elem_id="models", **chosen)
        self.method = gr.Dropdown(list(METHODS), value="linear", label="Method", info=METHODS["linear"].summary)
        self.base = gr.Dropdown([], value=None, label="Base", visible=False, elem_id="base", **chosen)
        drawn = [self.models.change, self.method.change, self.tab.change, self.redrawn.change]
        gr.render([self.tab, self.models, self.method], triggers=drawn, show_progress="hidden")(self.numbers)
        self.checked = gr.HTML(elem_id="checked")

        gr.Markdown("## Mix")
        with gr.Row():
            self.mix = gr.Button("Mix", variant="primary")
            self.stop = gr.Button("Stop", variant="stop", visible=False)
        self.mixed = gr.HTML(elem_id="mixed")
        self.download = gr.DownloadButton("Download the recipe", interactive=False)

        gr.Markdown("## Try\nThe mix, its base and its ingredients, side by side.")
        self.question = gr.Textbox(label="Question or prompt")
        self.candidates = gr.Textbox(label="Texts to rank, one a line; language models need none", lines=3)
        self.ask = gr.Button("Compare")
        self.compared = gr.HTML(elem_id="compared")

        gr.Markdown("## Which weight?\nHow good the mix is at every weight of one model, on examples of yours.")
        with gr.Row():
            kinds = [".jsonl", ".json"]
            self.target = gr.File(label="Examples of your task", file_types=kinds, elem_id="target", height=140)
            self.general = gr.File(label="Examples of others (optional)", file_types=kinds, height=140)
        self.over = gr.Dropdown([], label="Model whose weight changes", interactive=True)
        with gr.Row():
            self.sweep = gr.Button("Draw the curve")
            self.take = gr.Button("Take the chosen weight", interactive=False)
        self.swept = gr.HTML(elem_id="swept")

        gr.Markdown("## Publish")
        self.repo = gr.Textbox(label="Repo", placeholder="me/my-mix")
        forms = [("Weights", "merged"), ("Only the recipe", "recipe"), ("Both", "both")]
        self.form = gr.Radio(forms, value="merged", label="What")
        self.private = gr.Checkbox(label="Private, if the repo is new")
        saved = "" if self.sessions.public else " Empty: the one that you are logged in with."
        used = f"Used for this push alone, and not kept.{saved}"
        self.token = gr.Textbox(label="Access token", type="password", info=used)
        self.push = gr.Button("Publish")
        self.pushed = gr.HTML(elem_id="pushed")
        self.clock = gr.Timer(1, active=False)
        self.shown = [self.mixed, self.swept, self.pushed, self.download, self.take, self.stop, self.clock]

    def connect(self) -> None:
        """Say which function answers to what."""
        choices = [self.tab, self.models, self.method, self.base]
        shown = self.shown
        told = [self.checked, self.method, self.base, self.over]
        self.blocks.load(self.restore, [self.given], [*choices, *shown], js=_SAME_TAB, **_QUIET)
        for one in (self.models, self.base):
            one.key_up(self.suggest, [self.tab, one], one, trigger_mode="always_last", **_QUIET)
        changed = [self.models.change, self.method.change, self.base.change, self.tab.change]
        gr.on(changed, self.check, choices, told, trigger_mode="always_last", **_QUIET).then(
            self.look, self.tab, shown, **_QUIET
        )
        self.mix.click(self.start_mix, self.tab, shown, **_QUIET)
        self.sweep.click(self.start_sweep, [self.tab, self.target, self.general, self.over], shown, **_QUIET)
        pushing = [self.tab, self.repo, self.form, self.private, self.token]
        self.push.click(self.start_push, pushing, shown, **_QUIET).then(lambda: "", None, self.token, **_QUIET)
        self.clock.tick(self.look, self.tab, shown, **_QUIET)
        self.stop.click(self.interrupt, self.tab, None, **_QUIET)
        self.take.click(self.take_weight, [self.tab, self.redrawn], self.redrawn, **_QUIET).then(
            self.look, self.tab, shown, **_QUIET
        )
        asked = [self.tab, self.question, self.candidates]
        self.ask.click(self.compare, asked, self.compared, concurrency_limit=1, api_visibility="private")

    # -- choosing --------------------------------------------------------------------------------------------------

    def suggest(self, name: str, chosen: Any, typed: gr.KeyUpData) -> Any:
        """Models of the Hub whose names have what was typed; what was chosen stays a choice."""
        words = str(typed.input_value or "").strip()
        if not words or words.startswith((".", "/", "~")):
            return gr.skip()
        hub: Hub = self.sessions.of(name).options().hub
        try:
            found = [one.id for one in hub.api.list_models(search=words, limit=SUGGESTED)]
        except Exception:  # noqa: BLE001 - without the Hub there is nothing to suggest, and names can be written
            return gr.skip()
        return gr.update(choices=list(dict.fromkeys([*(chosen if isinstance(chosen, list) else []), *found])))

    def numbers(self, name: str, models: Sequence[str], method: str) -> None:
        """Draw a slider for each weight, which sum to 1, and a field for each parameter of the method."""
        session = self.sessions.of(name)
        session.form = form = replace(session.form.with_models(models or ()), method=method)
        sliders = [
            gr.Slider(0, 1, part / PARTS, step=1 / PARTS, label=f"Weight of {model}", interactive=True)
            for model, part in zip(form.models, form.parts, strict=True)
        ]
        for place, slider in enumerate(sliders):

            def move(name: str, value: float, place: int = place) -> list[float]:
                session = self.sessions.of(name)
                session.form = session.form.with_part(place, round(value * PARTS))
                return [part / PARTS for part in session.form.parts]

            moved = slider.input(move, [self.tab, slider], sliders, trigger_mode="always_last", **_QUIET)
            moved.then(self.look, self.tab, self.shown, **_QUIET)
        for key, spec in METHODS[method].parameters.items():
            value = form.parameters.get(key, spec.default)
            told: dict[str, Any] = {"label": key, "info": f"{spec.meaning}: {spec.accepted}", "interactive": True}
            if spec.choices:
                field: Any = gr.Dropdown(list(spec.choices), value=value, **told)
            elif isinstance(spec.default, bool):
                field = gr.Checkbox(bool(value), **told)
            else:
                field = gr.Number(float(value), **told)

            def put(name: str, value: Any, key: str = key) -> None:
                session = self.sessions.of(name)
                session.form = replace(session.form, parameters={**session.form.parameters, key: value})

            field.input(put, [self.tab, field], None, **_QUIET).then(self.look, self.tab, self.shown, **_QUIET)

    def check(self, name: str, models: Sequence[str], method: str, base: str | None) -> tuple[Any, ...]:
        """Say at once whether the models fit together, and what the mix would take."""
        session, spec = self.sessions.of(name), METHODS[method]
        session.form = form = replace(session.form.with_models(models or ()), method=method, base=base or "")
        told = ""
        if 0 < len(form.models) < spec.fewest:
            told = f"Choose at least {spec.fewest} models."
        elif form.models and spec.base == "needed" and not form.base:
            told = f"{method} needs a base: the model that these were fine-tuned from."
        elif form.models:
            told = self.told(lambda: markup.preview(session.check()))
        last = form.models[-1] if form.models else None
        return (
            told,
            gr.update(info=spec.summary),
            gr.update(visible=spec.base != "none"),
            gr.update(choices=list(form.models), value=last),
        )

    # -- working ---------------------------------------------------------------------------------------------------

    def start_mix(self, name: str) -> tuple[Any, ...]:
        """Mix."""
        return self.start(name, "mix")

    def start_sweep(self, name: str, target: str | None, general: str | None, over: str | None) -> tuple[Any, ...]:
        """Draw the curve."""
        files = {"target": target, "general": general}
        given = [word for key, file in files.items() if file for word in ("--examples", f"{key}={file}")]
        if not given:
            message = (
                "There are no examples.\nThe curve shows how good the mix is on them.\n"
                'Give a file with one example a line, such as {"query": "...", "pos": ["..."], "neg": ["..."]}.'
            )
            return self.failed("sweep", markup.error(message))
        place = self.sessions.of(name).form.models.index(over) + 1 if over else 2
        return self.start(name, "sweep", [*given, "--over", str(place)])

    def start_push(self, name: str, repo: str, form: str, private: bool, token: str) -> tuple[Any, ...]:
        """Publish."""
        if self.sessions.public and not token:
            message = (
                "There is no access token.\nIt says that the repo is yours.\n"
                "Make one that may write, at https://huggingface.co/settings/tokens."
            )
            return self.failed("push", markup.error(message))
        return self.start(name, "push", [repo, "--as", form, *(["--private"] if private else [])], token=token)

    def start(self, name: str, verb: str, arguments: Sequence[str] = (), *, token: str = "") -> tuple[Any, ...]:
        """Start a command, and show how far it is."""
        session = self.sessions.of(name)

        def begin() -> str:
            self.sessions.require_room()
            session.start(verb, arguments, token=token)
            return ""

        error = self.told(begin)
        return self.failed(verb, error) if error else self.look(name)

    def interrupt(self, name: str) -> None:
        """Stop what runs."""
        command = self.sessions.of(name).command
        if command is not None:
            command.stop()

    def look(self, name: str) -> tuple[Any, ...]:
        """Show how far the command is, and what those before it found, as long as they are about the same mix."""
        session = self.sessions.of(name)
        command, results = session.command, session.results
        panels = {verb: self.outcome(verb, results[verb]) for verb in results}
        running = command is not None and command.running
        if command is not None and running:
            panels[command.verb] = markup.progress(*command.progress)
        elif command is not None and command.result is None:
            panels[command.verb] = markup.error(command.error)
        made = results.get("mix") or results.get("sweep")
        return (
            *(panels.get(verb, "") for verb in ("mix", "sweep", "push")),
            gr.update(value=session.recipe_file(made["recipe"]) if made else None, interactive=made is not None),
            gr.update(interactive="sweep" in results),
            gr.update(visible=running),
            gr.update(active=running),
        )

    @staticmethod
    def outcome(verb: str, found: dict[str, Any]) -> str:
        """What a command found."""
        if verb == "sweep":
            return markup.charts(found)
        if verb == "push":
            return markup.done("Published.", link=found["pull_request"] or found["url"])
        return markup.done("Mixed." if found.get("merged") else "The mix was there already.", code=found["path"])

    @staticmethod
    def failed(verb: str, error: str) -> tuple[Any, ...]:
        """Show an error where its command shows what it found."""
        return (*(error if verb == one else gr.skip() for one in ("mix", "sweep", "push")), *[gr.skip()] * 4)

    def take_weight(self, name: str, redrawn: int) -> int:
        """Set the weights that the sweep chose."""
        session: Session = self.sessions.of(name)
        found = session.results["sweep"]["recipe"]["ingredients"]
        parts = [round(one["weight"] * PARTS) for one in found]
        parts[0] += PARTS - sum(parts)
        session.form = replace(session.form, parts=tuple(parts))
        return redrawn + 1

    def compare(self, name: str, question: str, candidates: str) -> Iterator[str]:
        """Show what the mix, its base and its ingredients answer, one after the other."""
        session, found = self.sessions.of(name), []
        texts = [line.strip() for line in candidates.splitlines() if line.strip()]
        try:
            session.check()
            for answer in answers(session.form.recipe, question, texts, session.options()):
                found.append(answer)
                yield markup.side_by_side(found)
        except (CocktailError, OSError) as error:
            yield markup.error(error_message(error))

    def restore(self, name: str) -> tuple[Any, ...]:
        """Fill in what the tab had before a reload; a new tab may have been typed into already."""
        form = self.sessions.of(name).form
        if not form.models:
            return (name, *[gr.skip()] * 3, *self.look(name))
        models = gr.update(choices=list(form.models), value=list(form.models))
        base = gr.update(choices=[form.base] if form.base else [], value=form.base or None)
        return (name, models, form.method, base, *self.look(name))

    @staticmethod
    def told(make: Any) -> str:
        """What a function returns, or the error that it raises."""
        try:
            return str(make())
        except (CocktailError, OSError) as error:
            return markup.error(error_message(error))
