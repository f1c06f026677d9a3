"""What unpacking a layer did, and what it could not do: counts, and the first names of each oddity."""

from dataclasses import dataclass, field
from typing import Any

_NAMES_KEPT = 5


@dataclass(slots=True)
class Remark:
    """Something that a reader of the result should know: how often, and where first."""

    count: int = 0
    names: list[str] = field(default_factory=list)


@dataclass(slots=True)
class UnpackReport:
    """Of one layer: what its entries made (one that a later entry replaced counts too).

    ``size`` is the sum of its regular files in bytes: holes included, hard links counted once.
    """

    entries: int = 0
    files: int = 0
    directories: int = 0
    symlinks: int = 0
    hard_links: int = 0
    devices: int = 0
    fifos: int = 0
    whiteouts: int = 0
    opaques: int = 0
    size: int = 0
    opaque_root: bool = False  # this layer hides all below it
    borrowed: bool = False  # has copies of lower layers' files, for hard links to them
    remarks: dict[str, Remark] = field(default_factory=dict)

    def remark(self, what: str, name: bytes) -> None:
        """Count an oddity; ``what`` is a phrase that reads well before a number."""
        entry = self.remarks.setdefault(what, Remark())
        entry.count += 1
        if len(entry.names) < _NAMES_KEPT:
            entry.names.append(name.decode("utf-8", "backslashreplace"))

    def to_json(self) -> dict[str, Any]:
        """As plain values, for ``layer.json``."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "remarks"}
        return values | {"remarks": {what: [r.count, r.names] for what, r in self.remarks.items()}}

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> "UnpackReport":
        """The inverse of :meth:`to_json`."""
        values = {name: table[name] for name in cls.__slots__ if name in table and name != "remarks"}
        remarks = {what: Remark(count, list(names)) for what, (count, names) in table["remarks"].items()}
        return cls(**values, remarks=remarks)
