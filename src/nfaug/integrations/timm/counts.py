"""NFA's counters as text, and what to say of them if many images stay unchanged."""

from __future__ import annotations

from collections.abc import Mapping

_MOST = 1 / 3  # of the chosen images, that may stay unchanged without a word
_LEAST = 30  # chosen images; of fewer, a third may stay by chance
_REASONS = {
    "gated": "they, or their variants, lie outside of the range of their class, as crops do that "
    "are unlike the images of the fit",
    "far": "they are unlike the images that the flow was trained on",
    "no_partner": "no other image of their class was found to mix them with",
    "fell_back": "their variants were not finite",
}


def format_stats(stats: Mapping[str, int]) -> str:
    """Counters as one line of text."""
    counts = []
    for name, count in stats.items():
        if name != "seen":
            counts.append(f"{name.replace('_', ' ')} {count}")
    return f"NFA: of {stats['seen']} images {', '.join(counts)}"


def many_unchanged(stats: Mapping[str, int]) -> str:
    """What happens, if more than a third of at least 30 chosen images stay unchanged; else "".

    Images that are not finite are left out: they are counted whether they are chosen or not.

    Args:
        stats: The counters of `NFAugment.stats`.
    """
    left = sum(stats[name] for name in _REASONS)
    chosen = left + stats["applied"]
    if chosen < _LEAST or left <= _MOST * chosen:
        return ""
    most = max(_REASONS, key=lambda name: stats[name])
    share = "all" if stats[most] == left else str(stats[most])
    seen = stats["seen"]
    return (
        f"NFA left {left} of {chosen} chosen images unchanged, {share} of them because "
        f"{_REASONS[most]}: it chose {100 * chosen / seen:.0f}% of all images, and changed "
        f"{100 * stats['applied'] / seen:.0f}%"
    )
