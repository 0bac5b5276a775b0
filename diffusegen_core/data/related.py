"""Which of a run's stored pairs belong together, by all that is known of them."""

from diffusegen_core.data import patients, sequences, sidecars
from diffusegen_core.data.dataset import Pairs
from diffusegen_core.data.sequences import KINDS, Grouped
from diffusegen_core.store.stamps import read_stamp


def layout_of(pairs: Pairs) -> str:
    """The layout of the folder that stored pairs were read from; "" where it is unknown, as for phantoms."""
    return str((read_stamp(pairs.stored.parent) or {}).get("layout", ""))


def of_pairs(pairs: Pairs) -> Grouped | None:
    """The groups of a run's stored pairs: by patient or sequence, where data.patients or the layout gives it;
    else by the volume that they are slices of; else as in `sequences.of_layout`."""
    told, _ = patients.read(pairs.file)
    layout, names = layout_of(pairs), pairs.names
    return (sequences.of_patients(told, names, layout)
            or sequences.of_volumes(sidecars.volumes(pairs.file), names)
            or sequences.of_layout(layout, names))


def untold(pairs: Pairs) -> str:
    """The complaint that names of stored pairs lack the sequence or centre that they should give; or ""."""
    layout = layout_of(pairs)
    meant = next((name for name in KINDS if layout.startswith(name)), "")
    if not meant or of_pairs(pairs):
        return ""
    return f"the names of the images do not say which {KINDS[meant]} of {meant} they belong to"
