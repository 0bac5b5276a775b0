"""The base class of every group of parameters."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of parameters: unknown keys are refused, and values are neither coerced nor changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # pydantic's own fails where a parameter is a list
