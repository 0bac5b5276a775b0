"""The networks and the mathematics around them: diffusion, guidance, segmentation, SinGAN."""
