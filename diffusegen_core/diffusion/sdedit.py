"""SDEdit (Meng et al. 2022) of pairs: an image is noised part of the way and denoised again, its mask kept.

What was inpainted differs in its fine texture from what was photographed, and a network that learns from such
pairs learns to tell the two apart. After this every pixel comes from the model: of the whole image, or of the
window that the model sees.
"""

from torch import Tensor, zeros_like

from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.process import levels_of
from diffusegen_core.diffusion.repaint import repaint
from diffusegen_core.diffusion.samplers import Generators, Step, Tick, ancestral
from diffusegen_core.store import seeds


# x_t ~ q(x_t | x_0), then x_{t-1} ~ p(x_{t-1} | x_t), with the noised mask in its channel at each level
def sdedit(diffusion: Diffusion, pairs: Tensor, levels: list[int], generators: Generators,
           step: Step = ancestral, tick: Tick | None = None) -> Tensor:
    """Pairs (B, C + M, H, W) in [-1, 1] anew, from the first of `levels`, the noisiest, down; masks come back
    exact. Each image draws from its own generator alone."""
    known = zeros_like(pairs)
    known[:, diffusion.planes.channels:] = 1
    start = diffusion.noised(pairs, levels_of(levels[0], pairs), seeds.normal_like(generators, pairs))
    return repaint(diffusion, pairs, known, [*levels, -1], generators, step, tick, start)
