"""`python -m cocktail_hub.cli`: the `cocktail` command."""

from cocktail_hub.cli.main import main

main(prog_name="cocktail")
