"""Every parameter there is, for tests of all of them."""

from pydantic import BaseModel


def keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of a section."""
    names = []
    for name, field in section.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        names += keys(field.annotation, f"{name}.") if nested else [prefix + name]
    return names
