"""Attaching where a framework runs the loop: Hugging Face Trainer, Lightning, accelerate."""
