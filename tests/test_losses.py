"""Losses against the authors' numbers. P[B, K]: probabilities · Y[B, K]: 1 where a species was found."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from glczoo.losses import ACTIVATION, LINEAR, LOSSES, NEEDS, an, bce, ce
from glczoo.training.label_memory import LabelEstimates, PseudoNegatives, class_weights

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


@pytest.mark.parametrize("name", sorted(LINEAR))
def test_a_weighted_row_stands_for_its_records(name: str) -> None:
    records = torch.tensor([0, 0, 1])  # two of the first survey's species, one of the second's
    each = torch.eye(4)[torch.tensor([0, 2, 1])]
    means = torch.tensor([[0.5, 0, 0.5, 0], [0, 1, 0, 0]])
    weighted = LOSSES[name](LOGITS, means, torch.tensor([2.0, 1.0]) / 1.5)
    assert weighted.item() == pytest.approx(LOSSES[name](LOGITS[records], each).item(), rel=1e-6)


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


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
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
    ],
)
def test_losses_give_their_authors_numbers(name: str, settings: dict[str, Any], expected: float) -> None:
    state = STATE.get(name, {})
    # 1e-6, but single precision spaces numbers near 84.7 by 7.6e-6.
    assert LOSSES[name](LOGITS, Y, **state, **settings).item() == pytest.approx(expected, abs=1e-6, rel=1e-7)
    by_class = LOSSES[name](LOGITS, torch.tensor([0, 1]), **state, **settings)
    assert by_class.item() == pytest.approx(expected, abs=1e-6, rel=1e-7)
    if name != "hill":  # the stable form is the same but for eps
        stable = LOSSES[name](LOGITS, Y, **state, **(settings | {"eps": 0}))
        almost = LOSSES[name](LOGITS.double(), Y.double(), **state, **(settings | {"eps": 1e-12}))
        assert stable.item() == pytest.approx(almost.item(), rel=1e-6)


def test_full_weighted_shares_the_absences_with_the_background() -> None:
    w, background = WEIGHTS, BACKGROUND.sigmoid()
    presences = (w * Y * -P.log()).mean()
    absences = (w / (w - 1) * (1 - Y) * -(1 - P).log()).mean()
    expected = 3 * presences + 0.8 * absences + 0.2 * -(1 - background).log().mean()
    found = LOSSES["full_weighted"](LOGITS, Y, **STATE["full_weighted"], positive=3.0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


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


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients_are_those_of_the_formula(name: str) -> None:
    logits = LOGITS.double().requires_grad_()
    target = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.float64)
    given: dict[str, Any] = {"tau": 0.65} if name == "plc" else {}  # no p within reach of its jumps
    given |= {k: v.double() if isinstance(v, Tensor) else v for k, v in STATE.get(name, {}).items()}
    learnt = next((key for key in ("estimates", "background", "strong") if key in given), None)

    def loss(x: Tensor, other: Tensor) -> Tensor:
        return LOSSES[name](x, target, **(given | ({learnt: other} if learnt else {})))

    if name == "role":  # what serves as a target gets no gradient: fix the targets and add up
        slope = torch.autograd.grad(loss(logits, ESTIMATES.double()), logits)[0]

        def fixed(x: Tensor) -> Tensor:
            pull = bce(x, ESTIMATES.double().sigmoid())
            return (LOSSES["epr"](x, target, k=1.5) + pull) / 2

        torch.testing.assert_close(slope, torch.autograd.grad(fixed(logits), logits)[0])
        other = ESTIMATES.double().requires_grad_()
        slope = torch.autograd.grad(loss(LOGITS.double(), other), other)[0]
        pull = bce(other, LOGITS.double().sigmoid())
        expected = torch.autograd.grad((LOSSES["epr"](other, target, k=1.5) + pull) / 2, other)[0]
        torch.testing.assert_close(slope, expected)
    elif name == "asl":  # timm computes in single precision
        assert torch.autograd.gradcheck(lambda x: loss(x, x), logits, eps=1e-2, atol=1e-3)
    elif learnt:
        other = given[learnt].clone().requires_grad_()
        assert torch.autograd.gradcheck(loss, (logits, other))
        assert torch.autograd.grad(loss(logits, other), other)[0].abs().max() > 0
    else:
        assert torch.autograd.gradcheck(lambda x: loss(x, x), logits)
    if name == "ce":
        assert torch.autograd.gradcheck(lambda x: ce(x, torch.tensor([0, 3])), logits)


def test_every_loss_has_an_activation() -> None:
    names = "bce ce an an_ls wan epr role em em_apl sinr_full full_weighted plc hill asl".split()
    assert list(LOSSES) == list(ACTIVATION) == names
    assert [name for name in names if ACTIVATION[name] != "sigmoid"] == ["ce"]


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_what_a_loss_needs_is_asked_for(name: str) -> None:
    """A loop that knows only logits and targets ends with a sentence, not in the middle of a formula."""
    assert set(NEEDS.get(name, {})) == set(STATE.get(name, {}))
    for missing in NEEDS.get(name, {}):
        given = {key: value for key, value in STATE[name].items() if key != missing}
        with pytest.raises(ValueError, match=rf"the loss {name} needs more .* {missing} \("):
            LOSSES[name](LOGITS, Y, **given)
    if name not in NEEDS:
        assert LOSSES[name](LOGITS, Y).isfinite()


def test_a_species_of_every_record_has_no_weight() -> None:
    with pytest.raises(ValueError, match="must exceed 1, the smallest is 1.0"):
        LOSSES["full_weighted"](LOGITS, Y, background=BACKGROUND, class_weights=torch.tensor([1.0, 2, 3, 4]))
    assert class_weights(torch.tensor([10, 4, 0]), 20).tolist() == [2, 5, 20]


# --- what losses remember -------------------------------------------------------------------------------

CSR = torch.tensor([0, 1, 3, 3]), torch.tensor([2, 0, 1])  # three surveys: {2}, {0, 1}, {}


def test_label_estimates_start_near_doubt_and_are_learnt() -> None:
    estimates = LabelEstimates(*CSR, 400)
    p = estimates.logits.sigmoid()
    observed = torch.tensor([[0, 2], [1, 0], [1, 1]])
    assert p[observed[:, 0], observed[:, 1]].tolist() == pytest.approx([0.995] * 3)
    rest = torch.ones(3, 400, dtype=torch.bool)
    rest[observed[:, 0], observed[:, 1]] = False
    assert 0.4 <= p[rest].min() < 0.41 and 0.59 < p[rest].max() <= 0.6
    assert torch.equal(LabelEstimates(*CSR, 400).logits, estimates.logits)
    assert not torch.equal(LabelEstimates(*CSR, 400, seed=1).logits, estimates.logits)
    index = torch.tensor([2, 0])
    loss = LOSSES["role"](torch.zeros(2, 400), torch.zeros(2, 400), estimates=estimates(index), k=2)
    loss.backward()
    gradient = estimates.logits.grad
    assert gradient is not None and gradient[1].abs().max() == 0 and gradient[index].abs().min() > 0


def test_pseudo_negatives_are_the_lowest_unknown_of_each_species() -> None:
    offsets, species = torch.tensor([0, 1, 1, 1, 1, 1]), torch.tensor([0])  # five surveys, {0} in the first
    memory = PseudoNegatives(offsets, species, 2)
    p = torch.tensor([[0.01, 0.9], [0.3, 0.1], [0.2, 0.2], [0.4, 0.3], [0.5, 0.4]])
    assert (memory(torch.arange(5)) < 0).all()
    memory.extend(p, 0.5)  # of the 4 unknown labels of species 0 two, of the 5 of species 1 two
    first = memory.soft.clone()
    assert first.tolist() == [[-2, -1], [p[1, 0], p[1, 1]], [p[2, 0], p[2, 1]], [-1, -1], [-1, -1]]
    resumed = PseudoNegatives(offsets, species, 2)
    resumed.load_state_dict(memory.state_dict())
    for m in (memory, resumed):
        m.extend(1 - p, 0.5)  # the labels of the first call stay as they are
    assert torch.equal(memory.soft, resumed.soft)
    assert torch.equal(memory.soft[first >= 0], first[first >= 0])
    assert (memory.soft[:, 0] >= 0).tolist() == [False, True, True, True, True]
    assert memory.soft[[0, 4], 1].tolist() == (1 - p)[[0, 4], 1].tolist() and memory.soft[3, 1] == -1


@pytest.mark.parametrize("memory", [LabelEstimates, PseudoNegatives])
def test_what_does_not_fit_says_so(memory: type) -> None:
    with pytest.raises(ValueError, match="3 surveys × 1000 species take 0.0 GB, the limit is"):
        memory(*CSR, 1000, limit=1000)
    every = torch.zeros(1).expand(4_908_320).long(), torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="4908319 surveys × 10039 species take (788|394).* GB"):
        memory(*every, 10039)
