"""The start of the page: who wins, how sure, at what cost, against what, in sentences."""

from raybd.metrics.statistics.estimate import Estimate
from raybd.report.board.ranking import Standing, Standings
from raybd.report.board.rows import Problem

SURE = 0.95
"""Share of the draws in which the first one must be the best, to be called the winner."""
_NAMED = 6
"""Names that a sentence lists."""


def sentences(found: Standings) -> list[str]:
    """Return what a reader should know of a track, the answer first."""
    ranked = found.ranked
    one = found.track.one
    if not ranked:
        return [
            f"No ranking: {_count(len(found.methods), one)}, and a ranking takes two that "
            "were run on the same problems, with attacks that worked."
        ]
    first = ranked[0]
    assert first.ranking is not None
    return [
        _winner(found, first),
        _sure(found, first),
        _quality(found, first),
        _cost(first),
        _against(found),
    ]


def place(problem: Problem) -> str:
    """Return a problem in words."""
    return f"{problem.attack} at {problem.rate:g} on {problem.dataset}, {problem.network}"


def _winner(found: Standings, first: Standing) -> str:
    alike = _alike(found, first.method)
    assert first.ranking is not None
    if first.ranking.rank.low is not None and first.ranking.best >= SURE and not alike:
        return f"{first.method} wins among {len(found.ranked)} {found.track.one}s."
    if not alike:
        return (
            f"{first.method} has the best mean rank among {len(found.ranked)} "
            f"{found.track.one}s, but it is not sure to be the best."
        )
    return (
        f"No {found.track.one} wins alone: {first.method} has the best mean rank of "
        f"{len(found.ranked)}, and no test tells it from {_list(alike)}."
    )


def _sure(found: Standings, first: Standing) -> str:
    assert first.ranking is not None
    rank = first.ranking.rank
    # Where there is one attack to draw from, all draws are alike.
    drawn = (
        "one kind of attack gives no interval"
        if rank.low is None
        else f"it is the best in {first.ranking.best:.0%} of the draws of attacks"
    )
    return (
        f"Its mean rank is {_interval(rank, 2)} over {_count(first.ranking.common, 'problem')} "
        f"that all of them have; {drawn}; it was run on {first.ranking.coverage:.0%} of the "
        "problems."
    )


def _quality(found: Standings, first: Standing) -> str:
    track = found.track
    said = [] if first.mean is None else [f"mean {track.measure.title} {first.mean}"]
    if first.worst is not None:
        said.append(f"worst {first.worst.case.own} ({place(first.worst.problem)})")
        if first.worst.over_budget:
            count = _count(first.worst.over_budget, "problem")
            said.append(f"on {count} it costs too much clean accuracy")
    said.append(
        f"no benign run of {first.method}"
        if first.benign is None
        else f"where nothing is poisoned: {track.benign_words} {first.benign}"
    )
    if first.failed:
        said.append(f"it failed on {_count(first.failed, 'problem')}")
    return f"{_capital('; '.join(said))}."


def _cost(first: Standing) -> str:
    if not first.costs:
        return "What it costs is not known."
    said = [
        f"{cost.gpu_seconds:,.1f} GPU seconds on {cost.device}"
        if cost.gpu_seconds
        else f"{cost.seconds:,.1f} seconds on {cost.device}"
        for cost in first.costs
    ]
    return f"A cell costs {' and '.join(said)} on average."


def _against(found: Standings) -> str:
    attacks = sorted({problem.attack for problem in found.problems})
    datasets = sorted({problem.dataset for problem in found.problems})
    networks = sorted({problem.network for problem in found.problems})
    gated = sorted({problem.attack for problem in found.gated})
    apart = f" Not counted, because the attack failed: {_list(gated)}." if gated else ""
    return (
        f"Against {_many(attacks, 'attack')}, on {_many(datasets, 'data set')} and "
        f"{_many(networks, 'network')}.{apart}"
    )


def _alike(found: Standings, method: str) -> list[str]:
    together = {name for group in found.cliques if method in group for name in group}
    # With one problem there is no test.
    if len(found.problems) < 2:
        together = {one.method for one in found.ranked}
    return [one.method for one in found.ranked if one.method in together - {method}]


def _list(names: list[str]) -> str:
    rest = len(names) - _NAMED
    listed = names if rest <= 0 else [*names[:_NAMED], f"{rest} more"]
    return ", ".join(listed[:-1]) + (" and " if len(listed) > 1 else "") + listed[-1]


def _many(names: list[str], noun: str) -> str:
    return f"{_count(len(names), noun)} ({_list(names)})"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' if n != 1 else ''}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _interval(found: Estimate, digits: int) -> str:
    value = f"{found.value:.{digits}f}"
    if found.low is None or found.high is None:
        return value
    return f"{value} [{found.low:.{digits}f}, {found.high:.{digits}f}]"
