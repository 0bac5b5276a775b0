"""How a mask lies on its image: turned as that is, and where two files say otherwise, told."""

from diffusegen_core.data.labels import Complaint
from diffusegen_core.data.pixels import Raster, apart, tilted, turned

# Kinds of problems.
TURNED, AFFINES = "orientations differ", "affines differ"
UPRIGHT = 1
SIDEWAYS = (5, 6, 7, 8)  # EXIF's orientations that swap width and height
LEVEL = 10.0  # degrees; header fields are rounded, and gantries tilt with image and mask alike


def upright(mask: Raster, image: Raster | None) -> tuple[Raster, list[Complaint]]:
    """A mask turned as its image is; where the two files say otherwise, their sizes decide, or nothing does.

    A mask without a tag, as of a picture that was labelled in a tool that knows none, fits the picture either
    as it is shown, or as it is stored. Beside a slice in DICOM it is of the pixels as they are stored: tools
    that save pictures of these take them so.
    """
    if image is None or image.orientation == mask.orientation:
        return mask, []
    if mask.format == image.format == "DICOM" and None not in (image.directions, mask.directions):
        return mask, []  # both are turned to the patient's axes
    shown, stored = image.size, image.size[::-1]
    if mask.orientation == UPRIGHT and image.directions is not None:
        shown_only = image.orientation in SIDEWAYS and shown != stored and mask.size == shown
        return (mask if shown_only else turned(mask, image.orientation)), []
    if mask.orientation == UPRIGHT and image.orientation in SIDEWAYS and shown != stored:
        return (turned(mask, image.orientation) if mask.size == stored else mask), []
    if image.orientation == UPRIGHT and mask.orientation in SIDEWAYS and shown != stored:
        return mask, []  # of the right size, or told
    return mask, [(TURNED, f"the image is turned by its {_tag(image)} ({image.orientation}) and the mask by "
                           f"its own ({mask.orientation}; 1 is not at all), and their sizes do not tell "
                           "which is right; save both without it, as they are meant")]


def complaints(mask: Raster, image: Raster | None) -> list[Complaint]:
    """What is said of two files that lie in the patient otherwise: two of NIfTI that are stored in different
    directions, which their affines do not make good, so that slices would meet others (what is stored alike
    fits, wherever it is said to lie); two slices in DICOM that lie across each other."""
    if image is None:
        return []
    if (angle := tilted(image, mask)) > LEVEL:
        return [(TURNED, f"by their headers the image and the mask lie at {angle:.0f} degrees to each other; "
                         "save the mask of the image's slice")]
    if mask.axes == image.axes or not (distance := apart(image, mask)):
        return []
    return [(AFFINES, f"the image is stored as {image.axes} and the mask as {mask.axes}, and by their "
                      f"affines they lie {distance:.3g} mm apart; save the mask with the image's affine")]


def _tag(image: Raster) -> str:
    return "EXIF tag" if image.directions is None else "DICOM header"
