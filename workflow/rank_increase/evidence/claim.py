"""Claims of the paper as numbers with verdicts: how they are declared, tested and tabulated.

A claim is declared where it is tested, by a decorator with literal arguments:

    @register.claim(
        "theorem.stage_times",
        source="Theorem 4.5",  # place in the paper (numbering of version 1)
        statement="...",  # what is claimed, in our words
        measure="...",  # what the value is, and what it is taken over
        relation="<",  # supported if the value stands in this relation to the threshold
        threshold=0.5,
        reason="...",  # for the threshold
        tables=["theorem"],
        data="theorem",  # the rows that are used; default: the names of the tables
    )
    def stage_times(theorem):
        ...
        return value, "3 problems", "details: the numbers behind the value"

The function takes its tables as data frames, in the declared order, and returns the value, what it rests on and,
optionally, details; or it raises `NotTested`. Its keyword-only parameters come from further arguments of the decorator
or from the configuration (`study_settings`). Texts may refer to them in braces.

A claim with `each=["network", "product"]` is tested separately on the rows of each network and product; other columns
of the first table work too. Their values are appended to the id, and their labels replace `{network}` and `{product}`
in the texts.
"""

import ast
import math
import operator
from dataclasses import dataclass, replace
from itertools import groupby

import pandas as pd

from rank_increase.notation import PRODUCT_NAMES
from rank_increase.registry import RegistryError, registered
from rank_increase.tables import SCHEMAS

RELATIONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
REQUIRED = ("source", "statement", "measure", "relation", "threshold", "reason", "tables")
OPTIONAL = ("data", "each")
TABLES = {*SCHEMAS, "measures"} - {"claims"}  # tables that a claim may use
MOVEMENT = 0.05  # of a product within a perturbation window: up to this the window is on a plateau (Figure 9)
FOLLOW = 6.1  # length of such a window where a study has none, in rescaled time: that of the paper


ENOUGH = 17  # the fewest problems that can support a share of four in five: 17 of 17 give a lower end of 0.805


class NotTested(ValueError):
    """The tables lack what a claim's test needs; the message names what is missing, without a full stop."""


@dataclass(frozen=True)
class Claim:
    """A claim and the result of its test.

    Attributes
    ----------
    id, source, statement, measure, relation, threshold, reason, data
        As declared.
    value : float
        NaN if the claim could not be tested.
    n : str
        Number of runs, problems or heads that the value rests on.
    details : str
        The numbers behind the value; or what is missing, if the claim was not tested.
    """

    id: str
    source: str
    statement: str
    measure: str
    relation: str
    threshold: float
    reason: str
    data: str
    value: float = math.nan
    n: str = ""
    details: str = ""

    def tested(self, value, n, details=""):
        """The claim with the result of its test."""
        return replace(self, value=float(value), n=n, details=details)

    def untested(self, missing):
        """The claim with what its test would need."""
        return replace(self, value=math.nan, n="none", details=missing)

    @property
    def verdict(self):
        """supported, not supported or not tested."""
        if math.isnan(self.value):
            return "not tested"
        return "supported" if RELATIONS[self.relation](self.value, self.threshold) else "not supported"


def declared_claims(extensions=()):
    """All declared claims in the order of the pages: of the toy model, of networks, of the files `extensions`.

    Returns
    -------
    list of registry.Entry

    Raises
    ------
    RegistryError
        If a declaration is incomplete or has an unknown argument, relation or table.
    """
    entries = list(registered("claim", tuple(extensions)).values())
    for entry in entries:
        _check(entry)
    return sorted(entries, key=_group)


def _group(entry):
    """The group of a claim: claims of a group stand together on a page."""
    return entry.module is None, entry.details.get("each", [])


def _check(entry):
    details, where = entry.details, f"{entry.path}: the claim {entry.name!r}"
    if lacking := [key for key in REQUIRED if details.get(key) in (None, "", [])]:
        raise RegistryError(f"{where} lacks {', '.join(lacking)}.")
    if unknown := details.keys() - {*REQUIRED, *OPTIONAL, *entry.parameters}:
        raise RegistryError(f"{where} has the unknown argument {', '.join(sorted(unknown))}.")
    if details["relation"] not in RELATIONS:
        raise RegistryError(f"{where} has the relation {details['relation']!r}; known are {', '.join(RELATIONS)}.")
    if unknown := set(details["tables"]) - TABLES:
        raise RegistryError(f"{where} asks for the unknown table {', '.join(sorted(unknown))}.")


def study_settings(study):
    """Parameters that claims may take from the configuration; a dict.

    active: a product is active above it. movement: largest movement of a product within a perturbation window on a
    plateau. speed: largest speed of a product at rest, per unit of rescaled time. variants: toy variant -> its
    settings, a dict. warmups: network -> epochs of its warm-up. All but the last are left out without a toy model.

    Parameters
    ----------
    study : dict
        With the sections `toy` and `assumptions` of the configuration, or None for them, `variants`, the settings of
        each toy variant, and `warmups`.
    """
    toy, assumptions = study["toy"], study["assumptions"]
    of_networks = {"warmups": study.get("warmups", {})}
    if not toy:
        return of_networks
    return {
        **of_networks,
        "active": toy["activation_weight"] ** 2,
        "variants": study.get("variants", {}),
        "movement": MOVEMENT,
        "speed": MOVEMENT / (assumptions["plateaus"]["follow"] if assumptions else FOLLOW),
    }


def evaluate(entries, tables, settings, labels):
    """Test claims.

    Parameters
    ----------
    entries : list of registry.Entry
        Of `declared_claims`.
    tables : dict of str to pandas.DataFrame
        The tables that the study makes; claims that ask for others are not tested.
    settings : dict
        Of `study_settings`.
    labels : dict of str to str
        Network -> what to call it.

    Returns
    -------
    list of Claim
        In the order of the declarations; those of one network and product stand together.
    """
    claims = []
    for _, group in groupby(entries, key=_group):
        found = [pair for entry in group for pair in _evaluate(entry, tables, settings, labels)]
        places = list(dict.fromkeys(place for place, _ in found))
        claims += [claim for _, claim in sorted(found, key=lambda pair: places.index(pair[0]))]
    return claims


def _evaluate(entry, tables, settings, labels):
    """Yield (place, claim): a tuple such as (network, product), and the claim with the result of its test there."""
    defaults = {name: ast.literal_eval(default) for name, (_, default, _) in entry.parameters.items() if default}
    known = defaults | settings | entry.details
    parameters = {name: known[name] for name in entry.parameters if name in known}
    wanted, each = entry.details["tables"], entry.details.get("each", [])
    if absent := [name for name in wanted if name not in tables]:
        missing = f"the table {absent[0]}, which this study does not make"
        yield (), _claim(entry, parameters, {}, labels).untested(missing)
        return
    frames = [tables[name] for name in wanted]
    places = frames[0][each].astype(str).drop_duplicates().to_dict("records") if each else []
    for place in places or [{}]:
        claim = _claim(entry, parameters, place, labels)
        try:
            result = entry.load()(*(_rows(frame, place) for frame in frames), **parameters)
        except NotTested as missing:
            yield tuple(place.values()), claim.untested(str(missing))
        else:
            yield tuple(place.values()), claim.tested(*result)


def _rows(frame, place):
    """Rows of one place, such as a network and product; a table without these columns has the same rows for all."""
    for column, value in place.items():
        if column in frame:
            frame = frame[frame[column].astype(str) == value]
    return frame


def _claim(entry, parameters, place, labels):
    """A claim with completed texts, about one place, such as a network and product; about all if `place` is empty."""
    details = entry.details
    names = {"network": labels, "product": PRODUCT_NAMES}
    words = {name: _word(parameters.get(name, name)) for name in entry.parameters}
    for column in details.get("each", []):
        value = place.get(column, f"every {column}")
        words[column] = names.get(column, {}).get(value, value)
    texts = {key: details[key] for key in ("source", "statement", "measure", "reason")}
    texts["data"] = details.get("data", ", ".join(details["tables"]))
    try:
        texts = {key: text.format_map(words) for key, text in texts.items()}
    except (KeyError, ValueError, IndexError) as error:
        raise RegistryError(
            f"{entry.path}: a text of the claim {entry.name!r} has braces around what is no parameter: {error}."
        ) from error
    return Claim(
        id=".".join([entry.name, *place.values()]),
        relation=details["relation"],
        threshold=details["threshold"],
        **texts,
    )


def _word(value):
    return number(value) if isinstance(value, int | float) else str(value)


def counted(number, noun):
    """A number with its noun, such as "1 seed" or "3 seeds"."""
    return f"{number} {noun}{'s' if number > 1 else ''}"


def lower_end(outcomes):
    """Lower end of the 95 % Clopper-Pearson interval, two-sided, of the share of true ones among `outcomes`."""
    from scipy.stats import beta  # takes longer to import than all claims to test

    right = sum(map(bool, outcomes))
    return float(beta.ppf(0.025, right, len(outcomes) - right + 1)) if right else 0.0


def claims_frame(claims):
    """Rows of schema "claims", in the order given.

    Raises
    ------
    ValueError
        If two claims have the same id.
    """
    names = SCHEMAS["claims"].names
    frame = pd.DataFrame([{name: getattr(claim, name) for name in names} for claim in claims], columns=names)
    if frame["id"].duplicated().any():
        raise ValueError(f"claims with the same id: {', '.join(frame['id'][frame['id'].duplicated()])}")
    return frame


def number(value):
    """A number as shown on pages: three significant digits, more for a whole number."""
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if abs(value) < 1e6 and value == round(value) else f"{value:.3g}"
