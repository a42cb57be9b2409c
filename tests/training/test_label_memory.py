"""What losses remember of each sample: estimated labels, pseudo-negatives, weights of species."""

import pytest
import torch

from glczoo.losses import LOSSES
from glczoo.training.label_memory import LabelEstimates, PseudoNegatives, class_weights

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


def test_the_weight_of_a_species_is_all_records_by_its_own() -> None:
    assert class_weights(torch.tensor([10, 4, 0]), 20).tolist() == [2, 5, 20]
