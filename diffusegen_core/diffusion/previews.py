"""Sample grids of a model in training: from its averaged weights, and always from the same noise."""

import copy

import torch
from PIL import Image

from diffusegen_core.data import dataset, planes
from diffusegen_core.diffusion import samplers
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.process import Schedule
from diffusegen_core.diffusion.training import State, Training
from diffusegen_core.store import seeds


def grid(training: Training, state: State, schedule: Schedule) -> Image.Image:
    """A grid of samples, images above their masks."""
    settings = training.settings
    own = [seeds.generator(training.seed, "preview", training.name, i, device=schedule.alpha_bar.device)
           for i in range(settings.preview_images)]
    shape = training.planes.all, training.image_size, training.image_size
    labels = training.conditions.labels
    x = torch.empty(len(own), *shape, device=schedule.alpha_bar.device)
    for label in range(min(labels, len(own)) or 1):  # image i has label i modulo `labels`
        net = copy.deepcopy(state.average).fold_conditions(label) if labels else state.average
        diffusion = Diffusion(net, schedule, training.process.objective,
                              precision=settings.precision).respaced(settings.preview_steps)
        x[label::labels or 1] = samplers.sample(diffusion, shape, own[label::labels or 1],
                                                samplers.named(settings.preview_sampler))
    return planes.grid(dataset.to_bytes(x.float().cpu().numpy()), training.planes.channels)
