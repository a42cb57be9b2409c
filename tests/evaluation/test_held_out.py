"""What a report and a card say of held-out surveys: numbers of every species, recall, and older files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.decoding import Decoding, Rule
from glczoo.evaluation.held_out import PartScore, part_score
from glczoo.evaluation.report import report
from glczoo.hub.publish import save
from glczoo.metrics import sample_recall, species_scores

NUM, K = 60, 6


def surveys() -> tuple[torch.Tensor, Samples]:
    """Probabilities, and surveys that hold each species by them; the last species is in one survey only."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(NUM, K, generator=generator)
    target = torch.rand(NUM, K, generator=generator) < p
    target[:, -1] = False
    target[3, -1] = True
    rows, species = target.nonzero().T.numpy()
    offsets = np.searchsorted(rows, np.arange(NUM + 1))
    place, ids = np.linspace(5, 6, NUM), np.arange(NUM)
    return p, Samples(place, place + 40, ids, ids, offsets, species)


@pytest.fixture(scope="module")
def part() -> PartScore:
    p, samples = surveys()
    rules = [Decoding(Rule.THRESHOLD, 0.5), Decoding(Rule.EXPECTED_F1)]
    vocabulary = SpeciesIndex(np.arange(10, 10 + K), tuple(f"Species {k}" for k in range(K)))
    return part_score("test", p, samples, rules, np.arange(K), vocabulary)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("report", "sections"):
        monkeypatch.setattr(f"glczoo.evaluation.{module}.svg_uri", lambda figure: "data:,")


def test_every_species_with_presences_enough_has_its_numbers(part: PartScore) -> None:
    p, samples = surveys()
    target = samples.targets(torch.arange(NUM), K)
    each = species_scores(p >= 0.5, p, target)
    assert len(part.species) == K - 1 and "Species 5" not in [row.name for row in part.species]
    for row in part.species:
        k = int(row.name.split()[-1])
        assert (row.surveys, row.tss, row.pr_auc) == (each.presences[k], each.tss[k], each.pr_auc[k])
        assert row.boyce == pytest.approx(each.boyce[k].item())


def test_species_stand_in_the_order_of_their_surveys(part: PartScore) -> None:
    numbers = [row.surveys for row in part.species]
    assert numbers == sorted(numbers, reverse=True)


@pytest.mark.parametrize("name", ["auc", "pr_auc", "tss", "boyce"])
def test_the_part_has_the_means_over_species(part: PartScore, name: str) -> None:
    assert getattr(part, name) == pytest.approx(np.mean([getattr(row, name) for row in part.species]))


def test_each_rule_has_its_recall(part: PartScore) -> None:
    p, samples = surveys()
    target = samples.targets(torch.arange(NUM), K)
    assert part.rules[0].recall == pytest.approx(sample_recall(threshold_sets(p), target).mean().item())


def threshold_sets(p: torch.Tensor) -> torch.Tensor:
    return Decoding(Rule.THRESHOLD, 0.5)(p)


def test_it_is_read_back_as_it_was(part: PartScore) -> None:
    assert PartScore.from_json(json.loads(json.dumps(part.to_json()))) == part


def test_metrics_of_an_earlier_form_are_read(part: PartScore) -> None:
    values = part.to_json()
    for name in ("pr_auc", "tss", "boyce", "species"):
        del values[name]
    for row in values["rules"]:
        del row["recall"]
    for row in values["deciles"]:
        for name in ("pr_auc", "tss", "boyce"):
            del row[name]
    old = PartScore.from_json(values)
    assert old.tss is None and old.species == [] and old.rules[0].recall is None


def test_the_report_has_a_row_for_each_species_and_the_recall(
    trained_run, tmp_path: Path, monkeypatch
) -> None:
    run = trained_run("step1", decoding="{rule: recall, value: 0.8}")
    page = report(run, tmp_path / "report.html", sample=0)
    text = " ".join((tmp_path / "report.html").read_text().split())
    assert "The sets promise a mean recall of 0.80" in text and "does not hold far from the data" in text
    assert f"<b>{page.coverage.recall:.3f} [" in text and page.coverage.promised == 0.8
    row = page.results.species[0]
    assert f"<td>{row.pr_auc:.3f}</td><td>{row.tss:.3f}</td>" in text


def test_a_rule_that_promises_nothing_is_reported_without_a_promise(
    trained_run, tmp_path, monkeypatch
) -> None:
    report(trained_run("step1"), tmp_path / "report.html", sample=0)
    assert "sets promise" not in (tmp_path / "report.html").read_text()


def test_the_card_has_a_row_for_each_species(trained_run, tmp_path: Path) -> None:
    folder = save(trained_run("step1"), tmp_path / "published")
    (part,) = json.loads((folder / "metrics.json").read_text())["results"]
    card = (folder / "README.md").read_text()
    row = part["species"][0]
    assert f"| {row['surveys']} | {row['f1']:.3f} | {row['auc']:.3f} | {row['pr_auc']:.3f} |" in card
    assert (
        f"true skill statistic {part['tss']:.3f}" in card and f"| {part['rules'][0]['recall']:.3f} |" in card
    )
