// What the loss chart draws: series over steps, each with the look of its kind.

import { seedColor } from "./format";
import type { Point, View } from "./types";

export interface Series {
  label: string;
  points: Point[];
  color: string;
  width: number;
  dash?: number[];
  alpha?: number;
  sets_scale: boolean;
}

export interface Window {
  seed_id: string;
  start: number;
  end: number;
  fate: string;
  color: string;
}

export type Quantity = "loss" | "accuracy";

const DASH = [5, 4];

export function seriesOf(view: View, beside: View | null, quantity: Quantity): Series[] {
  if (quantity === "accuracy") {
    const own = line("accuracy, judging data", view.loss.accuracy, "var(--judged)", 1.6);
    return beside ? [own, line("the other run's", beside.loss.accuracy, "var(--other)", 1.6)] : [own];
  }
  const { measured, trunk, judged, forks } = view.loss;
  const found: Series[] = [
    { ...line("training loss", measured, "var(--faint)", 1), sets_scale: false },
    line("judging loss", judged, "var(--judged)", 1.2),
    ...trunk.map((piece) => line("smoothed", piece, "var(--ink)", 2)),
  ];
  for (const fork of forks) {
    const isUndone = fork.fate === "CULLED";
    found.push(line(`with ${fork.seed_id}`, fork.grown, seedColor(fork.seed_id), isUndone ? 1.4 : 2.2));
    found.push({ ...line("twin, never grafted", fork.twin, "var(--ink)", isUndone ? 2 : 1.3), dash: DASH });
  }
  return beside ? [...found, ...others(beside)] : found;
}

// Of the run beside, the course that it took: its trunk and the arms that were kept.
function others(view: View): Series[] {
  const kept = view.loss.forks.map((fork) => (fork.fate === "CULLED" ? fork.twin : fork.grown));
  return [...view.loss.trunk, ...kept].map((piece) => ({ ...line("the other run", piece, "var(--other)", 2) }));
}

export const windowsOf = (view: View): Window[] =>
  view.loss.windows.map(({ seed_id, start, end, fate }) => ({ seed_id, start, end, fate, color: seedColor(seed_id) }));

function line(label: string, points: Point[], color: string, width: number): Series {
  return { label, points, color, width, sets_scale: true };
}
