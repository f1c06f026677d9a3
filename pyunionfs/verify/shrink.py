"""Making a finding small, after hypothesis: fewer steps, and lower layers of which hypothesis knows nothing.

A round builds many candidates side by side on one pair of mounts, each without one of the parts, and then without
as many as possible of those that were not needed; and so on until all are needed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .pair import Pair
from .run import REMOUNT, ROTATE, Diverged, Finding, Run
from .trees import Dir

_BATCH = 32
_ROUNDS = 12

Place = tuple[int, tuple[str | bytes, ...]]  # the layer, and the names below r
Part = Place | int  # an entry of a layer, or a step


def smaller(pair: Pair, finding: Finding) -> Finding:
    """The same difference by as little as possible; the finding as it is where it does not repeat."""
    for _ in range(_ROUNDS):
        found = _with_less(pair, finding, list(range(len(finding.steps)))) or _with_less(
            pair, finding, list(_places(finding.layers))
        )
        if found is None:
            break
        finding = found
    return finding


def _with_less(pair: Pair, finding: Finding, parts: Sequence[Part]) -> Finding | None:
    """The finding without those of these parts that it does not need; None where it needs all."""
    needless = [removed[0] for removed, _ in _that_differ(pair, finding, [[part] for part in parts])]
    # Two that can each be left out may need one another: as many as can be, and at least one.
    counts = sorted({len(needless) * share // _BATCH for share in range(1, _BATCH + 1)} - {0}, reverse=True)
    found = _that_differ(pair, finding, [needless[:count] for count in counts] + [needless[:1]] * bool(needless))
    return next((result for _, result in found), None)


def _that_differ(
    pair: Pair, finding: Finding, candidates: Sequence[Sequence[Part]]
) -> Iterator[tuple[Sequence[Part], Finding]]:
    """Those removals after which there is still the same kind of difference."""
    size = 1 if {REMOUNT, ROTATE} & {step for step, _ in finding.steps} else _BATCH  # done to all copies of a mount
    for start in range(0, len(candidates), size):
        batch = candidates[start : start + size]
        tries = [_without(finding, removed) for removed in batch]
        copies = pair.build_these([attempt.layers for attempt in tries])
        for removed, attempt, copy in zip(batch, tries, copies, strict=True):
            result = _replay(pair, copy, attempt) if copy else None
            if result is not None and _kind(result) == _kind(finding):
                yield removed, result


def _replay(pair: Pair, copy: str, finding: Finding) -> Finding | None:
    """What these steps lead to in a copy, None where it is no difference."""
    run = Run(pair, copy)
    try:
        for step, _ in finding.steps:
            run.perform(step)
        run.compare_trees()
    except Diverged:
        return Finding(run.difference, finding.layers, run.steps)
    finally:
        run.close()
    return None


def _kind(finding: Finding) -> str:
    return finding.difference.split("\n", 1)[0]


def _places(layers: Sequence[Dir]) -> Iterator[Place]:
    """Every entry; whole directories come before what is in them."""
    waiting: list[tuple[int, tuple[str | bytes, ...], Dir]] = [(n, (), layer) for n, layer in enumerate(layers)]
    while waiting:
        number, where, directory = waiting.pop(0)
        for name, node in directory.entries.items():
            yield number, (*where, name)
            if isinstance(node, Dir):
                waiting.append((number, (*where, name), node))


def _without(finding: Finding, removed: Sequence[Part]) -> Finding:
    steps = [entry for index, entry in enumerate(finding.steps) if index not in removed]
    places = [part for part in removed if not isinstance(part, int)]
    layers = [
        _prune(layer, (), {names for where, names in places if where == number})
        for number, layer in enumerate(finding.layers)
    ]
    return replace(finding, layers=layers, steps=steps)


def _prune(directory: Dir, where: tuple[str | bytes, ...], gone: set[tuple[str | bytes, ...]]) -> Dir:
    entries = {}
    for name, node in directory.entries.items():
        path = (*where, name)
        if path not in gone:
            entries[name] = _prune(node, path, gone) if isinstance(node, Dir) else node
    return replace(directory, entries=entries)
