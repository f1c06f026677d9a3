"""Making a finding small, after hypothesis: fewer steps, and lower layers of which hypothesis knows nothing.

Where nothing more can be left out, the paths of the steps are made shorter: then their directories can go, too.

A round builds many candidates side by side on one pair of mounts, each without one of the parts, and then without
as many as possible of those that were not needed; and so on until all are needed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .pair import Pair
from .run import REMOUNT, ROTATE, Diverged, Finding, Run
from .steps import Name
from .trees import Dir

_BATCH = 32
_ROUNDS = 12

Place = tuple[int, tuple[str | bytes, ...]]  # the layer, and the names below r
Part = Place | int  # an entry of a layer, or a step


def smaller(pair: Pair, finding: Finding) -> Finding:
    """The same difference by as little as possible; the finding as it is where it does not repeat."""
    for _ in range(_ROUNDS):
        found = (
            _with_less(pair, finding, list(range(len(finding.steps))))
            or _with_less(pair, finding, list(_places(finding.layers)))
            or next((result for _, result in _that_differ(pair, list(_shortened(finding)))), None)
        )
        if found is None:
            break
        finding = found
    return finding


def _with_less(pair: Pair, finding: Finding, parts: Sequence[Part]) -> Finding | None:
    """The finding without those of these parts that it does not need; None where it needs all."""
    alone = [_without(finding, [part]) for part in parts]
    needless = [parts[number] for number, _ in _that_differ(pair, alone)]
    # Two that can each be left out may need one another: as many as can be, and at least one.
    counts = sorted({len(needless) * share // _BATCH for share in range(1, _BATCH + 1)} - {0}, reverse=True)
    removals = [needless[:count] for count in counts] + [needless[:1]] * bool(needless)
    found = _that_differ(pair, [_without(finding, removed) for removed in removals])
    return next((result for _, result in found), None)


def _that_differ(pair: Pair, attempts: Sequence[Finding]) -> Iterator[tuple[int, Finding]]:
    """Those by which there is the kind of difference that they name: their number, and what came of them."""
    marks = {step for attempt in attempts for step, _ in attempt.steps} & {REMOUNT, ROTATE}
    size = 1 if marks else _BATCH  # done to all copies of a mount
    for start in range(0, len(attempts), size):
        batch = attempts[start : start + size]
        copies = pair.build_these([attempt.layers for attempt in batch])
        for number, (attempt, copy) in enumerate(zip(batch, copies, strict=True), start):
            result = _replay(pair, copy, attempt) if copy else None
            if result is not None and _kind(result) == _kind(attempt):
                yield number, result


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


def _shortened(finding: Finding) -> Iterator[Finding]:
    """With one directory less in one path of one step; the difference is told of that step then."""
    for number, (step, outcome) in enumerate(finding.steps):
        for place, argument in enumerate(step.arguments):
            names = argument.split("/") if isinstance(argument, Name) else []
            for gone in range(len(names) - 1):
                path = Name("/".join(names[:gone] + names[gone + 1 :]))
                shorter = replace(step, arguments=(*step.arguments[:place], path, *step.arguments[place + 1 :]))
                yield replace(
                    finding,
                    difference=finding.difference.replace(str(step), str(shorter)),
                    steps=[*finding.steps[:number], (shorter, outcome), *finding.steps[number + 1 :]],
                )
