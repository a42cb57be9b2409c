"""A model trained by a loss that leaves ranks has a level: MaxEnt's logistic output."""

from glczoo.runs.run import Run


def test_the_outputs_are_levelled_on_the_training_places(trained_run):
    """Σ q log-odds is 0 for every species, q being the softmax over the places."""
    keys = {"loss": "deepmaxent", "keep": "last", "data.validation": "{po: 0, pa: 0}"}
    run = Run.find(trained_run("step2", model="test_bioresnet_glc23", **keys))
    p = run.model.probabilities(run.split("po").train)
    logits = p.double().logit()
    assert (logits.softmax(0) * logits).sum(0).abs().max() < 1e-3
