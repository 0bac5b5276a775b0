"""The error for a file whose tensors do not fit a network, and the differences that it names."""

from pathlib import Path
from typing import Any

from torch import nn

from diffusegen_core.config.errors import UserError

Shapes = dict[str, tuple[int, ...]]
NAMED = 4  # how many tensors a message names at most


def refuse_other_shapes(path: Path, shapes: Shapes, net: nn.Module, teller: str) -> None:
    """UserError, naming the differences, unless tensors have the names and shapes of the network's.

    `teller` is what the message calls the source of the network's configuration.
    """
    wanted = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    if shapes == wanted:
        return
    lines = [f"{name}: {shapes.get(name, 'absent')} in the file, {wanted.get(name, 'absent')} in {teller}"
             for name in sorted({*shapes, *wanted}) if shapes.get(name) != wanted.get(name)]
    more = [f"and {len(lines) - NAMED} more tensors"] if len(lines) > NAMED else []
    raise UserError(f"{path} does not fit {teller}: "
                    + "; ".join(_summary(shapes, wanted, teller) + lines[:NAMED] + more)
                    + ". Name another file, or the parameters of this one.")


def _summary(shapes: Shapes, wanted: Shapes, teller: str) -> list[str]:
    # A released file has no configuration, but these fields can be read off its shapes.
    def read_off(shapes: Shapes) -> dict[str, Any]:
        stem, head = (shapes.get(f"{name}.weight", ()) for name in ("input_blocks.0.0", "out.2"))
        blocks = {name: name.split(".")[1] for name in shapes if name.startswith("input_blocks.")}
        attention = {block for name, block in blocks.items() if name.endswith(".qkv.weight")}
        return {"model.base_channels": stem[0] if len(stem) == 4 else "unknown",
                "input channels": stem[1] if len(stem) == 4 else "unknown",
                "output channels": head[0] if len(head) == 4 else "unknown",
                "input blocks": len({*blocks.values()}),
                "attention in input blocks": " ".join(sorted(attention, key=lambda b: (len(b), b))) or "none"}

    a, b = read_off(shapes), read_off(wanted)
    return [f"{name}: {a[name]} in the file, {b[name]} in {teller}" for name in a if a[name] != b[name]]
