"""SDEdit (Meng et al. 2022) of pairs: an image is noised part of the way and denoised again, its mask kept.

Inpainted parts differ in fine texture from photographed ones, and a network trained on such pairs learns to
tell the two apart. SDEdit makes every pixel come from the model: in the whole image, or in the window that
the model sees.
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
    """Noise pairs (B, C + M, H, W) in [-1, 1] to the first of `levels`, the noisiest, and denoise them again.

    Masks come back exact. Each image draws only from its own generator.
    """
    known = zeros_like(pairs)
    known[:, diffusion.planes.channels:] = 1
    start = diffusion.noised(pairs, levels_of(levels[0], pairs), seeds.normal_like(generators, pairs))
    return repaint(diffusion, pairs, known, [*levels, -1], generators, step, tick, start)
