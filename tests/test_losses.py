"""Losses against the authors' numbers. P[B, K]: probabilities · Y[B, K]: 1 where a species was observed."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from glczoo.losses import ACTIVATION, LINEAR, LOSSES, NEEDS, RANKS, an, bce, ce, deepmaxent

P = torch.tensor([[0.9, 0.2, 0.6, 0.1], [0.3, 0.8, 0.05, 0.5]])
Y = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]])
LOGITS = P.logit()
EXACT = {"abs": 1e-6, "rel": 0}


def test_bce_and_an_give_the_reference_number() -> None:
    assert bce(LOGITS, Y).item() == pytest.approx(0.3343018, **EXACT)
    assert an(LOGITS, Y).item() == pytest.approx(0.3343018, **EXACT)


def test_ce_takes_classes_and_targets() -> None:
    assert ce(LOGITS, torch.tensor([0, 1])).item() == pytest.approx(0.2514971, **EXACT)
    assert ce(LOGITS, Y).item() == pytest.approx(0.2514971, **EXACT)


def test_ce_shares_a_survey_among_its_species_and_an_empty_one_adds_nothing() -> None:
    target = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0]])
    log_p = LOGITS.log_softmax(1)
    expected = -(log_p[0, 0] + log_p[0, 2]) / 2 / 2  # the mean counts both surveys
    assert ce(LOGITS, target).item() == pytest.approx(expected.item(), **EXACT)


@pytest.mark.parametrize("name", sorted(LINEAR - {"deepmaxent"}))
def test_a_weighted_row_stands_for_its_records(name: str) -> None:
    records = torch.tensor([0, 0, 1])  # two of the first survey's species, one of the second's
    each = torch.eye(4)[torch.tensor([0, 2, 1])]
    means = torch.tensor([[0.5, 0, 0.5, 0], [0, 1, 0, 0]])
    weighted = LOSSES[name](LOGITS, means, torch.tensor([2.0, 1.0]) / 1.5)
    assert weighted.item() == pytest.approx(LOSSES[name](LOGITS[records], each).item(), rel=1e-6)


def test_deepmaxent_gives_the_reference_number() -> None:
    logits = torch.tensor([[0.9, 0.2, 0.6, 0.1], [0.3, 0.8, 0.05, 0.5]], dtype=torch.float64).logit()
    assert deepmaxent(logits, Y).item() == pytest.approx(0.0133930797, abs=1e-9)


def test_deepmaxent_is_a_softmax_over_sites_by_hand() -> None:
    counts = torch.tensor([[3.0, 0, 1, 0], [0, 1, 2, 0]])
    odds = LOGITS.exp()
    share = odds / (odds[0] + odds[1])
    expected = -sum(float(counts[i, k] * share[i, k].log()) for i in range(2) for k in range(4)) / 8
    assert deepmaxent(LOGITS, counts).item() == pytest.approx(expected, **EXACT)


def test_in_deepmaxent_the_level_of_a_species_cancels_out() -> None:
    assert deepmaxent(LOGITS + torch.tensor([5.0, -3, 0, 9]), Y).item() == pytest.approx(
        deepmaxent(LOGITS, Y).item(), abs=1e-7
    )


def test_in_deepmaxent_weights_times_mean_targets_are_counts() -> None:
    means, records = torch.tensor([[0.75, 0, 0.25, 0], [0, 0.5, 0.5, 0]]), torch.tensor([4.0, 2])
    counts = torch.tensor([[3.0, 0, 1, 0], [0, 1, 1, 0]])
    assert deepmaxent(LOGITS, means, records).item() == pytest.approx(deepmaxent(LOGITS, counts).item())


def test_only_deepmaxent_leaves_ranks() -> None:
    assert RANKS == {"deepmaxent"}


# What the losses need besides logits and targets. (Cole et al. 2021, 2023; Zhou et al. 2022; Zbinden et al.
# 2024; Zhang et al. 2021: the expected numbers are those of their released code, with its eps.)
ESTIMATES = torch.tensor([[0.995, 0.4, 0.55, 0.3], [0.6, 0.995, 0.2, 0.45]]).logit()
BACKGROUND = torch.tensor([[0.2, 0.1, 0.3, 0.4], [0.05, 0.6, 0.2, 0.1]]).logit()
WEIGHTS = torch.tensor([10.0, 5, 50, 2])
PSEUDO = torch.tensor([[-1.0, -1, -1, 0.1], [-1, -1, 0.05, -1]])
STATE: dict[str, dict[str, Any]] = {
    "epr": {"k": 1.5},
    "role": {"k": 1.5, "estimates": ESTIMATES},
    "em_apl": {"pseudo": PSEUDO},
    "sinr_full": {"background": BACKGROUND},
    "full_weighted": {"background": BACKGROUND, "class_weights": WEIGHTS},
    "plc": {"strong": LOGITS.flip(1)},
}


AUTHORS = [
    ("an", {"eps": 1e-5}, 0.3342872),
    ("an_ls", {"eps": 1e-5}, 0.4661979),
    ("wan", {"eps": 1e-5}, 0.1388024),
    ("epr", {"eps": 1e-5}, 0.0442241),
    ("role", {"eps": 1e-5}, 0.6572114),
    ("em", {"eps": 1e-5}, 0.00354876),
    ("em_apl", {"eps": 1e-5}, 0.0231822),
    ("hill", {}, 0.8507161),
    ("full_weighted", {"eps": 1e-5, "negative": 0.5}, 0.6306080),
    ("sinr_full", {"eps": 1e-5}, 84.695717),
    ("sinr_full", {"eps": 1e-5, "positive": 4.0}, 0.7689646),
]


@pytest.mark.parametrize(("name", "settings", "expected"), AUTHORS)
def test_losses_give_their_authors_numbers(name: str, settings: dict[str, Any], expected: float) -> None:
    # 1e-6, but single precision spaces numbers near 84.7 by 7.6e-6.
    loss = LOSSES[name](LOGITS, Y, **STATE.get(name, {}), **settings)
    assert loss.item() == pytest.approx(expected, abs=1e-6, rel=1e-7)


@pytest.mark.parametrize(("name", "settings", "expected"), AUTHORS)
def test_a_class_is_a_target_of_one_species(name: str, settings: dict[str, Any], expected: float) -> None:
    loss = LOSSES[name](LOGITS, torch.tensor([0, 1]), **STATE.get(name, {}), **settings)
    assert loss.item() == pytest.approx(expected, abs=1e-6, rel=1e-7)


@pytest.mark.parametrize(("name", "settings"), [row[:2] for row in AUTHORS if "eps" in row[1]])
def test_the_stable_form_is_the_same_but_for_eps(name: str, settings: dict[str, Any]) -> None:
    state = STATE.get(name, {})
    stable = LOSSES[name](LOGITS, Y, **state, **(settings | {"eps": 0}))
    almost = LOSSES[name](LOGITS.double(), Y.double(), **state, **(settings | {"eps": 1e-12}))
    assert stable.item() == pytest.approx(almost.item(), rel=1e-6)


def test_full_weighted_shares_the_absences_with_the_background() -> None:
    w, background = WEIGHTS, BACKGROUND.sigmoid()
    presences = (w * Y * -P.log()).mean()
    absences = (w / (w - 1) * (1 - Y) * -(1 - P).log()).mean()
    expected = 3 * presences + 0.8 * absences + 0.2 * -(1 - background).log().mean()
    result = LOSSES["full_weighted"](LOGITS, Y, **STATE["full_weighted"], positive=3.0)
    assert result.item() == pytest.approx(expected.item(), rel=1e-6)


def test_plc_by_hand() -> None:
    strong = LOGITS.flip(1)  # p: .1 .6 .2 .9 and .5 .05 .8 .3
    # Sure at 0.59: .9 and .6 and .8 yes; .2, .1, .3, .05 no (< .41); .5 is not sure.
    yes, no = [0.1, 0.2, 0.05], [0.6, 0.9, 0.5, 0.8]
    pull = (sum(-math.log(p) for p in yes) + sum(-math.log(1 - p) for p in no)) / 8
    assert LOSSES["plc"](LOGITS, Y, strong=strong, tau=0.59).item() == pytest.approx(
        0.3343018 + pull, abs=2e-6
    )
    sure = (sum(-math.log(p) for p in [0.1]) + sum(-math.log(1 - p) for p in [0.9, 0.8])) / 8
    only = LOSSES["plc"](LOGITS, Y, strong=strong, tau=0.85)
    assert only.item() == pytest.approx(0.3343018 + sure, abs=2e-6)


def test_asl_by_hand() -> None:
    shifted = (1 - P + 0.05).clamp(max=1)
    entries = -Y * (1 - P) * P.log() - (1 - Y) * (1 - shifted) ** 4 * shifted.log()
    assert LOSSES["asl"](LOGITS, Y).item() == pytest.approx(entries.sum().item() / 2, abs=1e-6)
    assert LOSSES["asl"](LOGITS, Y, reduction="mean").item() == pytest.approx(entries.mean().item(), abs=1e-6)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_are_stable_at_huge_logits(name: str) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0, -1e4], [-1e4, 1e4, 1e4, -1e4]], requires_grad=True)
    target = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0]])
    loss = LOSSES[name](logits, target, **STATE.get(name, {}))
    loss.backward()
    # The first survey is right but for log 2 at the zero; the second is wrong by 1e4 (softmax: 2e4 + log 2).
    expected = {"ce": 2e4 / 2, "bce": (math.log(2) + 3e4) / 8, "an": (math.log(2) + 3e4) / 8}
    if name in expected:
        assert loss.item() == pytest.approx(expected[name], rel=1e-4)
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()
    assert logits.grad.abs().max() <= (256 if name == "sinr_full" else 1.5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_half_precision_gives_the_number_of_single(name: str) -> None:
    half = LOGITS.bfloat16()
    single = LOSSES[name](half.float(), Y, **STATE.get(name, {}))
    with torch.autocast("cpu", torch.bfloat16):
        assert LOSSES[name](half, Y, **STATE.get(name, {})).item() == pytest.approx(single.item(), rel=1e-5)


TARGET = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.float64)


def learnt(name: str) -> str | None:
    """The argument besides the logits that a gradient flows into."""
    return next((key for key in ("estimates", "background", "strong") if key in NEEDS.get(name, {})), None)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"role"}))
def test_gradients_are_those_of_the_formula(name: str) -> None:
    state = {k: v.double() if isinstance(v, Tensor) else v for k, v in STATE.get(name, {}).items()}
    settings = {"tau": 0.65} if name == "plc" else {}  # no p within reach of its jumps
    loose = {"eps": 1e-2, "atol": 1e-3} if name == "asl" else {}  # timm computes in single precision
    key = learnt(name)

    def loss(x: Tensor, *other: Tensor) -> Tensor:
        return LOSSES[name](x, TARGET, **state | settings | ({key: other[0]} if key else {}))

    others = [state[key].clone().requires_grad_()] if key else []
    assert torch.autograd.gradcheck(loss, (LOGITS.double().requires_grad_(), *others), **loose)
    for other in others:
        assert torch.autograd.grad(loss(LOGITS.double(), other), other)[0].abs().max() > 0


@pytest.mark.parametrize("side", ["logits", "estimates"])
def test_in_role_what_serves_as_a_target_gets_no_gradient(side: str) -> None:
    """The slope is that of the penalty and of the cross-entropy with the other side as a fixed target."""
    values = {"logits": LOGITS.double(), "estimates": ESTIMATES.double()}
    other = values["estimates" if side == "logits" else "logits"].sigmoid()
    x = values[side].clone().requires_grad_()
    arguments = values | {side: x}
    role = LOSSES["role"](arguments["logits"], TARGET, estimates=arguments["estimates"], k=1.5)
    parts = (LOSSES["epr"](x, TARGET, k=1.5) + bce(x, other)) / 2
    torch.testing.assert_close(torch.autograd.grad(role, x)[0], torch.autograd.grad(parts, x)[0])


def test_the_gradient_of_ce_for_classes_is_that_of_the_formula() -> None:
    logits = LOGITS.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ce(x, torch.tensor([0, 3])), logits)


def test_every_loss_has_an_activation() -> None:
    names = "bce ce an deepmaxent an_ls wan em hill asl epr role em_apl sinr_full full_weighted plc".split()
    assert list(LOSSES) == list(ACTIVATION) == names
    assert [name for name in names if ACTIVATION[name] != "sigmoid"] == ["ce"]


def test_state_of_the_tests_is_what_losses_need() -> None:
    assert {name: set(state) for name, state in STATE.items()} == {k: set(v) for k, v in NEEDS.items()}


@pytest.mark.parametrize(("name", "missing"), [(name, key) for name in STATE for key in STATE[name]])
def test_what_a_loss_needs_and_lacks_is_named(name: str, missing: str) -> None:
    """A loop that knows only logits and targets ends with a sentence, not in the middle of a formula."""
    state = {key: value for key, value in STATE[name].items() if key != missing}
    with pytest.raises(ValueError, match=rf"the loss {name} needs more .* {missing} \("):
        LOSSES[name](LOGITS, Y, **state)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - set(NEEDS)))
def test_a_loss_without_needs_takes_logits_and_targets_alone(name: str) -> None:
    assert LOSSES[name](LOGITS, Y).isfinite()


def test_a_species_of_every_record_has_no_weight() -> None:
    with pytest.raises(ValueError, match="must exceed 1, the smallest is 1.0"):
        LOSSES["full_weighted"](LOGITS, Y, background=BACKGROUND, class_weights=torch.tensor([1.0, 2, 3, 4]))
