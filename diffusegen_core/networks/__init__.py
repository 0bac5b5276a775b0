"""Third-party networks, their weights, and a SinGAN."""
