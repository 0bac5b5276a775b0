"""RePaint of part of a picture: cut out in a window, or squared as a whole, painted, and laid back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from diffusegen_core.config.sections import Inpaint
from diffusegen_core.data import dataset, planes, regions, seamless
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.planes import Chosen, Planes
from diffusegen_core.data.windows import Window
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.repaint import repaint, repaint_levels, to_array
from diffusegen_core.diffusion.samplers import Generators, Tick, named


@dataclass(frozen=True)
class Spot:
    """A picture and what is to be painted into it."""

    image: np.ndarray
    """(C, H, W) uint8."""
    old: np.ndarray
    """(H, W), class numbers of the lesion that it has."""
    new: np.ndarray | None
    """(H, W), class numbers of the lesion that it is to have; None if the model draws the mask."""
    rest: np.ndarray | None = None
    """(H, W), class numbers of what stays: classes other than the painted ones, or another lesion."""
    chosen: Chosen = None
    """The classes that are painted; None: all."""
    yielding: int | None = None
    """The class of `rest`, by its number, that gives way to what is painted: the organ around a lesion."""

    def over_rest(self, lesion: np.ndarray, kind: Planes) -> np.ndarray:
        """The class numbers (H, W) of a lesion (H, W) laid over what stays."""
        if self.rest is None:
            return lesion
        rest, new = (planes.separate(numbers, kind.classes) for numbers in (self.rest, lesion))
        return planes.numbered(planes.laid_over(rest, new, kind.overlap))

    def region(self, dilate: int) -> np.ndarray:
        """Where the picture is painted anew, (H, W) in {0, 1}: if a class gives way, only there and where the
        lesions are."""
        widened, organ = self.widened(dilate), self.rest == self.yielding
        if self.yielding is None or not np.any(organ):
            return widened
        return widened * (organ | (self.old > 0) | (self.new > 0 if self.new is not None else False))

    def widened(self, dilate: int) -> np.ndarray:
        """The lesions with a rim around them, (H, W) in {0, 1}. If all classes are painted, what stays is
        excluded, but for the class that gives way."""
        whole = regions.dilated(self.old if self.new is None else (self.old > 0) | (self.new > 0), dilate)
        if self.rest is None or self.chosen is not None:
            return whole
        free = self.rest == 0
        return whole * (free if self.yielding is None else free | (self.rest == self.yielding))


def signed(masks: np.ndarray) -> Tensor:
    """Masks (B, M, S, S) in {0, 1} as models see them: in {-1, 1}."""
    return torch.from_numpy(masks).float() * 2 - 1


def of(pictures: Pairs, masks: np.ndarray | None, chosen: Chosen) -> list[Spot]:
    """The spots of pictures with their old masks, and the new ones (B, M, H, W), if these are given. Only the
    chosen classes of both are painted; the others stay as they are."""
    old, rest = (planes.numbered(part(pictures.masks, chosen)) for part in (planes.only, planes.without))
    new = [None] * len(pictures) if masks is None else list(planes.numbered(planes.only(masks, chosen)))
    return [Spot(image, lesion, mask, None if chosen is None else stays, chosen)
            for image, lesion, mask, stays in zip(pictures.images, old, new, rest, strict=True)]


def paint(diffusion: Diffusion, spots: Sequence[Spot], window: float | None, settings: Inpaint,
          generators: Generators, tick: Tick | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each picture with its new lesion, (C, H, W) uint8, and the mask, (H, W), class numbers.

    `window` is as data.window; without one, the whole picture is squared. An old lesion that does not lie in
    the new one's window is first painted over in a window of its own. Outside the regions no pixel changes,
    and a picture depends on its own generator alone.
    """
    far = [number for number, spot in enumerate(spots) if window and _is_apart(spot, window, settings)]
    spots = list(spots)
    if far:
        gone = [replace(spots[number], new=np.zeros_like(spots[number].old)) for number in far]
        cleared = _painted(diffusion, gone, window, settings, [generators[number] for number in far], None)
        for number, (image, _) in zip(far, cleared, strict=True):
            spots[number] = replace(spots[number], image=image, old=np.zeros_like(spots[number].old))
    return _painted(diffusion, spots, window, settings, generators, tick)


def windows(pictures: Pairs, masks: np.ndarray | None, window: float, settings: Inpaint,
            chosen: Chosen = None) -> list[Window]:
    """The windows that `paint` used last for these pictures, with their old masks, and the new ones
    (B, M, H, W), if these were given."""
    done = [replace(spot, old=np.zeros_like(spot.old)) if _is_apart(spot, window, settings) else spot
            for spot in of(pictures, masks, chosen)]
    return [_window(spot, spot.region(settings.dilate), window) for spot in done]


def _is_apart(spot: Spot, window: float, settings: Inpaint) -> bool:
    """Whether the new lesion's window leaves out part of the old one's region."""
    if spot.new is None or not spot.new.any() or not spot.old.any():
        return False
    around = Window.around(spot.new, window, regions.dilated(spot.new, settings.dilate))
    return not around.contains(regions.dilated(spot.old, settings.dilate))


def _painted(diffusion: Diffusion, spots: Sequence[Spot], window: float | None, settings: Inpaint,
             generators: Generators, tick: Tick | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Paint each spot, in a single window."""
    size, kind = diffusion.image_size, diffusion.planes
    channels, classes = kind.channels, kind.classes
    filled = [spot.region(settings.dilate) for spot in spots]
    windows = [_window(spot, region, window) for spot, region in zip(spots, filled, strict=True)]
    cuts = [one.cut(spot.image, spot.over_rest(spot.old if spot.new is None else spot.new, kind), size,
                    classes) for one, spot in zip(windows, spots, strict=True)]
    small = [one.region(region, size) for one, region in zip(windows, filled, strict=True)]
    known = torch.from_numpy(1 - np.stack(small)[:, None]).float().repeat(1, channels + classes, 1, 1)
    for row, spot in zip(known, spots, strict=True):
        if spot.new is not None:
            row[channels:] = 1
        elif spot.chosen is not None:
            row[[channels + place for place in range(classes) if place not in spot.chosen]] = 1
    pairs = dataset.gather([str(number) for number in range(len(spots))],
                           np.stack([image for image, _ in cuts]),
                           planes.separate(np.stack([mask for _, mask in cuts]), classes))
    levels = repaint_levels(settings.respacing, settings.jump_length, settings.resampling)
    x_known = dataset.to_tensor(pairs).to(diffusion.device)
    x = repaint(_guided(diffusion.respaced(settings.respacing), spots, windows, x_known, settings), x_known,
                known.to(diffusion.device), levels, generators, named(settings.sampler), tick)
    samples = to_array(x)
    painted = seamless.filled(dataset.to_bytes(samples[:, :channels]), pairs.images, np.stack(small),
                              settings.seamless, [None if spot.rest is None or spot.new is None else mask
                                                  for spot, (_, mask) in zip(spots, cuts, strict=True)])
    # What is painted fades in over the whole rim, so that a lesion at an organ's edge is not faint there.
    rims = [one.region(spot.widened(settings.dilate), size) for one, spot in zip(windows, spots, strict=True)]
    return [_laid_back(spot, windows[i], filled[i], rims[i], painted[i], samples[i, channels:], settings,
                       kind) for i, spot in enumerate(spots)]


def _guided(diffusion: Diffusion, spots: Sequence[Spot], windows: Sequence[Window], x_known: Tensor,
            settings: Inpaint) -> Diffusion:
    """The model for a batch whose masks are all given, or all drawn."""
    if settings.guidance_scale == 1 or any(spot.new is None for spot in spots):
        return diffusion
    kind = diffusion.planes
    rest = [one.cut(spot.image, spot.over_rest(np.zeros_like(spot.old), kind), diffusion.image_size,
                    kind.classes)[1] for one, spot in zip(windows, spots, strict=True)]
    return diffusion.towards(x_known[:, kind.channels:], settings.guidance_scale,
                             signed(planes.separate(np.stack(rest), kind.classes)).to(x_known))


def _window(spot: Spot, region: np.ndarray, times: float | None) -> Window:
    if times is None:
        return Window.whole(region.shape)
    lesion = spot.old if spot.new is None or not spot.new.any() else spot.new
    return Window.around(lesion, times, region)


def _laid_back(spot: Spot, window: Window, region: np.ndarray, small: np.ndarray, painted: np.ndarray,
               mask: np.ndarray, settings: Inpaint, kind: Planes) -> tuple[np.ndarray, np.ndarray]:
    image = window.laid_back(spot.image, painted, small, settings.dilate)[0]
    image = np.where(region > 0, image, spot.image)
    if spot.new is not None:
        return image, spot.over_rest(spot.new, kind)
    channels = np.full((len(mask), *region.shape), -1, np.float32)
    channels[(..., *window.box)] = [cv2.resize(channel, (window.width, window.height)) for channel in mask]
    rest = planes.separate(np.zeros_like(spot.old) if spot.rest is None else spot.rest, kind.classes)
    return image, regions.drawn(channels, rest, settings.opening, kind.overlap, spot.chosen)
