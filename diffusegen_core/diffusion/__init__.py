"""The diffusion model: process, network, samplers, guidance, checkpoints."""
