"""From a name to exact models: load a recipe, pin its models, put nested recipes in place."""
