"""The stages of a mix, from a recipe to a published model: check, compare, weigh, merge, evaluate, publish, verify."""
