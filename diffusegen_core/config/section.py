"""What every group of parameters is."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of parameters: unknown keys are refused, no value is coerced from another type or changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
