"""Raw text, images, sound and documents -> tensors. Nothing here imports a model, or torch before it is asked for."""
