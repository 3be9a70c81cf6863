// A run's view, as esper/tolaria/record/page/view.py makes it.

export type Point = [number, number | null];

export interface Fork {
  seed_id: string;
  start: number;
  end: number;
  fate: string;
  grown: Point[];
  twin: Point[];
  measured_grown: Point[];
  measured_twin: Point[];
}

export interface Life {
  seed_id: string;
  start: number;
  end: number;
  fate: string;
  reason: string;
}

export interface Look {
  step: number;
  seed_id: string;
  verdict: string;
  look: number;
  gain?: number | null;
  margin?: number | null;
  standard_error?: number | null;
  z?: number | null;
  z_threshold?: number | null;
  samples?: number | null;
  detail: string;
  sentence: string;
}

export interface Evaluation {
  seed_id: string;
  step: number;
  gain: number | null;
  standard_error: number | null;
}

export interface Clock {
  step: number[];
  macs: number[];
  seconds: number[];
}

export interface Layer {
  path: string;
  kind: string;
  before: number | null;
  now: number;
}

export interface Row {
  path: string;
  count: number;
  parameters: number;
  layers: Layer[];
}

export interface Slot {
  slot_id: string;
  kind: string;
  width?: number;
  depth?: number;
  state: string;
  seed_id: string | null;
  fold_obstacle?: string;
}

export interface Network {
  parameters: { before: number; now: number };
  rows: Row[];
  lists: { path: string; before: number; now: number }[];
  slots: Slot[];
  refused: { slot: string; reason: string }[];
}

export interface Reason {
  reason: string;
  detail: string;
  words: string;
  since_step: number | null;
  as_of_step?: number;
  step?: number;
}

export interface Incident {
  time: string | null;
  step: number | null;
  kind: string;
  name: string;
  detail: string;
}

export interface Command {
  step: number | null;
  command_id: string;
  signer: string;
  action: string;
  accepted: boolean;
  rejection: string;
  why: string;
  trace_id: string | null;
}

export interface Seed {
  seed_id: string;
  slot_id: string;
  blueprint_id: string | null;
  stage: string;
  alpha: number | null;
  is_paused: boolean;
  gain: number | null;
  gain_error: number | null;
  fate: string;
  why: string;
}

export interface View {
  run: {
    run_id: string | null;
    seed: number | null;
    data: string | null;
    model: string | null;
    optimizer: string | null;
    device: string | null;
    task: string | null;
    splits: Record<string, number> | null;
    command: string | null;
    total_steps: number | null;
    started_at: string | null;
    generations: number;
    parameters_at_first: number | null;
  };
  state: { word: string; detail: string; ended: string | null; last_event: string | null };
  progress: {
    step: number;
    parameters: number | null;
    smoothed_loss: number | null;
    accuracy: number | null;
    learning_rate: number | null;
    training_macs: number | null;
    epoch: number | null;
    val_loss: number | null;
    val_accuracy: number | null;
    val_metrics: Record<string, number> | null;
  };
  loss: {
    clock: Clock;
    measured: Point[];
    trunk: Point[][];
    judged: Point[];
    accuracy: Point[];
    windows: Life[];
    forks: Fork[];
    note: string;
  };
  network: Network | null;
  growth: { is_growing: boolean; headline: string; reason: Reason | null };
  reasons: Reason[];
  looks: Look[];
  evaluations: Evaluation[];
  last_refused: { seed_id: string; step: number; reason: string; look: Look | null } | null;
  seeds: Seed[];
  cost: {
    total: number;
    parts: Record<string, number>;
    seeds: { seed_id: string; fate: string; macs: number }[];
  } | null;
  step_time: {
    steps: number[];
    parts: Record<string, number[]>;
    mean_ms: Record<string, number> | null;
  };
  commands: Command[];
  gates: {
    step: number;
    seed_id: string;
    gate: string;
    verdict: string;
    measured: number | null;
    threshold: number | null;
    detail: string;
  }[];
  mode: { mode: string; plane: Record<string, string> | null; emergencies: Incident[] };
  incidents: Incident[];
  outcome: {
    finished: boolean;
    test_accuracy: number | null;
    test_loss: number | null;
    reproducible: boolean | null;
    reproducible_cause: string | null;
    machine: string | null;
    missed_depth: string | null;
    depths: string[];
  } | null;
}

export interface Live {
  now: string;
  last_event_age_s: number | null;
  silent_after_s: number;
  is_held: boolean;
  damaged_lines: number;
  size_bytes: number;
}

export interface Plane {
  error: string | null;
  age_s: number;
  mode?: string;
  cause?: string;
  emergencies?: { id: string; level: string; detail: string; origin: string; run: string }[];
  services?: {
    service: string;
    instance: string;
    health: string;
    is_lost: boolean;
    last_seen: string;
    summary: string;
    run: string;
  }[];
  packets?: number;
  critical?: number;
  dropped?: number;
  alerts?: { rule: string; source: string; value: number; threshold: number; severity: string; detail: string }[];
}
