"""What a model file holds besides the net, and how it is shared."""
