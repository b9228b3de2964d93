"""Images and masks, on any device: reading, checking, augmenting, drawing and preparing them."""
