"""The page of `cocktail ui` for strangers: models of the Hub alone, of bounded size, and nothing stays behind."""

from cocktail_hub.cli.ui.page import serve

serve(public=True, largest="5GB")
