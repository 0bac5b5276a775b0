"""How a mask lies on its image: turned like it, and where two files contradict each other, a complaint."""

from diffusegen_core.data.labels import Complaint
from diffusegen_core.data.pixels import Raster, apart, tilted, turned

# Kinds of problems.
TURNED, AFFINES = "orientations differ", "affines differ"
UPRIGHT = 1
SIDEWAYS = (5, 6, 7, 8)  # EXIF's orientations that swap width and height
LEVEL = 10.0  # degrees; header fields are rounded, and a tilted gantry tilts image and mask alike


def upright(mask: Raster, image: Raster | None) -> tuple[Raster, list[Complaint]]:
    """A mask turned like its image; where the two files disagree, their sizes decide, or it is a complaint.

    A mask without a tag, such as one from a tool that ignores tags, fits the picture either as shown or as
    stored. Beside a DICOM slice it is taken to fit the pixels as stored, unless its size fits only those
    shown: tools that export pictures of slices do not turn them.
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
        return mask, []  # of the right size, or that is reported
    return mask, [(TURNED, f"the image is turned by its {_tag(image)} ({image.orientation}) and the mask by "
                           f"its own ({mask.orientation}; 1: not turned), and their sizes do not show "
                           "which is right; save both upright, without it")]


def complaints(mask: Raster, image: Raster | None) -> list[Complaint]:
    """The complaints about an image and a mask that lie in the patient differently: two NIfTI files stored in
    different directions whose affines do not make up for that, so that their slices would not match (what is
    stored alike fits, whatever the affines say); or two DICOM slices at an angle to each other."""
    if image is None:
        return []
    if (angle := tilted(image, mask)) > LEVEL:
        return [(TURNED, f"by their headers, image and mask are at an angle of {angle:.0f} degrees; "
                         "save the mask of the image's slice")]
    if mask.axes == image.axes or not (distance := apart(image, mask)):
        return []
    return [(AFFINES, f"the image is stored as {image.axes} and the mask as {mask.axes}, and by their "
                      f"affines they lie {distance:.3g} mm apart; save the mask with the image's affine")]


def _tag(image: Raster) -> str:
    return "EXIF tag" if image.directions is None else "DICOM header"
