"""Mix fine-tuned Hugging Face models from a recipe, and load the mix like any other model."""
