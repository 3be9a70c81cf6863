"""What the page's own words mean, for its legend."""

from __future__ import annotations

WORDS = {
    "seed": "a small network that is grafted into the one that trains, to see whether it helps",
    "graft": "putting a seed into the network without changing what it computes",
    "twin": "a copy of the network that was never grafted and makes the same steps on the same batches",
    "gain": "score of the twin less that of the grown network, on the judging data: above 0 the seed helps",
    "muted gain": "the same between the grown network and itself with the seed switched off",
    "margin": "what a gain has to exceed to be worth its cost",
    "z": "(gain - margin) / standard error of the gain",
    "look": "one judgement; each look asks for a larger z, so that looking often keeps nothing by chance",
    "kept": "the seed passed, and became part of plain layers where its kind allows that",
    "culled": "the seed was removed, and the twin's weights are the network's again",
    "alpha": "the share with which a seed's output is added: 0 is out, 1 is wholly in",
    "gates": "what a seed passes: G0 sound, G1 gradients, G2 stable, G3 fits its place, G4 beats its twin, G5 gone",
    "MACs": "multiply-accumulates of training, those of twins and judging included",
    "packet": "what the trainer tells the control plane every few steps",
}
