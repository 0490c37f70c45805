"""One score out of several criteria: normalised, clustered by how alike they rank, weighted and added.

He et al. 2021, Blending Pruning Criteria, https://arxiv.org/abs/2107.05033. Which criteria are clustered, by which
linkage, and the fallback for small groups are our reading: the paper's text was not at hand.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from paretune.compress.criteria import Array, Scores, reduced
from paretune.errors import ImpossiblePlan, pick
from paretune.recipe import Blend

FEW = 16  # with fewer units than this a rank correlation is mostly luck
SAMPLE = 4096  # weights of a layer that its rank correlations look at
Clusters = tuple[tuple[int, ...], ...]  # places in `Blend.criteria`


def rank(scores: Array) -> Array:
    """Average rank of each score over their number, in (0, 1]; unchanged by any increasing map of the scores."""
    ranks: Array = rankdata(scores, axis=None).reshape(scores.shape) / scores.size
    return ranks


def min_max(scores: Array) -> Array:
    """Scores mapped linearly onto [0, 1]; 0.5 everywhere if they are all the same."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.full(scores.shape, 0.5)


NORMALISERS: Mapping[str, Callable[[Array], Array]] = {"rank": rank, "min_max": min_max}


def unit_scores(scores: Scores, blend: Blend, group: str, reduce: str) -> Array:
    """Blended score of every unit of a group, (units,); higher = keep.

    Σ weight × normalised score; with clusters, over one picked criterion per cluster. One criterion without clusters is
    its own reduced score, raw, so that nothing is lost. Groups still do not compare: a rule that needs that divides by
    the mean of each group itself (`rates.one_threshold`).

    Raises:
        ImpossiblePlan: weights that are no weights, or not one per criterion (per cluster, if there are clusters).
        UnknownName: a criterion that was not scored, an unknown reduction or normalisation.
    """
    _check(blend)
    found = [_units(scores, criterion, group, reduce) for criterion in blend.criteria]
    return _blended(blend, found, lambda: _unit_clusters(scores, blend, group, reduce))


def weight_scores(scores: Scores, blend: Blend, layer: str) -> Array:
    """Blended score of every weight of a layer, in the weight's shape, by the same rules as `unit_scores`.

    Masks with the scope "global" compare these between layers as they are: raw for one criterion, normalised layer by
    layer for a blend.

    Raises:
        ImpossiblePlan: as `unit_scores`.
        UnknownName: a criterion whose scores per weight are not there, an unknown normalisation.
    """
    _check(blend)
    found = [_weights(scores, criterion, layer) for criterion in blend.criteria]
    return _blended(blend, found, lambda: _weight_clusters(scores, blend, layer))


def rank_correlations(scores: Scores, criteria: Sequence[str], group: str, reduce: str) -> Array:
    """Spearman's rank correlation between criteria over the units of a group, (criteria, criteria), in [-1, 1].

    Ties share their average rank; a criterion that is constant is correlated with nothing, 0.
    """
    return _spearman([_units(scores, criterion, group, reduce) for criterion in criteria])


def cluster(correlations: Array, count: int) -> Clusters:
    """Indices in `count` clusters (or one each, if they are fewer), in order of their first.

    A blend's weights and picks count clusters in that order.

    Agglomerative, by the average of the distance 1 − correlation between two clusters' members.
    """
    size = len(correlations)
    members: dict[int, tuple[int, ...]] = {index: (index,) for index in range(size)}
    if size > count:
        distances = squareform(1 - correlations, checks=False)
        for step, (one, two, *_) in enumerate(linkage(distances, method="average")[: size - count]):
            members[size + step] = members.pop(int(one)) + members.pop(int(two))
    return tuple(sorted(tuple(sorted(found)) for found in members.values()))


def _check(blend: Blend) -> None:
    if not blend.criteria:
        raise ImpossiblePlan("a blend needs at least one criterion")
    count, what = (blend.clusters, "clusters") if blend.clusters else (len(blend.criteria), "criteria")
    if len(blend.weights) != count:
        raise ImpossiblePlan(f"a blend of {count} {what} needs as many weights, got {len(blend.weights)}")
    if blend.clusters and len(blend.picks) != count:
        raise ImpossiblePlan(f"a blend of {count} clusters needs as many picks, got {len(blend.picks)}")
    if not all(np.isfinite(weight) and weight >= 0 for weight in blend.weights):
        raise ImpossiblePlan(f"the weights of a blend must be finite and not negative, got {blend.weights}")
    _some(blend.weights, blend.weights)


def _some(used: Iterable[float], given: tuple[float, ...]) -> None:
    if not any(weight > 0 for weight in used):
        raise ImpossiblePlan(f"a blend needs at least one weight above 0, got {given}")


def _blended(blend: Blend, found: Sequence[Array], clusters: Callable[[], Clusters]) -> Array:
    if len(found) == 1 and not blend.clusters:
        return found[0]
    normalise = pick(NORMALISERS, blend.normalise, "normalisation")
    chosen: Sequence[int] = range(len(found))
    if blend.clusters:
        chosen = [places[turn % len(places)] for places, turn in zip(clusters(), blend.picks, strict=False)]
        _some(blend.weights[: len(chosen)], blend.weights)  # criteria may be fewer than clusters
    terms = [w * normalise(found[place]) for place, w in zip(chosen, blend.weights, strict=False) if w > 0]
    total: Array = np.sum(terms, axis=0)
    return total


def _unit_clusters(scores: Scores, blend: Blend, group: str, reduce: str) -> Clusters:
    if _units(scores, blend.criteria[0], group, reduce).size < FEW:
        return cluster(_all_units(scores, blend.criteria, reduce), blend.clusters)
    return cluster(rank_correlations(scores, blend.criteria, group, reduce), blend.clusters)


def _weight_clusters(scores: Scores, blend: Blend, layer: str) -> Clusters:
    if _weights(scores, blend.criteria[0], layer).size < FEW:
        return cluster(_all_weights(scores, blend.criteria), blend.clusters)
    return cluster(_weight_correlations(scores, blend.criteria, layer), blend.clusters)


def _all_units(scores: Scores, criteria: tuple[str, ...], reduce: str) -> Array:
    """Mean of the correlations in all groups, weighted by their units."""

    def mean() -> Array:
        sizes = {group: members.shape[1] for group, members in scores.units[criteria[0]].items()}
        found = [rank_correlations(scores, criteria, group, reduce) for group in sizes]
        return np.asarray(np.average(found, axis=0, weights=list(sizes.values())))

    return _once(scores, ("units", criteria, reduce), mean)


def _all_weights(scores: Scores, criteria: tuple[str, ...]) -> Array:
    def mean() -> Array:
        sizes = {layer: values.size for layer, values in scores.weights[criteria[0]].items()}
        found = [_weight_correlations(scores, criteria, layer) for layer in sizes]
        return np.asarray(np.average(found, axis=0, weights=list(sizes.values())))

    return _once(scores, ("weights", criteria), mean)


def _weight_correlations(scores: Scores, criteria: tuple[str, ...], layer: str) -> Array:
    def measure() -> Array:
        found = [_weights(scores, criterion, layer).ravel() for criterion in criteria]
        if found[0].size > SAMPLE:
            sample = np.random.default_rng(0).choice(found[0].size, SAMPLE, replace=False)
            found = [values[sample] for values in found]
        return _spearman(found)

    return _once(scores, ("weights", criteria, layer), measure)


def _once(scores: Scores, key: tuple[object, ...], make: Callable[[], Array]) -> Array:
    """Kept with the scores: every trial of a study asks again."""
    if key not in scores.known:
        scores.known[key] = make()
    return scores.known[key]


def _spearman(rows: Sequence[Array]) -> Array:
    ranks = rankdata(np.stack(rows), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.sqrt((ranks**2).sum(axis=1, keepdims=True))
    unit = ranks / np.where(length > 0, length, 1)
    correlations: Array = np.clip(unit @ unit.T, -1, 1)
    np.fill_diagonal(correlations, 1)
    return correlations


def _units(scores: Scores, criterion: str, group: str, reduce: str) -> Array:
    by_group = pick(scores.units, criterion, "scored criterion")
    return reduced(pick(by_group, group, "scored group"), reduce)


def _weights(scores: Scores, criterion: str, layer: str) -> Array:
    by_layer = pick(scores.weights, criterion, "criterion with scores per weight")
    return pick(by_layer, layer, "layer with scores per weight").astype(np.float64)
