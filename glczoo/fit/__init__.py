"""From a region to a model to trust: candidates, out-of-fold probabilities, weights, one ensemble."""
