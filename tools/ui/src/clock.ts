// From steps to work and time, and back: a run's clock says what had been spent at which step.

import type { Clock } from "./types";

export type Axis = "step" | "macs" | "seconds";

export function interpolated(from: number[], to: number[], at: number): number {
  const last = from.length - 1;
  if (last < 0) return at;
  if (at <= from[0]) return to[0];
  if (at >= from[last]) return to[last];
  let low = 0;
  let high = last;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (from[middle] <= at) low = middle;
    else high = middle;
  }
  const width = from[high] - from[low];
  return width > 0 ? to[low] + ((at - from[low]) / width) * (to[high] - to[low]) : to[high];
}

export const fromStep = (clock: Clock, axis: Axis, step: number): number =>
  axis === "step" ? step : interpolated(clock.step, clock[axis], step);

export const toStep = (clock: Clock, axis: Axis, at: number): number =>
  axis === "step" ? at : interpolated(clock[axis], clock.step, at);
