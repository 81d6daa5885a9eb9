"""Whole jobs over many inputs: raw text, images or sound in, answers out, batched by a budget."""
