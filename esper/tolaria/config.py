"""Everything that a training run can be told, in one place.

Each field carries its meaning, its group and, where it is one of a few words, its choices: the launcher's flags, the
configuration file and `--print-config` are made from them. Values that make no sense are refused at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from math import inf, isfinite
from pathlib import Path
from typing import Any

from esper.core.errors import ConfigError
from esper.core.settings.config import longest

AUTO_TASK = "auto"
ADAPTER = "adapter.lora"
"""The blueprint for whose sake single layers are slots."""
BALANCED = "balanced"
"""Weights of the classes by their share of the training labels."""
SPAN_WIDTH = "auto"
"""How much a span widens its layer, where nobody says."""
TWINS = ("auto", "live", "bursts")
USUAL_PACKET_STEPS = 10
_BETAS = frozenset({"momentum", "beta2"})
OPTIMIZERS: dict[str, frozenset[str]] = {
    "adam": _BETAS,
    "adamw": _BETAS,
    "sgd": frozenset({"momentum", "nesterov"}),
    "rmsprop": _BETAS,
    "adagrad": frozenset(),
    "adadelta": frozenset({"beta2"}),
    "adafactor": frozenset(),
    "adamax": _BETAS,
    "nadam": _BETAS,
    "radam": _BETAS,
    "muon": _BETAS,
}
"""Optimisers by name, and which of their own settings they take."""
REFUSED_OPTIMIZERS = {
    "lbfgs": "calls for the loss several times in a step, and no twin can make such steps alike",
    "rprop": "takes its rate at the first step alone and wants whole batches: no schedule reaches it",
    "asgd": "keeps averaged weights aside that nobody would read",
    "sparseadam": "is for sparse gradients alone, which no seed has",
    "lion": "isn't in torch; write it as module:function",
}
BY_MICROBATCHES, BY_LOSSES, BY_SEEDS = "microbatches", "losses", "seeds"
"""Gradient surgery between microbatches, several losses, or the seeds and the host."""
EQUAL, BY_STAGE = "equal", "stage"
SCHEDULES = ("wsd", "cosine", "constant")
PARALLEL = DDP, SHARD = "ddp", "shard"


def _setting(group: str, default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata=_metadata(group, help, choices))


def _metadata(group: str, help: str, choices: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"group": group, "help": help, "choices": choices}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run."""

    data: str = _setting("data", "digits", "digits, mnist1d, pytext, text:PATH, tokens:FILE, a PATH, or module:source")
    task: str = _setting(
        "data",
        AUTO_TASK,
        "what is learned from the data; auto: what the source says, or labels where targets are whole numbers",
        (AUTO_TASK, "classification", "binary", "multi_label", "soft_labels", "regression", "language_model"),
    )
    samples: int | None = _setting("data", None, "samples to take or to generate; default: the source's own number")
    context: int = _setting("data", 128, "tokens (of pytext and text:, bytes) in one sequence")
    vocabulary: int | None = _setting("data", None, "tokens known to tokens:FILE; default: its largest plus one")
    token_type: str | None = _setting(
        "data", None, "type of a token in tokens:FILE; default: its header's, else uint16", ("uint16", "uint32")
    )
    document_mark: str | None = _setting(
        "data", None, "what divides documents: words of a text, the number of a token; default: none"
    )
    transform: str | None = _setting(
        "data", None, "module:function of the inputs of a set, or an object whose fit(training inputs) gives one"
    )
    normalize: bool = _setting(
        "data", False, "each feature or channel of the inputs to mean 0 and deviation 1, by the training set"
    )
    augment: str | None = _setting(
        "data", None, "module:function of (inputs, generator) that changes training batches at random"
    )
    batch_size: int = _setting("data", 64, "samples in one step")

    loss: str | None = _setting(
        "loss", None, "module:function of (outputs, targets) that gives each sample's loss; default: by task"
    )
    metric: str | None = _setting(
        "loss", None, "module:function of all (outputs, targets) of a set that gives a number to show; default: by task"
    )
    ignore_index: int | None = _setting(
        "loss", None, "label that counts for nothing: not in the loss, the score or the accuracy; default: none"
    )
    label_smoothing: float = _setting("loss", 0.0, "share of each label that is spread over all classes in training")
    class_weights: str | None = _setting(
        "loss", None, "weights of the classes: balanced, or A,B,... in their order; default: all alike"
    )

    model: str = _setting("model", "mlp", "mlp, conv1d, cnn, transformer, or module:factory")
    hidden: tuple[int, ...] = _setting("model", (), "widths of the hidden layers; default: the model's own")
    dropout: float = _setting("model", 0.0, "share of hidden values dropped in training")
    depth: int | None = _setting("model", None, "blocks of the transformer; default: 2")
    width: int | None = _setting("model", None, "values of the transformer's residual stream; default: 64")
    heads: int | None = _setting("model", None, "attention heads in each block of the transformer; default: 4")
    positions: str | None = _setting(
        "model", None, "how the transformer knows positions; default: learnt", ("learnt", "rotary")
    )
    norm: str | None = _setting("model", None, "norms of the transformer; default: layer", ("layer", "rms"))
    mlp: str | None = _setting("model", None, "MLPs of the transformer; default: plain", ("plain", "gated"))
    tied: bool = _setting("model", False, "one weight for the transformer's token embedding and its output")

    init_from: str | None = _setting(
        "fine-tuning",
        None,
        "trained weights to start from: a .safetensors file, a state_dict, a Hugging Face folder, or a run's directory",
    )
    init_except: tuple[str, ...] = _setting(
        "fine-tuning", (), "names or patterns of parameters that init_from leaves as they are: head.*,..."
    )
    freeze: tuple[str, ...] = _setting(
        "fine-tuning", (), "parameters that don't learn, by name, module or pattern: conv1,blocks.*.norm1,..."
    )
    train_only: tuple[str, ...] = _setting("fine-tuning", (), "the only parameters that learn, by the same patterns")

    adapters: str = _setting(
        "fine-tuning",
        "merge",
        "what a kept adapter.lora becomes: part of its layer's weight (merge), or a module (stay)",
        ("merge", "stay"),
    )

    epochs: int = _setting("training", 120, "passes over the training data")
    steps: int | None = _setting("training", None, "steps of the run; default: those of its epochs")
    steps_per_epoch: int | None = _setting(
        "training", None, "steps between evaluations where data is drawn from a stream; default: 100"
    )
    patience: int | None = _setting(
        "training",
        None,
        "epochs without a lower validation loss after which the run ends, judgements left out; default: it doesn't",
    )
    min_delta: float = _setting("training", 0.0, "how much the validation loss must fall to begin --patience anew")
    keep_best: bool = _setting(
        "training", False, "keep the network of the lowest validation loss: it is tested, and exported on request"
    )
    seed: int = _setting("training", 1, "seed of every random draw of the run")
    optimizer: str = _setting("training", "adam", f"{', '.join(OPTIMIZERS)}, or module:function")
    lr: float = _setting("training", 3e-3, "learning rate after warm-up; a module:function has its own")
    weight_decay: float = _setting("training", 0.0, "weight decay of the optimiser")
    decay_rule: str = _setting(
        "training",
        "all",
        "what weight decay holds for: all, or matrices alone (no norms, biases and embeddings)",
        ("all", "matrices"),
    )
    momentum: float | None = _setting(
        "training", None, "momentum, or first beta; default: 0.9, of rmsprop 0, of muon 0.95"
    )
    beta2: float | None = _setting(
        "training",
        None,
        "second beta, or what rmsprop and adadelta remember of squares; default: 0.999, of these 0.99 and 0.9",
    )
    nesterov: bool = _setting("training", False, "Nesterov momentum of sgd")
    ema: float | None = _setting(
        "training",
        None,
        "decay of an exponential average of the weights, whose figures are told beside theirs; default: none is kept",
    )
    schedule: str = _setting(
        "training",
        "wsd",
        "learning rate after warm-up: wsd (constant, then linear to zero), cosine (to a tenth), constant, or "
        "module:function of a step or an optimizer",
    )
    warmup_steps: int = _setting("training", 50, "steps of learning-rate warm-up")
    decay_fraction: float | None = _setting(
        "training", None, "share of the run at its end in which nothing grows and wsd's rate falls; default: 0.3"
    )
    clip_norm: float | None = _setting("training", None, "largest L2 norm of the host's gradient; default: no clipping")
    accumulate: int = _setting("training", 1, "microbatches that one step is cut into")
    pcgrad: bool = _setting(
        "training",
        False,
        "project conflicting gradients: of microbatches (needs --accumulate 2 or more), or as --surgery says",
    )
    surgery: str = _setting(
        "training",
        BY_MICROBATCHES,
        "whose gradients --pcgrad holds against each other: losses are those that a --loss of one's own gives by name; "
        "seeds pull at the host each by what comes through it, and the host by the rest",
        (BY_MICROBATCHES, BY_LOSSES, BY_SEEDS),
    )
    seed_weights: str = _setting(
        "training",
        EQUAL,
        "how --surgery seeds weighs them: equal, or by stage and alpha (half while blending, half at alpha 0)",
        (EQUAL, BY_STAGE),
    )
    seed_conflicts: bool = _setting(
        "training",
        False,
        "measure at each packet's step which seeds pull the host against the others, by a backward pass more for each",
    )
    seed_conflict_ratio_warn: float = _setting(
        "training", 0.5, "share of the measured steps in which a seed conflicts that is warned of"
    )
    seed_share_jump_warn: float = _setting(
        "training", 0.3, "change of a seed's share of the gradient from epoch to epoch that is warned of"
    )
    seed_layer_topk: int = _setting("training", 3, "parameters told of each seed, those that it pulls at most; 0: none")
    hook_budget_ms: float = _setting(
        "training", 50.0, "own work at a boundary, in the mean of an epoch, above which is warned, in milliseconds"
    )
    epoch_budget_ms: float | None = _setting(
        "training",
        None,
        "time of an epoch, its evaluation included, above which is warned, in milliseconds; default: none is",
    )
    amp: str = _setting("training", "off", "automatic mixed precision", ("off", "bf16", "fp16"))
    device: str = _setting("training", "cpu", "cpu, cuda or cuda:INDEX")
    threads: int = _setting("training", 1, "threads of torch on the CPU; fixed, because results may depend on it")
    deterministic: bool | None = _setting(
        "training",
        None,
        "algorithms that compute the same every time, attention's backward pass included; default: on for the CPU, off "
        "for CUDA, where they cost speed and the summary then says that the run isn't reproducible",
    )
    gpu_prefetch: bool = _setting(
        "training",
        False,
        "bring the next batch onto the CUDA device on a stream of its own, while the present one is trained on",
    )
    compile: str = _setting(
        "training",
        "off",
        "torch.compile; blocks: those of runs of equal blocks, by shared graphs",
        ("off", "blocks"),
    )
    graphs: bool = _setting(
        "training",
        False,
        "whole training steps as CUDA graphs: recorded once for a network and a form of batches, then replayed",
    )
    smoothing: float = _setting("training", 0.05, "weight of the newest step in smoothed losses")
    on_nonfinite: str = _setting("training", "stop", "what a NaN or infinite loss does", ("stop", "rollback"))
    on_divergence: str = _setting(
        "training",
        "ignore",
        "what a loss does that has risen as far above its beginning as it had fallen below",
        ("ignore", "stop", "rollback"),
    )
    on_critical_gate: str = _setting(
        "training", "ignore", "what a gate does that failed and left its seed CRITICAL", ("ignore", "rollback")
    )
    max_rollbacks: int = _setting("training", 3, "rollbacks before the run stops")
    rollback_lr_factor: float = _setting("training", 0.5, "factor on the learning rate at each rollback")
    snapshot_every_steps: int | None = _setting(
        "training",
        None,
        "steps between snapshots in memory, to go back to; 0: none; default: 20 a run, but 100 to 1000 steps apart",
    )
    rollback_fast_deadline_s: float = _setting("training", 0.5, "longest restore from memory in seconds")
    rollback_full_deadline_s: float = _setting("training", 12.0, "longest restore from a checkpoint in seconds")

    grow: str = _setting("growth", "auto", "when to grow", ("auto", "always", "never"))
    judge: str = _setting("growth", "twin", "what a grown network is judged against", ("twin", "muted"))
    twin: str = _setting(
        "growth", "auto", "when a twin makes its steps: with the grown network, in bursts, or as memory allows", TWINS
    )
    incubate: str = _setting("growth", "none", "incubation of seeds that are not zero at first", ("none", "shadow"))
    teacher: str | None = _setting(
        "growth",
        None,
        "trained network from whose logits incubating seeds learn too: a program NAME.pt2 (esper export), or "
        "module:factory",
    )
    isolate: bool = _setting("growth", False, "keep seed gradients strictly apart from the host's")
    blend: str = _setting(
        "growth",
        "auto",
        "how a seed s joins its layer h; auto: as the policy chooses, residual: h + a s; convex: (1-a) h + a s; "
        "channel: that with shares of channels; confidence: that with shares of samples, by how sure the host is",
        ("auto", "residual", "convex", "channel", "confidence"),
    )
    blend_schedule: str = _setting(
        "growth",
        "auto",
        "course of a; auto: full at once, the seed's rate warming up, where the host doesn't hear it, else linear",
        ("auto", "linear", "sigmoid", "cosine", "warmup_hold"),
    )
    blend_steps: int | None = _setting("growth", None, "length of that course in steps; default: by the judging window")
    blend_alpha: float | None = _setting("growth", None, "a at the end of its course; default: 1")
    blend_channels: tuple[float, ...] = _setting(
        "growth", (), "shares of --blend channel, each 0 to 1, at most 64; more channels are shared out in groups"
    )
    blend_confidence: str | None = _setting(
        "growth",
        None,
        "how --blend confidence measures it: distance of the two likeliest classes, or entropy; default: margin",
        ("margin", "entropy"),
    )
    blend_gate: tuple[float, ...] | None = _setting(
        "growth", None, "slope and threshold of the gate of --blend confidence; default: 4,0.2"
    )
    blend_shares: tuple[float, ...] | None = _setting(
        "growth", None, "smallest and largest share of --blend confidence; default: 0,1"
    )
    blueprints: tuple[str, ...] = _setting("growth", (), "blueprints that may be used; default: by slot")
    library: Path | None = field(
        default=None,
        metadata=_metadata("growth", "directory of blueprints of your own; default: ~/.local/state/esper/urza"),
    )
    slots: tuple[str, ...] = _setting("growth", (), "slots that may be used; default: all that are found")
    config_widths: str = _setting(
        "growth",
        "refuse",
        "widths that a network's own configuration can't say: refuse them, or export such a network with a loader",
        ("refuse", "loader"),
    )
    window_fraction: float = _setting("growth", 0.1, "judging window as a share of the run's steps")
    incubate_fraction: float = _setting("growth", 0.08, "incubation as a share of the run's steps")
    embargo_fraction: float = _setting("growth", 0.05, "closure of a slot after a cull, as a share of the run's steps")
    fade_fraction: float = _setting("growth", 0.05, "fade of a seed without a twin, as a share of the run's steps")
    margin_relative: float | None = _setting(
        "growth", None, "smallest gain worth its cost, as a share of the twin's score; default: by task"
    )
    margin_absolute: float | None = _setting("growth", None, "smallest gain worth its cost; default: by task")
    tau: float | None = _setting("growth", None, "run-to-run deviation of the gain; default: 0.02 of the twin's score")
    min_samples: int = _setting("growth", 300, "smallest number of judging samples")
    span_width: str = _setting(
        "growth",
        SPAN_WIDTH,
        "how much a seed widens its layer: +N by N units, xF to F times its width; "
        "auto: a single seed to four times, by at most 48 units, or as learned",
    )
    min_documents: int = _setting("growth", 30, "smallest number of documents in a text's judging set")
    stack_shares: tuple[float, ...] = _setting(
        "growth", (1 / 6, 2 / 5), "shares of the run at which a language model's blocks are doubled"
    )
    stack_when: str = _setting(
        "growth",
        "shares",
        "when stacks are due: at stack_shares, at the knee of the loss, by a forecast, or as many as shares at random",
        ("shares", "knee", "forecast", "random"),
    )
    stack_ends: str = _setting(
        "growth",
        "whole",
        "layers that end the branches of doubled blocks: whole as they are, or half, so that two add as much as one",
        ("whole", "half"),
    )
    target_depth: int | None = _setting(
        "growth", None, "equal blocks of a run at the end; default: as many as the judge keeps"
    )
    stack_margin: float = _setting(
        "growth", 0.002, "gain that a stack must exceed: nats a token, Brier, or shares of the variance"
    )
    stack_error_rate: float = _setting(
        "growth", 0.02, "probability to keep a stack without such a gain, over all looks"
    )
    stack_evaluations: int = _setting(
        "growth", 8, "evaluations in the last third of a stack's window, each of a part of the judging set"
    )
    stack_clipped_share: float = _setting("growth", 0.01, "share of tokens that may lose over 2 ln V (are clipped)")
    stack_recovery_steps: int = _setting(
        "growth", 120, "steps until a stack overtakes its twin; two thirds of its window"
    )
    max_culls: int = _setting("growth", 2, "culls in a row that end growth")
    stability_limit: float = _setting("growth", 3.0, "largest rise of the loss while blending, in standard errors")
    slope_threshold: float | None = _setting(
        "growth", None, "relative fall of the loss in 100 steps below which it is flat; default: by task"
    )
    slope_window_steps: int | None = _setting(
        "growth", None, "steps over which that fall is measured; default: a twentieth of the run"
    )
    saturation_floor: float | None = _setting(
        "growth", None, "training loss that counts as saturated; default: by task"
    )
    saturation_share: float | None = _setting(
        "growth", None, "training accuracy that counts as saturated; default: by task"
    )
    growth_warmup_steps: int | None = _setting(
        "growth", None, "steps before the first seed; default: a tenth of the run"
    )

    max_parameters: int | None = _setting(
        "budget", None, "largest number of parameters of the grown network; default: no limit"
    )
    max_forward_macs: int | None = _setting(
        "budget", None, "largest forward multiply-accumulates of one sample; default: no limit"
    )
    max_training_macs: int | None = _setting(
        "budget", None, "largest multiply-accumulates of the whole run; default: no limit"
    )
    max_memory_bytes: int | None = _setting(
        "budget", None, "largest memory of parameters and optimiser of both arms; default: no limit"
    )
    max_seeds: int | None = _setting("budget", None, "largest number of seeds; default: no limit")

    evaluate_every_steps: int | None = _setting(
        "control",
        None,
        "steps between packets to the control plane; default: 10, of short steps a 200th of the run, at most 50",
    )
    control: str = _setting("control", "lag", "wait for each answer (sync) or run ahead (lag)", ("lag", "sync"))
    lag: int = _setting("control", 1, "packets between an observation and its consequences in lag mode")
    deadline_s: float = _setting("control", 30.0, "longest wait for an answer in seconds")
    latency_rules: bool = _setting("control", False, "let measured time decide; the run is then not reproducible")
    tamiyo: str = _setting("control", "spawn", "Tamiyo: spawn, HOST:PORT or unix:PATH")
    kasmina: str = _setting("control", "spawn", "Kasmina: spawn, HOST:PORT or unix:PATH")
    weatherlight: str = _setting("control", "spawn", "Weatherlight: spawn, HOST:PORT or unix:PATH")
    tls_ca: Path | None = field(default=None, metadata=_metadata("control", "PEM authority of connected services"))
    tls_cert: Path | None = field(default=None, metadata=_metadata("control", "PEM certificate of this client"))
    tls_key: Path | None = field(default=None, metadata=_metadata("control", "PEM key of that certificate"))
    otlp_endpoint: str | None = _setting("control", None, "where traces go; default: OTEL_* variables, else nowhere")

    parallel: str = _setting(
        "control", DDP, "what ranks share out: batches (ddp), or weights, gradients and moments too (shard)", PARALLEL
    )
    rank_timeout_s: float = _setting(
        "control", 120.0, "longest wait of a rank for the others in seconds, where torchrun started several"
    )

    run_dir: Path = field(default=Path("runs/latest"), metadata=_metadata("run", "directory of the run's files"))
    run_id: str | None = _setting("run", None, "name of the run; default: its directory's")
    checkpoint_every_epochs: int = _setting(
        "run", 10, "epochs between checkpoints, each with the next packet; 0: none but at an interruption"
    )
    keep_checkpoints: int = _setting("run", 2, "checkpoints that are kept")

    def __post_init__(self) -> None:
        for key, is_good, remedy in _CHECKS:
            value = getattr(self, key)
            if value is not None and not is_good(value):
                raise ConfigError(key, value, remedy)
        for setting in fields(self):
            choices, value = setting.metadata["choices"], getattr(self, setting.name)
            if choices and value is not None and value not in choices:
                raise ConfigError(setting.name, value, f"choose one of {', '.join(choices)}")
        if not self.run_name:
            raise ConfigError("run_dir", str(self.run_dir), "gives the run no name; give another, or run_id")
        _check_updates(self)
        if self.min_delta and self.patience is None:
            raise ConfigError("min_delta", self.min_delta, "is what patience waits for; give patience too")
        _check_start(self)
        _check_surgery(self)
        _check_rollback(self)
        _check_certificates(self)
        if self.batch_size < self.accumulate:
            raise ConfigError(
                "accumulate", self.accumulate, f"can't cut a batch of {self.batch_size} into as many parts"
            )
        if self.amp == "fp16" and not self.device.startswith("cuda"):
            raise ConfigError("amp", "fp16", f"needs a CUDA device, got device {self.device}; use bf16")
        if self.graphs and not self.device.startswith("cuda"):
            raise ConfigError("graphs", True, f"needs a CUDA device, got device {self.device}; leave it out")

    @property
    def run_name(self) -> str:
        """What the run is called everywhere."""
        return self.run_id or Path(os.path.abspath(self.run_dir)).name

    @property
    def is_deterministic(self) -> bool:
        """Whether the same steps are promised to give the same bits."""
        return not self.device.startswith("cuda") if self.deterministic is None else self.deterministic

    @property
    def packet_steps(self) -> int:
        """Steps between packets; of a run that is prepared they are decided (esper.tolaria.task.pace)."""
        return USUAL_PACKET_STEPS if self.evaluate_every_steps is None else self.evaluate_every_steps

    @property
    def packet_lag(self) -> int:
        """Packets between an observation and its consequences."""
        return 0 if self.control == "sync" else self.lag


def _check_surgery(config: TrainConfig) -> None:
    """Gradient surgery has several gradients, of microbatches, of losses or of seeds."""
    _check_seed_sources(config)
    if config.surgery == BY_SEEDS:
        return
    if config.surgery != BY_LOSSES:
        if config.pcgrad and config.accumulate < 2:
            raise ConfigError("pcgrad", True, f"needs accumulate >= 2, got {config.accumulate}")
        return
    if not config.pcgrad:
        raise ConfigError("surgery", config.surgery, "says how pcgrad works; give pcgrad too")
    if config.accumulate > 1:
        raise ConfigError("accumulate", config.accumulate, "surgery between losses takes whole batches; leave it out")
    if config.compile != "off":
        remedy = "compiled blocks can't be passed backward once for each loss; leave it out, or --surgery losses"
        raise ConfigError("compile", config.compile, remedy)


def _check_seed_sources(config: TrainConfig) -> None:
    """What splits a gradient by the seeds that it came through has seeds, in passes that keep their graph."""
    by_seeds = config.surgery == BY_SEEDS
    if config.seed_weights != EQUAL and not by_seeds:
        raise ConfigError("seed_weights", config.seed_weights, "says how surgery weighs seeds; give --surgery seeds")
    for key, value, is_wished in (
        ("surgery", config.surgery, by_seeds),
        ("seed_conflicts", True, config.seed_conflicts),
    ):
        if not is_wished:
            continue
        if key == "surgery" and not config.pcgrad:
            raise ConfigError(key, value, "says how pcgrad works; give pcgrad too")
        if key == "seed_conflicts" and config.pcgrad and not by_seeds:
            raise ConfigError(
                key, value, f"surgery between {config.surgery} leaves no such parts; give --surgery seeds"
            )
        if config.grow == "never":
            raise ConfigError(key, value, "there are no seeds in a run that never grows; leave it out")
        if config.isolate:
            raise ConfigError(key, value, "isolated seeds pull at nothing in the host; leave --isolate out")
        if config.compile != "off":
            raise ConfigError(key, value, "compiled blocks can't be passed backward once for each seed; leave one out")


def _check_rollback(config: TrainConfig) -> None:
    """A rollback has something to go back to."""
    if config.snapshot_every_steps == 0 and config.checkpoint_every_epochs == 0:
        for key in ("on_nonfinite", "on_divergence", "on_critical_gate"):
            if getattr(config, key) == "rollback":
                remedy = "has nothing to go back to: give snapshot_every_steps or checkpoint_every_epochs above 0"
                raise ConfigError(key, "rollback", remedy)


def _check_certificates(config: TrainConfig) -> None:
    if (config.tls_cert is None) != (config.tls_key is None):
        raise ConfigError("tls_cert, tls_key", (config.tls_cert, config.tls_key), "give both or neither")
    if config.tls_cert is not None and config.tls_ca is None:
        raise ConfigError("tls_ca", None, "give the authority of the services' certificates too")


def _check_start(config: TrainConfig) -> None:
    """What a network starts from, and which of its parts learn."""
    if config.freeze and config.train_only:
        raise ConfigError("freeze, train_only", (config.freeze, config.train_only), "each says it all; give one")
    if config.init_except and config.init_from is None:
        raise ConfigError("init_except", config.init_except, "is of the weights that init_from names; give both")


def _check_updates(config: TrainConfig) -> None:
    """An optimiser and a schedule that are known, with settings that they have."""
    name = config.optimizer
    is_own = ":" in name
    if reason := REFUSED_OPTIMIZERS.get(name.lower()):
        raise ConfigError("optimizer", name, f"{reason}; choose one of {', '.join(OPTIMIZERS)}")
    if not is_own and name not in OPTIMIZERS:
        raise ConfigError("optimizer", name, f"choose one of {', '.join(OPTIMIZERS)}, or give module:function")
    given = {key: getattr(config, key) for key in ("momentum", "beta2", "nesterov")}
    if is_own:
        given |= {"weight_decay": config.weight_decay or None, "decay_rule": config.decay_rule != "all"}
    taken = OPTIMIZERS.get(name, frozenset())
    for key, value in given.items():
        if key not in taken and value is not None and value is not False:
            owner = "decides that itself" if is_own else "has no such setting"
            raise ConfigError(key, getattr(config, key), f"{name} {owner}; leave it out")
    if config.decay_rule != "all" and config.weight_decay == 0:
        raise ConfigError(
            "decay_rule", config.decay_rule, "there is no weight decay to hold for them; give weight_decay"
        )
    if config.nesterov and config.momentum == 0:
        raise ConfigError("nesterov", True, "needs a momentum above 0")
    if ":" not in config.schedule and config.schedule not in SCHEDULES:
        raise ConfigError("schedule", config.schedule, f"choose one of {', '.join(SCHEDULES)}, or give module:function")
    if config.schedule == "constant" and config.decay_fraction:
        raise ConfigError("decay_fraction", config.decay_fraction, "a constant schedule has none; leave it out")


def span_growth(text: str) -> dict[str, Any] | None:
    """`+N` as span_units, `xF` as span_factor, in the bounds of the blueprints; nothing for auto, None for all else."""
    if text == SPAN_WIDTH:
        return {}
    units, factor = re.fullmatch(r"\+(\d{1,4})", text), re.fullmatch(r"x(\d{1,2}(?:\.\d{1,6})?)", text)
    if units and 1 <= int(units[1]) <= 1024:
        return {"span_units": int(units[1])}
    if factor and 1 < float(factor[1]) <= 16:
        return {"span_factor": float(factor[1])}
    return None


def weights_of(text: str) -> tuple[float, ...] | None:
    """The numbers of `A,B,...`; None for anything else, and where one isn't a positive number."""
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        return None
    return weights if all(0 < weight < float("inf") for weight in weights) else None


def _at_least(least: float) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value >= least), f"must be at least {least:g}"


def _at_most(most: int) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value <= most), f"must be at most {most:,}"


def _share(low: float, high: float) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: low <= value <= high), f"must lie between {low:g} and {high:g}"


def _positive(most: float = inf) -> tuple[Callable[[Any], bool], str]:
    bound = "" if most == inf else f" of at most {most:.0f}"
    return (lambda value: 0 < value <= most and value < inf), f"must be a positive number{bound}"


_COUNTS = (
    *("samples", "context", "batch_size", "epochs", "accumulate", "threads", "min_samples", "max_culls", "lag"),
    *("evaluate_every_steps", "keep_checkpoints", "slope_window_steps", "depth", "width", "heads"),
    *("patience", "vocabulary", "steps", "steps_per_epoch", "target_depth", "stack_recovery_steps", "min_documents"),
    "blend_steps",
)
_AMOUNTS = ("max_parameters", "max_forward_macs", "max_training_macs", "max_memory_bytes")
_NOT_NEGATIVE = (
    *("seed", "weight_decay", "warmup_steps", "max_rollbacks", "margin_relative", "margin_absolute", "tau"),
    *("growth_warmup_steps", *_AMOUNTS),
    *("max_seeds", "checkpoint_every_epochs", "stack_margin", "min_delta", "snapshot_every_steps"),
    "seed_layer_topk",
)
# The largest whole numbers: no product of two counts overflows a message, and what is built one by one gets built.
_LARGEST = {
    **dict.fromkeys((*_COUNTS, "warmup_steps", "growth_warmup_steps", "max_seeds", "snapshot_every_steps"), 10**9),
    **dict.fromkeys(("max_rollbacks", "checkpoint_every_epochs", "seed_layer_topk", "stack_evaluations"), 10**9),
    **dict.fromkeys((*_AMOUNTS, "ignore_index"), 2**63 - 1),
    "seed": 2**64 - 1,
    "threads": 1024,
    "depth": 10_000,
    "target_depth": 10_000,
}
_FINITE = ("min_delta", "weight_decay", "margin_relative", "margin_absolute", "tau", "stack_margin")
_POSITIVE = (
    "lr",
    "clip_norm",
    "stability_limit",
    "slope_threshold",
    "saturation_floor",
    "hook_budget_ms",
    "epoch_budget_ms",
)
_SECONDS = ("deadline_s", "rank_timeout_s", "rollback_fast_deadline_s", "rollback_full_deadline_s")
_CHECKS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    *((key, *_at_least(1)) for key in _COUNTS),
    *((key, *_at_least(0)) for key in _NOT_NEGATIVE),
    *((key, *_at_most(most)) for key, most in _LARGEST.items()),
    ("ignore_index", lambda label: label >= -(2**63), f"must be at least {-(2**63):,}"),
    *((key, *_positive()) for key in _POSITIVE),
    *((key, *_positive(longest(key))) for key in _SECONDS),
    *((key, isfinite, "must be a finite number") for key in _FINITE),
    ("hidden", lambda widths: all(width >= 1 for width in widths), "every width must be at least 1"),
    ("dropout", *_share(0.0, 0.95)),
    ("momentum", *_share(0.0, 0.9999)),
    ("beta2", *_share(0.0, 0.999999)),
    ("ema", lambda decay: 0 < decay < 1, "must be above 0 and below 1, as 0.999"),
    ("label_smoothing", lambda share: 0 <= share < 1, "must be at least 0 and below 1"),
    (
        "class_weights",
        lambda text: text == BALANCED or weights_of(text) is not None,
        "say balanced, or a positive number for each class: A,B,...",
    ),
    ("decay_fraction", *_share(0.0, 1.0)),
    ("smoothing", *_share(1e-4, 1.0)),
    ("seed_conflict_ratio_warn", *_share(0.0, 1.0)),
    ("seed_share_jump_warn", *_share(0.0, 1.0)),
    ("rollback_lr_factor", *_share(1e-3, 1.0)),
    ("window_fraction", *_share(1e-3, 0.5)),
    ("incubate_fraction", *_share(1e-3, 0.5)),
    ("embargo_fraction", *_share(0.0, 1.0)),
    ("fade_fraction", *_share(0.0, 0.5)),
    ("saturation_share", *_share(0.0, 1.0)),
    (
        "span_width",
        lambda text: span_growth(text) is not None,
        "say auto, +N (N more units, at most 1024) or xF (F times its width, above 1, at most 16)",
    ),
    ("stack_shares", lambda shares: all(0 < share < 1 for share in shares), "every share must lie between 0 and 1"),
    ("stack_shares", lambda shares: list(shares) == sorted(set(shares)), "each must be larger than the one before"),
    ("blend_alpha", lambda alpha: 0 < alpha <= 1, "must be above 0 and at most 1"),
    (
        "blend_channels",
        lambda shares: len(shares) <= 64 and all(0 <= share <= 1 for share in shares),
        "at most 64 shares, each between 0 and 1",
    ),
    (
        "blend_gate",
        lambda gate: len(gate) == 2 and 0 < gate[0] < inf and 0 <= gate[1] <= 1,
        "give slope,threshold: a positive number, and one between 0 and 1",
    ),
    (
        "blend_shares",
        lambda bounds: len(bounds) == 2 and 0 <= bounds[0] <= bounds[1] <= 1,
        "give smallest,largest: two rising numbers between 0 and 1",
    ),
    ("stack_error_rate", *_share(1e-6, 0.5)),
    ("stack_clipped_share", *_share(0.0, 1.0)),
    ("stack_evaluations", *_at_least(3)),
)
