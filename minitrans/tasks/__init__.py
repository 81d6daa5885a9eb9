"""Whole jobs over many inputs: raw text, images or sound in, results out, batched by a budget."""
