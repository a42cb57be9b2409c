"""Units of bands: which convert into each other, and by what line.

A unit is written as people write it: `K`, `degC`, `°C x 10` (stored ten times), `0.1 K`, `kg m-2`, `mm`, `%`.
"""

import re
from dataclasses import dataclass
from functools import cache

__all__ = ["Line", "between"]


@dataclass(frozen=True)
class Line:
    """converted = factor * value + offset."""

    factor: float = 1.0
    offset: float = 0.0

    def after(self, first: "Line") -> "Line":
        """This line of what another one makes. `first`: the line that is applied before."""
        return Line(self.factor * first.factor, self.factor * first.offset + self.offset)

    def inverse(self) -> "Line":
        """The way back."""
        return Line(1 / self.factor, -self.offset / self.factor)


# By what is measured, each unit's factor and offset to the first of them.
_UNITS: dict[str, dict[str, tuple[float, float]]] = {
    "temperature": {
        **dict.fromkeys(("k", "kelvin"), (1.0, 0.0)),
        **dict.fromkeys(("c", "degc", "°c", "celsius", "degree_celsius", "degrees_celsius"), (1.0, 273.15)),
        **dict.fromkeys(("deg_c", "degree_c", "degrees_c", "centigrade", "deg_celsius"), (1.0, 273.15)),
        **dict.fromkeys(("f", "degf", "°f", "fahrenheit"), (5 / 9, 459.67 * 5 / 9)),
    },
    "length": {
        **dict.fromkeys(("m", "metre", "metres", "meter", "meters", "masl", "m_a.s.l."), (1.0, 0.0)),
        **dict.fromkeys(("km", "kilometre", "kilometer"), (1000.0, 0.0)),
        **dict.fromkeys(("cm", "centimetre", "centimeter"), (0.01, 0.0)),
        # A litre of water on a square metre stands a millimetre high.
        **dict.fromkeys(("mm", "millimetre", "millimeter", "kg_m-2", "kg/m2", "l/m2", "l_m-2"), (0.001, 0.0)),
        **dict.fromkeys(("ft", "feet", "foot"), (0.3048, 0.0)),
        **dict.fromkeys(("in", "inch", "inches"), (0.0254, 0.0)),
    },
    "share": {
        **dict.fromkeys(("1", "fraction", "share", "proportion", "kg/kg"), (1.0, 0.0)),
        **dict.fromkeys(("%", "percent", "pct"), (0.01, 0.0)),
        **dict.fromkeys(("‰", "permille", "g/kg", "g_kg-1"), (0.001, 0.0)),
        **dict.fromkeys(("dg/kg", "dg_kg-1"), (1e-4, 0.0)),
        **dict.fromkeys(("cg/kg", "cg_kg-1"), (1e-5, 0.0)),
        **dict.fromkeys(("mg/kg", "mg_kg-1", "ppm"), (1e-6, 0.0)),
    },
    "acidity": {**dict.fromkeys(("ph", "-log(h+)", "ph_(h2o)"), (1.0, 0.0))},
    "density": {
        **dict.fromkeys(("kg/m3", "kg_m-3", "g/dm3"), (1.0, 0.0)),
        **dict.fromkeys(("g/cm3", "g_cm-3", "kg/dm3", "kg_dm-3", "t/m3"), (1000.0, 0.0)),
        **dict.fromkeys(("cg/cm3", "cg_cm-3"), (10.0, 0.0)),
    },
    "exchange capacity": {
        **dict.fromkeys(("cmol(c)/kg", "cmol/kg", "cmolc/kg"), (1.0, 0.0)),
        **dict.fromkeys(("mmol(c)/kg", "mmol/kg", "mmolc/kg"), (0.1, 0.0)),
    },
    "volume share": {**dict.fromkeys(("cm3/dm3", "cm3_dm-3"), (0.1, 0.0)), "vol%": (1.0, 0.0)},
    "speed": {
        **dict.fromkeys(("m/s", "m_s-1"), (1.0, 0.0)),
        **dict.fromkeys(("km/h", "km_h-1"), (1 / 3.6, 0.0)),
    },
    "angle": {
        **dict.fromkeys(("deg", "degree", "degrees", "°"), (1.0, 0.0)),
        **dict.fromkeys(("rad", "radian", "radians"), (57.29577951308232, 0.0)),
    },
}
# Ranges, deviations and changes of temperature: a kelvin is a degree Celsius, there is no zero to shift.
_DIFFERENCE = re.compile(r"(^|[^a-z])bio_?0*(2|3|4|7)$|range|diff|ampl|season|anomal|change|dev|std|(^|_)sd")


def between(unit: str, other: str, band: str = "") -> Line | None:
    """What makes values of one unit values of another; None where the two do not convert, or one is unknown.

    Args:
        unit: of the values.
        other: to convert them to.
        band: name of the band: of a range or a deviation of temperatures only the factor counts.
    """
    if unit.strip() == other.strip():
        return Line()
    one, two = _parse(unit), _parse(other)
    if one is None or two is None or one[0] != two[0]:
        return None
    line = two[1].inverse().after(one[1])
    if one[0] == "temperature" and _DIFFERENCE.search(band.lower()):
        line = Line(line.factor)
    return line


@cache
def _parse(unit: str) -> tuple[str, Line] | None:
    """What a unit measures, and the line to the first unit of that kind."""
    match = re.fullmatch(
        r"(?:(?P<scale>\d*\.?\d+(?:e[+-]?\d+)?)\s*[x×*]?\s+)?(?P<name>.+?)"
        r"(?:\s*[x×*]\s*(?P<times>\d+))?(?:\s+from\s+(?P<start>-?\d*\.?\d+))?",
        unit.strip().lower(),
    )
    if not match:
        return None
    name = re.sub(r"\s+", "_", match["name"].strip("[]"))
    stored = Line(float(match["scale"] or 1) / float(match["times"] or 1), float(match["start"] or 0))
    for kind, units in _UNITS.items():
        if name in units:
            return kind, Line(*units[name]).after(stored)
    return None
