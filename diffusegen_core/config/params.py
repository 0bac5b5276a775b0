"""Every parameter of the program, defined once: names, types, units, defaults and what cannot go together.

The defaults are the smoke profile, so a notebook opened by hand runs with them. A profile is a YAML file
with the same sections; a section names only what it changes. Whatever can be derived from these values is a
property here.
"""

import contextlib
import difflib
import os
import reprlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from diffusegen_core.config.data import PATIENT_TABLE, PHANTOMS, Data
from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.config.plainfiles import plain_file
from diffusegen_core.config.possible import impossible
from diffusegen_core.config.section import Section
from diffusegen_core.config.sections import (
    TESTS,
    Augment,
    Cluster,
    Evaluate,
    Filter,
    Gan,
    Inpaint,
    Model,
    Process,
    Segment,
    Style,
    Train,
)

Typed = TypeVar("Typed", bound=Section)
MAX_TEXT = 1 << 20  # characters of a parameter file
MAX_COMPLAINTS = 20
# Parameters that are paths, by the last part of their name, and words that some of them take instead.
PATHS = ("run_dir", "source", "file", "checkpoints", "weights", "vgg_weights", "masks", "backgrounds", *TESTS)
WORDS = (*PHANTOMS, "pretrained", "random", "rest", "singan", "joint", "own", "varied")
MAPPINGS = ("labels",)  # parameters that are mappings: replaced as a whole, unlike sections
_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 200
_brief.maxlevel = 2


class Params(Section):
    """The parameters of a whole run."""

    profile: str = Field("smoke", min_length=1, description="the name of the run")
    run_dir: str | None = Field(None, min_length=1, description="where artifacts go; null: runs/NAME")
    seed: int = Field(0, ge=0)
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto: cuda where there is one")
    generators: int = Field(
        1, ge=1, description="how often chapters 2 to 4 are done, each time with seeds of its own; chapters "
                             "6 and 7 share their repetitions out among these generators")
    tracking: Literal["tensorboard", "mlflow"] | None = Field(
        None, description="also write losses, previews and scores for this library, where it is installed")
    data: Data = Data()
    cluster: Cluster = Cluster()
    model: Model = Model()
    process: Process = Process()
    train: Train = Train()
    inpaint: Inpaint = Inpaint()
    style: Style = Style()
    gan: Gan = Gan()
    evaluate: Evaluate = Evaluate()
    filter: Filter = Filter()
    segment: Segment = Segment()
    augment: Augment = Augment()

    @property
    def folder(self) -> Path:
        """The run folder, absolute."""
        return resolve(self.run_dir or f"runs/{self.profile}")

    @property
    def model_size(self) -> int:
        """The side of the images that the diffusion models see, in pixels."""
        return self.data.window_size or self.data.image_size

    @model_validator(mode="after")
    def _possible(self) -> "Params":
        if wrong := list(impossible(self)):
            raise ValueError(" ".join(wrong))
        return self



def validate(values: dict[str, Any]) -> Params:
    """Typed parameters from plain values; raises UserError with one readable line that names each bad key."""
    return typed(Params, values, "Parameters")


def typed(kind: type[Typed], values: dict[str, Any], title: str) -> Typed:
    """`validate` for another kind of section; its complaints begin with the title."""
    try:
        return kind.model_validate(_integers_to_floats(kind, values))
    except ValidationError as error:
        errors = error.errors()
        lines = [_complaint(one, kind) for one in errors[:MAX_COMPLAINTS]]
        if len(errors) > MAX_COMPLAINTS:
            lines.append(f"And {len(errors) - MAX_COMPLAINTS} more.")
        raise UserError(f"{title}: " + " ".join(lines)) from None


def load(path: Path | str) -> dict[str, Any]:
    """The plain values of a parameter file. Raises UserError if it is absent, not YAML, or not a mapping."""
    try:
        with plain_file(Path(path)).open(encoding="utf-8") as f:
            text = f.read(MAX_TEXT + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    if len(text) > MAX_TEXT:
        raise UserError(f"{path} has more than {MAX_TEXT} characters: no file of parameters is so long.")
    values = _parsed(text, f"{path} is not YAML")
    if not isinstance(values, dict):
        raise UserError(f"{path} does not hold a mapping of parameters.")
    return values


def profile_file(profile: str | Path) -> Path:
    """The parameter file that a path or the name of a profile means. Raises UserError if there is none."""
    named = resolve(f"params/{profile}.yaml") if Path(profile).name == str(profile) else None
    for path in (Path(profile), resolve(profile), named):
        if path is not None and path.is_file():
            return path
    raise UserError(f"There is no parameter file {profile}, nor a profile of that name in "
                    f"{resolve('params')}.{_of_folder(profile)}")


def _of_folder(profile: str | Path) -> str:
    """A sentence on what a folder given in place of a parameter file may be; "" if it is no folder."""
    folder = next((path for path in (Path(profile), resolve(profile)) if path.is_dir()), None)
    if folder is None:
        return ""
    own = folder / "params.yaml"
    return (f" This is the folder of a run: give {own}." if own.is_file() else
            " This is a folder: for data of your own, "
            f"`diffusegen new {shlex.quote(str(profile))}` writes such a file.")


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `values` with changes, whose keys are sections or dotted: {"train.images": 7000}."""
    result = {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}
    for name, value in changes.items():
        *sections, last = str(name).split(".")
        place = result
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise UserError(f"Parameters: {name}: {section} is a value, not a section.")
        has_keys = last not in MAPPINGS and isinstance(place.get(last, {}), dict)
        if has_keys and isinstance(value, Mapping):
            place[last] = merged(place.get(last, {}), value)
        else:
            place[last] = value
    return result


def section(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The plain values of a section, {} where there is none. Raises UserError where it is a single value."""
    value = values.get(name, {})
    if not isinstance(value, dict):
        raise UserError(f"Parameters: {name} is a section, not a value: it cannot be {value!r}. Give its "
                        f"parameters, as {name}.KEY.")
    return value


def override(values: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A copy of `values` with dotted keys replaced: ("train.images", "7000").

    A text parameter is taken literally, except that `null` and "" mean None where that is allowed. For a path
    parameter, a relative path that exists in the working folder means that one. Other values are read as
    YAML.
    """
    result = merged(values, {})
    for name, text in pairs:
        result = merged(result, {name: _given(name, text)})
    return result


def _given(name: str, text: str) -> Any:
    kind = _annotation(name)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return section({name: _parsed(text, f"Parameters: {name}: {text!r} is not YAML")}, name)
    if kind not in (str, str | None):
        return _parsed(text, f"Parameters: {name}: {text!r} is not YAML")
    if kind is not str and text in ("null", ""):
        return None
    if name.split(".")[-1] in PATHS and text not in WORDS and name != "data.masks":  # which is a pattern
        with contextlib.suppress(OSError, ValueError):
            if Path.cwd() != home() and Path(text).exists():
                return os.path.abspath(text)
    return text


def _annotation(name: str) -> Any:
    """The type of a parameter by its dotted name; None if there is no such parameter."""
    kind: Any = Params
    for part in name.split("."):
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)) or part not in kind.model_fields:
            return None
        kind = kind.model_fields[part].annotation
    return kind


class _Loader(yaml.SafeLoader):
    """YAML's plain types, without aliases, repeated keys and huge integers: they can make a short text
    endless, or one of its values vanish."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias (*NAME), which is not allowed here",
                                              self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key occurs twice", node.start_mark)
        return mapping

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if abs(value) >= 2**63:
            raise yaml.constructor.ConstructorError(None, None, "an integer of more than 64 bits",
                                                    node.start_mark)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _parsed(text: str, complaint: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    # The YAML library raises the others too, for an impossible date or `!!bool a`.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(f"{complaint}: {printable(' '.join(str(error).split()))}") from None
    except RecursionError:
        raise UserError(f"{complaint}: it is nested too deeply.") from None


def plain(p: Section) -> dict[str, Any]:
    """The parameters as plain values, for papermill, YAML and recipes."""
    return p.model_dump(mode="json")


def shareable(section: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a section for others to see: paths of this machine are cut to their last part, and
    a list of pairs to its length."""
    def told(name: str, value: Any) -> Any:
        if name == "names" and isinstance(value, list):
            return f"{len(value)} of them"
        if not isinstance(value, str):
            return value
        if name == "patients" and (table := PATIENT_TABLE.fullmatch(value)):
            return f"{PurePath(table['file']).name}:{table['column']}"
        is_pattern = "*" in value and not PurePath(value).is_absolute()  # as data.images, within the source
        return PurePath(value).name if name in (*PATHS, "images") and not is_pattern else value

    return {name: told(name, value) for name, value in section.items()}


def home() -> Path:
    """The folder that relative paths start from: the checkout around the working directory, or else the
    working directory itself."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "_config.yml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return here


def relative(folder: Path) -> str:
    """A path as messages and pages name it: relative to home() if it lies there, so that others do not see
    this machine's paths; `resolve` undoes it."""
    return str(folder.relative_to(home())) if folder.is_relative_to(home()) else str(folder)


def resolve(path: str | Path) -> Path:
    """An absolute path; `~` is expanded, and a relative one starts at home()."""
    try:
        # Not Path.resolve, which fails on circular links.
        resolved = Path(os.path.realpath(home() / Path(path).expanduser()))
        if len(os.fsencode(resolved)) < 4096 and all(len(os.fsencode(part)) < 256 for part in resolved.parts):
            return resolved
    except RuntimeError:
        raise UserError(f"The path {path} starts with the home folder of an unknown user.") from None
    except ValueError:
        pass  # a null byte, or characters that no file name can have
    raise UserError(f"No file can have the name {_brief.repr(str(path))}.")


def _integers_to_floats(section: type[BaseModel], values: Any) -> Any:
    # YAML reads `lr: 1` as an integer and `1e-4` as a string; both are plainly meant as numbers.
    if not isinstance(values, dict):
        return values
    fixed = dict(values)
    for name, field in section.model_fields.items():
        if name not in fixed:
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            fixed[name] = _integers_to_floats(field.annotation, fixed[name])
        elif field.annotation in (float, float | None) and not isinstance(fixed[name], bool):
            with contextlib.suppress(TypeError, ValueError):
                fixed[name] = float(fixed[name])
    return fixed


def _complaint(error: ErrorDetails, kind: type[Section]) -> str:
    place = printable(".".join(str(part)[:100] for part in error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{place}: unknown key{_nearest(place, kind)}."
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"{place}: {error['msg']}, not {_brief.repr(error['input'])}."


def _nearest(place: str, kind: type[Section]) -> str:
    names = list(kind.model_fields)
    for section, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += [f"{section}.{name}" for name in field.annotation.model_fields]
    close = difflib.get_close_matches(place, names, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
