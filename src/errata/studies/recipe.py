"""Recipes: what a run does, as YAML, with unknown keys refused and overrides from the command line."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from errata.errors import ConfigError
from errata.files import read_text
from errata.validation import explain

__all__ = [
    "EditsSection",
    "GuardSection",
    "MethodSection",
    "ModelSection",
    "ProbeSection",
    "Recipe",
    "RunSection",
    "lay",
    "lay_override",
    "load_recipe",
]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        coerce_numbers_to_str=True,
        ser_json_inf_nan="constants",
    )

    @model_validator(mode="before")
    @classmethod
    def _absent(cls, content: Any) -> Any:
        """Take null for "not given" where it is no value of the key: `sample:` and `-o edits.sample=null`."""
        if not isinstance(content, Mapping):
            return content
        fields = cls.model_fields
        return {k: v for k, v in content.items() if v is not None or k not in fields or _takes_none(fields[k])}


def _takes_none(field: FieldInfo) -> bool:
    return type(None) in get_args(field.annotation) or field.is_required()


class _OpenSection(_Section):
    """A section with a name, whose further keys belong to what is named and are checked there."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        use_attribute_docstrings=True,
        coerce_numbers_to_str=True,
        ser_json_inf_nan="constants",
    )

    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """The further keys."""
        return dict(self.model_extra or {})


class ModelSection(_Section):
    """Which model is edited."""

    name: str
    """A model by name (`errata models`), a directory in Hugging Face layout, a GGUF file, or a hub name."""
    dtype: str = "float32"
    """Precision of the weights: float64, float32, float16 or bfloat16."""
    device: str = "cpu"
    """A torch device."""
    device_map: str | dict[str, int | str] | None = None
    """How accelerate spreads the model over devices, in place of `device`: auto, balanced, or a device for each module
    path."""


class MethodSection(_OpenSection):
    """Which method edits it; all keys beside `name` are that method's settings."""


class EditsSection(_Section):
    """Which facts are edited, and in which order."""

    dataset: str = "lab"
    """A data set's name (`errata datasets`); "lab" gives counterfactual edits of the lab model's own world."""
    path: str | None = None
    """The data set's file or directory, or its hub name; the data set's own default when absent."""
    n: int | None = Field(default=None, ge=1)
    """How many facts; all when absent."""
    skip: int = Field(default=0, ge=0)
    """How many facts of the order to pass over first: 0, 100 and 200 with n 100 are three disjoint sets."""
    batch_size: int = Field(default=1, ge=1)
    """Facts in one update."""
    order: Literal["given", "shuffled", "unique", "reedit", "conflicting"] = "given"
    """given; shuffled; unique: the first fact of each lower-cased subject, shuffled (as the first paper samples);
    reedit: such facts, then the same again to another object; conflicting: each contradicted by the very next edit."""
    repeat: int = Field(default=2, ge=1)
    """How often reedit and conflicting edit the same subject and relation; `n` counts all edits."""
    seed: int = 0
    """Seed of the order, and of the other objects."""
    order_file: str | None = None
    """An index file with fixed orders (the first paper's); overrides `order`."""
    sample: str = "0"
    """Which of the file's orders; the first paper's Sample 1 is "0"."""
    prompt_form: Literal["raw", "chat"] = "raw"
    """How the model reads prompts: as they are, or as a user's turn in its chat template, with the object as the
    answer. Probes follow unless their own `prompt_form` says otherwise."""


class ProbeSection(_OpenSection):
    """A probe; all keys beside `name` are its settings, `every` among them."""


class RunSection(_Section):
    """How the run is named, seeded and kept."""

    name: str = "run"
    """The run's directory under `runs/`."""
    seed: int = 0
    """Seed of everything the method samples."""
    checkpoint_every: int = Field(default=20, ge=1)
    """Edits between checkpoints; an interruption costs at most the probes of this many edits."""
    on_disabled: Literal["continue", "stop", "rollback"] = "continue"
    """What to do with an edit that would disable the model: apply it and go on, apply it and stop, or leave it out."""
    author: str = ""
    """Who makes the edits, as `errata log` is to show it; nothing is looked up."""
    tracker: Literal["none", "trackio", "wandb"] = "none"
    """Who is told of every step's figures: nobody, trackio (kept on this machine) or wandb (sent to its server)."""


class GuardSection(_Section):
    """Whether each update is judged by what it does to a canary before it lands, and what is allowed.

    Off, an update is judged by its size alone and `run.on_disabled` says what follows.
    """

    enabled: bool = False
    """Judge on trial; what costs too much is damped, proposed with another setting, or refused and quarantined."""
    source: str = "auto"
    """The canary: "auto" takes unedited facts and held-out text of a lab model's world, general lines for other models;
    else a text file, a line each, none of them about what is edited."""
    lines: int = Field(default=32, ge=1)
    """Lines of the canary at most: a fixed sample."""
    budget: float = Field(default=0.05, gt=0)
    """The most that the canary's mean KL(p₀‖p) may reach over all edits, in nats."""
    kept: float = Field(default=0.9, ge=0, le=1)
    """The least share of the canary's lines after which the answer stays: the token that was the most probable is still
    half as probable as the one that now is."""
    perplexity: float = Field(default=1.1, gt=1)
    """The most that the canary's perplexity may be, as a multiple of the unedited model's."""
    pace: float = Field(default=4.0, gt=0)
    """How many equal shares of what is left of the budget one edit may take."""
    horizon: int = Field(default=100, ge=1)
    """For how many more edits the budget is to last where nobody says how many there will be."""
    learnt: float = Field(default=0.001, ge=0, le=1)
    """The least probability that the object must have afterwards (geometric mean over its tokens; of a batch the mean):
    an edit that teaches less is refused, whatever it costs. 0 lets everything pass."""
    condition: float = Field(default=1e14, gt=1)
    """The largest condition number of a solve that is trusted."""
    spike: float = Field(default=10.0, gt=1)
    """How many times the median of those before it an update may be large."""
    warm_up: int = Field(default=10, ge=1)
    """How many updates make a median; before, an update may be `spike` times ‖W₀‖."""
    damp: tuple[float, ...] = (0.7, 0.5)
    """By what an update that costs too much is multiplied, in turn, as long as it still teaches its facts."""
    retry: Literal["auto"] | tuple[dict[str, Any], ...] = "auto"
    """Settings laid over the method's own, tried in turn when its own cost too much; "auto": gentler ones that suit the
    method. A setting that cost too much is not gone back to."""


class ReportSection(_Section):
    """What the report says of itself."""

    title: str = ""
    """A heading of your own."""


_PROBES = ("proficiency", "forgetting", "unrelated", "downstream", "perplexity", "drift", "text", "entropy")


class Recipe(_Section):
    """One sequential run, whole."""

    model: ModelSection
    method: MethodSection
    edits: EditsSection = EditsSection()
    probes: tuple[ProbeSection, ...] = tuple(ProbeSection(name=name) for name in _PROBES)
    run: RunSection = RunSection()
    guard: GuardSection = GuardSection()
    report: ReportSection = ReportSection()

    @field_validator("probes", mode="before")
    @classmethod
    def _by_name(cls, probes: Any) -> Any:
        """Take a probe's name alone for the probe with its default settings: probes: [proficiency, drift]."""
        listed = [probes] if isinstance(probes, str) else probes
        if not isinstance(listed, list | tuple):
            return listed
        return [{"name": probe} if isinstance(probe, str) else probe for probe in listed]


def load_recipe(
    source: Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    tell: Callable[[str], None] = lambda message: None,
) -> Recipe:
    """Read a recipe and lay `key=value` overrides over it.

    Args:
        source: a YAML file, or its content.
        overrides: such as "edits.n=30"; values are YAML. Naming another method keeps what both methods understand and
            sets the recipe's other settings aside, so that `method.name=rome` works on any recipe.
        tell: receives one remark on what was kept and what was set aside.

    Raises:
        ConfigError: when the file cannot be read, or a key or value makes no sense; names it.
    """
    if isinstance(source, Mapping):
        content: Any = deepcopy(dict(source))
        name = "recipe"
    else:
        name = str(source)
        if not source.exists():
            raise ConfigError(f"there is no recipe {source}; recipes/ holds examples.")
        try:
            content = yaml.safe_load(read_text(source, ConfigError))
        except yaml.YAMLError as e:
            raise ConfigError(f"{source} cannot be read as YAML: {e}") from e
    if not isinstance(content, dict):
        raise ConfigError(
            f"{name} holds {type(content).__name__}, but a recipe is a mapping of sections (model, method, ...)."
        )
    for override in overrides:
        lay_override(content, override, tell)
    try:
        return Recipe.model_validate(content)
    except ValidationError as e:
        raise ConfigError(explain(e, Recipe, name)) from e


def lay_override(content: dict[str, Any], override: str, tell: Callable[[str], None] = lambda message: None) -> None:
    """Lay one `key=value` over a nested mapping, in place; the value is YAML.

    Raises:
        ConfigError: when it is no such pair.
    """
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise ConfigError(f"-o {override!r}: write key=value, for instance edits.n=30.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"-o {override!r}: the value is not YAML: {e}") from e
    lay(content, key, value, tell)


def lay(content: dict[str, Any], key: str, value: Any, tell: Callable[[str], None] = lambda message: None) -> None:
    """Set one dotted key of a nested mapping, in place; the entries of a list are named, as in probes.forgetting.every.

    Another `method.name` keeps the settings that both methods understand, and sets the others aside.

    Args:
        content: the mapping.
        key: the dotted key.
        value: what it is set to.
        tell: receives one remark on settings that were kept and set aside.

    Raises:
        ConfigError: when a part of the key is no section.
    """
    parts = key.split(".")
    here: Any = content
    for part in parts[:-1]:
        here = _named(here, part, key) if isinstance(here, list) else here.setdefault(part, {})
        if not isinstance(here, dict | list):
            raise ConfigError(f"-o {key}: {part!r} is not a section.")
    if isinstance(here, list) or (parts[0] == "probes" and len(parts) > 1 and isinstance(content["probes"], dict)):
        raise ConfigError(f"-o {key}: write probes.NAME.SETTING for a probe that the recipe lists.")
    if parts == ["method", "name"] and here.get("name") != value:
        _renamed(here, str(value), tell)
    here[parts[-1]] = value


def _renamed(section: dict[str, Any], name: str, tell: Callable[[str], None]) -> None:
    """Keep of a method's settings those that another method understands as well."""
    from errata.editors.registry import editors  # with torch: only where it is asked for

    known, before = editors(), str(section.pop("name", ""))
    old, new = (known[m].Settings.model_fields if m in known else {} for m in (before, name))
    aside = [k for k, v in section.items() if k not in old or k not in new or not _understood(new[k], v)]
    kept = [k for k in section if k not in aside]
    for key in aside:
        del section[key]
    said = [f"{word}: {', '.join(keys)}" for word, keys in (("kept", kept), ("set aside", aside)) if keys]
    if said and name in known:
        tell(f"method.name={name}: of the recipe's settings of {before or 'its method'} are {'; '.join(said)}.")


def _understood(field: FieldInfo, value: Any) -> bool:
    """Say whether a setting can have a value."""
    try:
        kind: Any = Annotated[field.annotation, field]
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


def _named(entries: list[Any], name: str, key: str) -> dict[str, Any]:
    entries[:] = [{"name": entry} if isinstance(entry, str) else entry for entry in entries]
    names = [entry.get("name") for entry in entries if isinstance(entry, dict)]
    if name not in names:
        raise ConfigError(f"-o {key}: there is no {name!r} in the recipe's list; it has {', '.join(map(str, names))}.")
    found: dict[str, Any] = next(entry for entry in entries if isinstance(entry, dict) and entry.get("name") == name)
    return found
