"""FFN-neuron pruning: which neurons of the feed-forward layers go, and taking them out."""

from trainables.neurons.method import Neurons as Neurons
