"""A layer of a language model inside a small model (PiFi): the layer, the models, the stage."""

from trainables.plugin.method import PlugIn

__all__ = ["PlugIn"]
