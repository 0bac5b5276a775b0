"""Networks that are not ours, their weights, and a SinGAN."""
