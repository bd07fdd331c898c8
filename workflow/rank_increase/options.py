"""Types of options, used in signatures and in the configuration.

Each has a description of its valid values, which completes the sentence "must be ...".
"""

from typing import Annotated

from rank_increase.notation import log_alpha

try:
    from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
except ModuleNotFoundError:  # only configurations are validated; gpu_check trains without one, and without pydantic

    class BaseModel:
        """The values of a section, unchecked; those not given are the defaults."""

        def __init__(self, **values):
            vars(self).update(values)

        def __repr__(self):
            """Every value, as pydantic writes them."""
            values = (f"{name}={getattr(self, name)!r}" for name in type(self).__annotations__)
            return f"{type(self).__name__}({', '.join(values)})"

    def Field(*_, **__):
        """Limits that nothing looks at."""

    BeforeValidator = ConfigDict = Field

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"  # part of file names, which systems limit to 255 bytes


def _alpha(value):
    if not isinstance(value, str):
        raise ValueError("not a string")
    log_alpha(value)
    return value


def described(kind, description, **limits):
    """A type with limits and a description of its valid values."""
    return Annotated[kind, Field(json_schema_extra={"must_be": description}, **limits)]


Name = described(str, 'a name of at most 64 letters, digits, "_" and "-"', pattern=NAME)
Dpi = described(int, "a whole number from 30 to 1200", ge=30, le=1200)
Text = described(str, "text in quotes", min_length=1)
Path = described(str, "a path in quotes", pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$")
Address = described(
    str, "an address in quotes that begins with https://, http:// or file://", pattern=r"^(https?|file)://."
)
Count = described(int, "a whole number from 1", ge=1)
Size = described(int, "a whole number from 0", ge=0)
Points = described(int, "a whole number from 2", ge=2)
Seed = described(int, "a whole number from 0 to 4294967295", ge=0, le=2**32 - 1)
Positive = described(
    float, "a positive number, such as 0.1 or 1.0e-3 (YAML reads 1e-3 as text)", gt=0, allow_inf_nan=False
)
NotNegative = described(float, "a number from 0", ge=0, allow_inf_nan=False)
Share = described(float, "a number above 0 and up to 1", gt=0, le=1, allow_inf_nan=False)
Decay = described(float, "a number from 0 and below 1", ge=0, lt=1, allow_inf_nan=False)
Flag = described(bool, "true or false")
Alpha = Annotated[
    str,
    BeforeValidator(_alpha),
    Field(
        pattern=r"^[0-9]+(\.[0-9]+)?(e-?[0-9]{1,9})?$",
        max_length=24,  # part of file names
        json_schema_extra={"must_be": 'a positive number in quotes, such as "0.1" or "1e-32"'},
    ),
]
Alphas = Annotated[
    list[Alpha],
    Field(min_length=1, json_schema_extra={"must_be": 'a list of at least one init scale, such as ["0.1", "1e-32"]'}),
]
Seeds = Annotated[
    list[Seed], Field(min_length=1, json_schema_extra={"must_be": "a list of at least one seed, such as [0, 1, 2]"})
]


class Section(BaseModel):
    """A section of the configuration; the string below each key describes it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)
