"""One file a model family: configuration, modules, name table, heads."""
