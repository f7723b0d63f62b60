"""From a name to exact models: load a recipe, pin its models, inline nested recipes."""
