"""A random forest as a run: `glczoo forest RECIPE`, beside the CNNs it is averaged with.

Fitted by scikit-learn on the covariates at the surveys' places, normalised as the CNNs see them; exported
like any run, so that evaluate, predict, ensemble and push take it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from glczoo.data.patches import PatchBuilder
from glczoo.data.region import Region
from glczoo.decoding import Rule
from glczoo.errors import GlczooError
from glczoo.files import lock
from glczoo.models.forest import Forest
from glczoo.models.published import load_weights
from glczoo.recipe import Recipe, write_run_recipe
from glczoo.recipe.sections import Decode
from glczoo.runs.export import export_run
from glczoo.runs.run import is_finished
from glczoo.training.initial_model import prior_of
from glczoo.training.prepare import read_inputs
from glczoo.training.tuning import Tuning, tune_decoding

__all__ = ["bounded", "fit_forest", "grow", "grow_suitability"]

_MOST_SHARES = 100_000_000  # numbers in all nodes of a forest: 400 MB
_FEWEST_TREES = 50


def fit_forest(recipe: Recipe, trees: int = 500, min_leaf: int = 2) -> Path:
    """Fit a forest on the training surveys of a recipe and export it as a run.

    Of the recipe it takes region, modalities, patch size, data, seed, decoding, name and runs; with
    `model_args: {prior: true}` also init, the run whose log probabilities the trees see. The rules of
    decoding are tuned on out-of-bag probabilities: on its own training surveys a forest is nearly certain.

    Args:
        recipe: of presence-absence surveys.
        trees: how many.
        min_leaf: surveys in a leaf at least.

    Returns:
        The run, RUNS/REGION/forest_glc23/NAME; one that is finished already is left as it is, and one that
        another process fits is waited for.

    Raises:
        MissingError: data are missing, or the run that is to be the prior.
        GlczooError: the recipe trains on presence-only records, scikit-learn is not installed, or the run
            that init names can be no prior.
    """
    if recipe.data.tables != ["pa"]:
        raise GlczooError(
            f"a forest needs absences: data.tables must be [pa], {recipe.name} has {recipe.data.tables}"
        )
    region = Region.load(recipe.region)
    corrects = recipe.model == "forest_glc23" and bool(recipe.model_args.get("prior"))
    recipe = recipe.model_copy(
        update={"model": "forest_glc23", "init": recipe.init if corrects else "random"}
    )
    run = recipe.run_folder(region)
    with lock(run, wait=True):
        if not is_finished(run):
            _fit(recipe, region, run, trees, min_leaf, corrects)
    return run


def _fit(recipe: Recipe, region: Region, run: Path, trees: int, min_leaf: int, corrects: bool) -> None:
    """Fit a forest in a folder in which no other process works."""
    inputs = read_inputs(_without_tuning(recipe), region)
    source, species, training = inputs.source, inputs.vocabulary, inputs.training
    statistics = source.statistics(training)
    architecture: dict[str, Any] = {}
    if corrects:
        architecture["prior"], before, statistics = prior_of(recipe, region, source, species, statistics)
    seedling: Any = Forest(len(species), len(source.bands), **architecture).eval()
    if corrects:
        load_weights(seedling.prior.model, before)
    build = PatchBuilder(source, training, statistics.mean, statistics.std)
    index = torch.arange(len(training))
    with torch.inference_mode():
        values = torch.cat([seedling.values(build(part)) for part in index.split(256)])
    target = training.targets(index, len(species))
    model: Any
    model, out_of_bag = grow(
        values.numpy(),
        target.numpy(),
        trees,
        min_leaf,
        recipe.seed,
        in_chans=len(source.bands),
        **architecture,
    )
    if corrects:
        load_weights(model.prior.model, before)
    tuning = Tuning(
        "sigmoid", *tune_decoding(recipe.decoding, torch.from_numpy(out_of_bag), target), calibration=None
    )
    run.mkdir(parents=True, exist_ok=True)
    write_run_recipe(run, recipe, processes=1)
    export_run(
        run,
        model,
        species,
        region,
        source,
        statistics,
        **vars(tuning),
        epoch=0,
        init=recipe.init,
    )


def _without_tuning(recipe: Recipe) -> Recipe:
    """The recipe of the forest's inputs: it is tuned out of bag, no survey has to be held out for that."""
    decoding = Decode(rule=Rule.EXPECTED_F1)
    return recipe.model_copy(update={"decoding": decoding, "calibration": None, "keep": "last"})


def bounded(rows: int, species: int, trees: int, min_leaf: int) -> tuple[int, int]:
    """Trees and least rows of a leaf that keep a forest of many species within 400 MB.

    Every node holds a number for each species. Where they would be too many there are fewer trees, but fifty,
    and then larger leaves; growing takes less time in proportion.

    Args:
        rows: surveys or sites that it is grown on.
        species: of its leaves.
        trees: wanted.
        min_leaf: wanted.
    """
    needed = 2 * rows / min_leaf * species * trees
    if needed <= _MOST_SHARES:
        return trees, min_leaf
    trees = max(min(trees, _FEWEST_TREES), int(trees * _MOST_SHARES / needed))
    return trees, max(min_leaf, math.ceil(2 * rows * species * trees / _MOST_SHARES))


def grow(
    values: np.ndarray,
    target: np.ndarray,
    trees: int,
    min_leaf: int = 2,
    seed: int = 0,
    jobs: int = 1,
    **architecture: Any,
) -> tuple[Forest, np.ndarray]:
    """Grow a forest on values[N, C] and target[N, K]; also out-of-bag probabilities, float32[N, K].

    `architecture`: further keywords of the model, and `in_chans` where values are not all covariates.

    `trees`: how many; `min_leaf`: samples in a leaf at least.

    Raises:
        GlczooError: scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import RandomForestRegressor
    except ImportError:
        raise GlczooError("a forest needs scikit-learn: pip install 'glczoo[study]'") from None
    # On 0/1 labels of many species a regressor's leaves are the shares of presences, all species in one tree.
    fitted: Any = RandomForestRegressor(
        trees,
        min_samples_leaf=min_leaf,
        max_features="sqrt",
        random_state=seed,
        oob_score=True,
        n_jobs=jobs,
    )
    fitted.fit(values, target)
    model = _tensors([fitted], target.shape[1], **{"in_chans": values.shape[1], **architecture})
    for number, estimator in enumerate(fitted.estimators_):
        shares = estimator.tree_.value[:, :, 0].astype(np.float32)
        model.value[number, : len(shares)] = torch.from_numpy(shares)
    return model, fitted.oob_prediction_.reshape(target.shape).astype(np.float32)


def grow_suitability(
    values: np.ndarray,
    presence: np.ndarray,
    groups: Sequence[np.ndarray],
    trees: int,
    seed: int = 0,
    jobs: int = 1,
    min_leaf: int = 5,
) -> Forest:
    """Extremely randomised trees on sites of presence-only records (Geurts, Ernst and Wehenkel 2006).

    A forest for each target group: the sites of the group that have a species against those that have not. A
    rare species counts as a common one in where trees split: its labels are divided by √prevalence.

    Args:
        values: at the sites, float32[N, C].
        presence: 1 where a species was recorded, float32[N, K].
        groups: species of every target group, int64[n] each, all of them together once.
        trees: in each forest.
        seed: of the draws.
        jobs: threads that grow trees.
        min_leaf: sites in a leaf at least.

    Returns:
        All forests as one, whose outputs are a site's expected share of presences among sites of the group.

    Raises:
        GlczooError: scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import ExtraTreesRegressor
    except ImportError:
        raise GlczooError("extra trees need scikit-learn: pip install 'glczoo[study]'") from None
    forests, scales = [], []
    for species in groups:
        rows = presence[:, species].any(1)
        target = presence[rows][:, species]
        scale = np.sqrt(np.maximum(target.mean(0), 1e-3))
        fitted: Any = ExtraTreesRegressor(
            trees, min_samples_leaf=min_leaf, max_features=0.4, bootstrap=True, random_state=seed, n_jobs=jobs
        )
        scaled = target / scale
        # scikit-learn wants the labels of a single species as a vector.
        forests.append(fitted.fit(values[rows], scaled.ravel() if len(species) == 1 else scaled))
        scales.append(scale)
    model = _tensors(forests, presence.shape[1], in_chans=values.shape[1])
    number = 0
    for fitted, species, scale in zip(forests, groups, scales, strict=True):
        for estimator in fitted.estimators_:
            # The model divides by the trees of all forests, of which those of other groups add nothing.
            shares = (estimator.tree_.value[:, :, 0] * scale * len(groups)).astype(np.float32)
            model.value[number][: len(shares), species] = torch.from_numpy(shares)
            number += 1
    return model


def _tensors(forests: Sequence[Any], species: int, **architecture: Any) -> Any:
    """Fitted forests of scikit-learn as one model, whose leaves are still empty."""
    tables = [estimator.tree_ for forest in forests for estimator in forest.estimators_]
    nodes, depth = max(t.node_count for t in tables), max(t.max_depth for t in tables)
    model: Any = timm.create_model(
        "forest_glc23", num_classes=species, trees=len(tables), nodes=nodes, depth=depth, **architecture
    )
    for number, table in enumerate(tables):
        inner = np.flatnonzero(table.children_left >= 0)
        # scikit-learn compares float32 values with float64 thresholds: round those down, not to the nearest.
        threshold = table.threshold[inner].astype(np.float32)
        high = threshold > table.threshold[inner]
        threshold[high] = np.nextafter(threshold[high], np.float32(-np.inf))
        model.feature[number, inner] = torch.from_numpy(table.feature[inner])
        model.threshold[number, inner] = torch.from_numpy(threshold)
        for side, children in enumerate((table.children_left, table.children_right)):
            model.child[side, number, inner] = torch.from_numpy(children[inner])
    return model.eval()
