"""PEFT adapters (LoRA, rsLoRA, DoRA) read as whole models."""
